//! The kubelet API of a virtual node: which pod is where below, and the server's certificates.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use kube::Client;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use tensile_core::translate::namespace::Mapping;
use tensile_kubelet_api::auth::ApiReviews;
use tensile_kubelet_api::backend::{PodRef, ResolveError, Target, Unavailable};
use tensile_kubelet_api::usage::NodeUsage;
use tensile_kubelet_api::{Auth, Backend, Metrics, StreamConfig, Streams, client_ca, router};
use tensile_runtime::admin::Condition;
use tensile_runtime::cluster::Cluster;
use tensile_runtime::key::Key;
use tensile_runtime::serve::{Config, Metrics as ServeMetrics, Server};
use tensile_runtime::shutdown::Shutdown;
use tensile_runtime::tls::{Alpn, ClientCas, POLL_INTERVAL, Tls, follow_files, read_files};
use tensile_runtime::watch::Metrics as WatchMetrics;

use crate::api;
use crate::args::Args;
use crate::certificate::Certificate;
use crate::shared::Shared;
use crate::usage::Collector;

/// The pods of the engine that runs now; none while another process leads.
pub type Current = Arc<Mutex<Option<Arc<Shared>>>>;

/// Answers for one virtual node.
struct NodeBackend {
    name: String,
    upper: Client,
    lower: Client,
    mapping: Mapping,
    current: Current,
    usage: Collector,
}

/// A server that is ready to run: everything that can be wrong with its set-up was found.
pub struct Kubelet {
    listener: TcpListener,
    server: Server,
    backend: Arc<NodeBackend>,
    auth: Arc<Auth>,
    streams: Streams,
    metrics: Metrics,
    certificate: Certificate,
    client_cas: Arc<ClientCas>,
    upper: Client,
    ca_file: Option<(Vec<PathBuf>, Vec<Vec<u8>>)>,
}

#[derive(Deserialize)]
struct PodList {
    items: Vec<Value>,
}

// === impl NodeBackend ===

impl NodeBackend {
    async fn list(&self) -> Result<Vec<Value>, Unavailable> {
        let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", self.name);
        let list: PodList = api::read(&self.upper, &path)
            .await
            .map_err(|error| Unavailable(error.to_string()))?;
        Ok(list.items.into_iter().map(typed).collect())
    }

    /// Where the pod runs, and whether its status below shows the container.
    fn find(&self, pod: &PodRef, container: Option<&str>) -> Result<(Target, bool), ResolveError> {
        let current = self.current.lock().clone();
        let shared =
            current.ok_or_else(|| ResolveError::Unavailable("another replica runs this node".to_owned()))?;
        let key = Key::new(&pod.namespace, &pod.name);
        let state = shared.lock();
        let entry = state.pods.get(&key).ok_or(ResolveError::NoPod)?;
        let upper = entry.upper.as_ref().ok_or(ResolveError::NoPod)?;
        if pod.uid.as_deref().is_some_and(|uid| *uid != *upper.uid) {
            return Err(ResolveError::WrongUid);
        }
        let lower = entry.lower.as_ref().filter(|_| entry.belongs()).ok_or_else(|| {
            ResolveError::NotStarted(format!(
                "container \"{}\" in pod \"{}\" is waiting to start: ContainerCreating",
                container.unwrap_or_default(),
                pod.name
            ))
        })?;
        let status = lower.status.as_deref().map_or("null", RawValue::get);
        let is_shown = container.is_none_or(|container| has_status(status, container));
        let target = Target {
            client: self.lower.clone(),
            namespace: self.mapping.lower(&pod.namespace).into_owned(),
            name: pod.name.clone(),
        };
        Ok((target, is_shown))
    }

    /// Whether the upper pod has the container. Asked only when no status shows it, so hardly ever.
    async fn check_spec(&self, pod: &PodRef, container: &str) -> Result<(), ResolveError> {
        let pods = api::collection(&pod.namespace, "pods");
        let found = api::get::<Value>(&self.upper, &pods, &pod.name).await;
        let found = found.map_err(|error| ResolveError::Unavailable(error.to_string()))?;
        let found = found.ok_or(ResolveError::NoPod)?;
        has_container(&found["spec"], container)
            .then_some(())
            .ok_or(ResolveError::NoContainer)
    }
}

impl Backend for NodeBackend {
    fn node_name(&self) -> &str {
        &self.name
    }

    async fn pods(&self) -> Result<Vec<Value>, Unavailable> {
        self.list().await
    }

    async fn running_pods(&self) -> Result<Vec<Value>, Unavailable> {
        let mut pods = self.list().await?;
        pods.retain(|pod| pod["status"]["phase"] == "Running");
        Ok(pods)
    }

    async fn resolve(&self, pod: &PodRef, container: Option<&str>) -> Result<Target, ResolveError> {
        let (target, is_shown) = self.find(pod, container)?;
        if let Some(container) = container.filter(|_| !is_shown) {
            self.check_spec(pod, container).await?;
        }
        Ok(target)
    }

    async fn usage(&self) -> Result<NodeUsage, Unavailable> {
        self.usage.usage().await
    }

    async fn cadvisor(&self) -> Result<String, Unavailable> {
        self.usage.cadvisor().await
    }
}

/// Items of a list lack their type, which `/pods` shows as a kubelet does.
fn typed(mut pod: Value) -> Value {
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod
}

/// Whether a pod's status (JSON) has that of a container of any kind.
fn has_status(status: &str, container: &str) -> bool {
    let status: Value = serde_json::from_str(status).unwrap_or_default();
    let lists = [
        "containerStatuses",
        "initContainerStatuses",
        "ephemeralContainerStatuses",
    ];
    names_one(&status, &lists, container)
}

/// Whether a pod's spec has a container of any kind.
fn has_container(spec: &Value, container: &str) -> bool {
    names_one(
        spec,
        &["containers", "initContainers", "ephemeralContainers"],
        container,
    )
}

fn names_one(of: &Value, lists: &[&str], name: &str) -> bool {
    let mut items = lists
        .iter()
        .flat_map(|list| of[*list].as_array().into_iter().flatten());
    items.any(|item| item["name"] == name)
}

// === impl Kubelet ===

impl Kubelet {
    /// Binds the port and reads the certificates.
    ///
    /// # Errors
    /// When the port is taken, a file cannot be used, or the upper cluster does not tell its client CA.
    pub async fn new(
        args: &Args,
        node_ip: &str,
        upper: &Client,
        lower: &Cluster,
        current: Current,
        registry: &prometheus::Registry,
    ) -> anyhow::Result<Self> {
        let address = args.listen();
        let listener = bind(address).await?;
        let certificate = Certificate::load(args, node_ip).await?;
        let client_cas = Arc::new(ClientCas::default());
        let ca_file = load_client_ca(args, &client_cas).await?;
        let tls = Tls::new(certificate.serving.clone(), Some(client_cas.clone()), Alpn::Http1)?;
        let metrics = Metrics::register(registry)?;
        let config = Config {
            drain_timeout: args.stream_drain,
            ..Config::default()
        };
        let server = Server::new(
            Some(Arc::new(tls)),
            config,
            ServeMetrics::register(registry, "kubelet")?,
        );
        Ok(Self {
            listener,
            server,
            backend: Arc::new(NodeBackend {
                name: args.nodename.clone(),
                upper: upper.clone(),
                mapping: args.mapping(),
                lower: lower.upgrade.clone(),
                usage: Collector::new(
                    lower.client.clone(),
                    current.clone(),
                    &args.nodename,
                    args.usage_source,
                ),
                current,
            }),
            auth: Arc::new(Auth::new(
                Arc::new(ApiReviews::new(upper.clone())),
                metrics.clone(),
            )),
            streams: Streams::new(StreamConfig::default(), metrics.clone()),
            metrics,
            certificate,
            client_cas,
            upper: upper.clone(),
            ca_file,
        })
    }

    /// Serves until shutdown, then lets streams finish. `ready` is met once client certificates can be checked.
    pub async fn run(self, shutdown: Shutdown, ready: Condition, watch_metrics: WatchMetrics) {
        let router = router(self.backend, self.auth, self.streams, self.metrics);
        tokio::spawn(self.certificate.keep(self.upper.clone(), shutdown.clone()));
        let cas = self.client_cas;
        let followed = async move {
            let Some((paths, seen)) = self.ca_file else {
                return client_ca::follow(self.upper, cas, ready, watch_metrics).await;
            };
            ready.set(true);
            follow_files(paths, seen, POLL_INTERVAL, CancellationToken::new(), |files| {
                cas.set_pem(&files[0])
            })
            .await;
        };
        let stop = shutdown.token();
        tokio::spawn(async move { stop.run_until_cancelled(followed).await });
        self.server.run(self.listener, router, shutdown.token()).await;
    }
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        anyhow::anyhow!("cannot listen on --listen {address}: {error}; choose a free address")
    })
}

/// The file of the flag; without it, what the upper API server publishes is followed.
async fn load_client_ca(
    args: &Args,
    cas: &ClientCas,
) -> anyhow::Result<Option<(Vec<PathBuf>, Vec<Vec<u8>>)>> {
    let Some(file) = &args.client_ca_file else {
        return Ok(None);
    };
    let paths = vec![file.clone()];
    let files = read_files(&paths).await?;
    cas.set_pem(&files[0])?;
    Ok(Some((paths, files)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_of_every_kind_are_known_by_spec_and_status() {
        let status = json!({
            "containerStatuses": [{"name": "main"}],
            "initContainerStatuses": [{"name": "init"}],
            "ephemeralContainerStatuses": [{"name": "debugger"}],
        });
        let spec = json!({
            "containers": [{"name": "main"}],
            "initContainers": [{"name": "init"}],
            "ephemeralContainers": [{"name": "debugger"}],
        });
        for (name, wanted) in [
            ("main", true),
            ("init", true),
            ("debugger", true),
            ("other", false),
        ] {
            assert_eq!(has_status(&status.to_string(), name), wanted, "{name}");
            assert_eq!(has_container(&spec, name), wanted, "{name}");
        }
        for status in ["null", "{}", "no JSON"] {
            assert!(!has_status(status, "main"), "{status}");
        }
    }
}
