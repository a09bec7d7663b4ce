//! What a provider must answer, so that the library can serve the rest.

use std::future::Future;

use serde_json::{Value, json};

use crate::usage::NodeUsage;

/// A pod as a request names it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID, when the request names one. The API server never does; other callers may.
    pub uid: Option<String>,
}

/// Where a pod of this node really runs: a pod behind another API server.
#[derive(Clone)]
pub struct Target {
    /// A client of that API server that speaks HTTP/1.1 only. Upgrades need it, and followed logs must not use up
    /// the streams of an HTTP/2 connection that watches share. It carries the credentials; it must not retry or
    /// time out established streams.
    pub client: kube::Client,
    /// The pod's namespace there.
    pub namespace: String,
    /// The pod's name there.
    pub name: String,
}

/// Why a request for a pod cannot be passed on.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ResolveError {
    /// No such pod is bound to this node.
    #[error("pod does not exist")]
    NoPod,
    /// There is a pod of that name, with another UID than the request names.
    #[error("pod not found")]
    WrongUid,
    /// The pod has no container (init and ephemeral ones included) of that name.
    #[error("container not found")]
    NoContainer,
    /// The pod is known and does not run yet. The text says why, in a kubelet's words, such as
    /// `container "c" in pod "p" is waiting to start: ContainerCreating`.
    #[error("{0}")]
    NotStarted(String),
    /// The pod cannot be looked up or reached now. The text is shown to the user.
    #[error("{0}")]
    Unavailable(String),
}

/// A question cannot be answered now. The text is shown to the user with status 503.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct Unavailable(pub String);

/// One node, as the kubelet API shows it.
///
/// Methods are called concurrently, once per request, after authentication and authorization. They must be
/// cancel-safe: a caller that leaves drops the future. None may block the executor.
pub trait Backend: Send + Sync + 'static {
    /// The node's name. It must not change: authorization is asked for `nodes/<this name>`.
    fn node_name(&self) -> &str;

    /// The pods bound to this node, as `v1.Pod` objects with the identities (name, namespace, UID) of the cluster
    /// that the node belongs to. Order does not matter. Served at `/pods`.
    ///
    /// # Errors
    /// When the list is not known now; a partial list must not be returned as if it were whole.
    fn pods(&self) -> impl Future<Output = Result<Vec<Value>, Unavailable>> + Send;

    /// The pods that run now, with the same identities as [`Backend::pods`]. Served at `/runningpods/`.
    ///
    /// # Errors
    /// As for [`Backend::pods`].
    fn running_pods(&self) -> impl Future<Output = Result<Vec<Value>, Unavailable>> + Send;

    /// Where `pod` runs. When `pod.uid` is set it must match; when `container` is set the pod must have it. Called
    /// before logs, exec, attach and port-forward; a wrong answer here shows one user's pod to another.
    ///
    /// # Errors
    /// See [`ResolveError`]; each variant becomes the status and text that a kubelet would send.
    fn resolve(
        &self,
        pod: &PodRef,
        container: Option<&str>,
    ) -> impl Future<Output = Result<Target, ResolveError>> + Send;

    /// CPU and memory of the node and its pods, for `/metrics/resource` and `/stats/summary`. Pods and containers
    /// without a figure are left out; figures are never made up. CPU counters never go back while a container
    /// lives: metrics-server takes a smaller value for a restart.
    ///
    /// # Errors
    /// When nothing is known at all; `/metrics/resource` then reports a scrape error, as a kubelet does.
    fn usage(&self) -> impl Future<Output = Result<NodeUsage, Unavailable>> + Send;

    /// Text for `/metrics/cadvisor`, in the Prometheus text format 0.0.4. Empty by default.
    ///
    /// # Errors
    /// When the text cannot be had now.
    fn cadvisor(&self) -> impl Future<Output = Result<String, Unavailable>> + Send {
        std::future::ready(Ok(String::new()))
    }

    /// The `KubeletConfiguration` shown at `/configz`. By default only its kind, version and that of anonymous
    /// authentication, which this library never allows.
    fn configz(&self) -> Value {
        json!({
            "kind": "KubeletConfiguration",
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "authentication": {"anonymous": {"enabled": false}, "webhook": {"enabled": true}},
            "authorization": {"mode": "Webhook"},
        })
    }

    /// Whether the node's engine works; the text of an error is not shown to callers, only logged.
    ///
    /// # Errors
    /// When `/healthz` and `/healthz/syncloop` shall answer 500.
    fn healthz(&self) -> Result<(), String> {
        Ok(())
    }
}

// === impl Target ===

impl Target {
    /// Path of one of the pod's subresources, such as `log`.
    pub(crate) fn path(&self, subresource: &str) -> String {
        format!(
            "/api/v1/namespaces/{}/pods/{}/{subresource}",
            self.namespace, self.name
        )
    }
}
