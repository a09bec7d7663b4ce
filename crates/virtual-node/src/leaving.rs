//! How a lower cluster leaves: its pods are evicted, what is left below is removed, its Nodes and the finalizer go.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::sync::watch;

use tensile_core::names;
use tensile_runtime::clusters::Config;
use tensile_runtime::object::{Meta, Namespaces};

use crate::api::{self, ApiError};

/// Time between looks at what is left, and between attempts at an eviction that a PDB holds up; kubectl drain's is 5 s.
const INTERVAL: Duration = Duration::from_secs(5);
/// Name under which the finalizer is ours.
const FIELD_MANAGER: &str = "tensile-clusters";
/// Kinds of copies that go with the cluster. Claims and their data stay: what holds data is not removed unasked.
const COPIES: [(&str, &str); 4] = [
    ("/api/v1", "configmaps"),
    ("/api/v1", "secrets"),
    ("/api/v1", "services"),
    ("/apis/discovery.k8s.io/v1", "endpointslices"),
];

/// What the Secret of a cluster asks for.
#[derive(Clone, Debug)]
pub struct Wish {
    /// What it says.
    pub config: Arc<Config>,
    /// Whether it is being deleted.
    pub leaving: bool,
}

/// The way out of one cluster.
pub struct Leaving {
    upper: Client,
    lower: Client,
    origin_cluster: String,
    nodes: Vec<String>,
    /// `None` for a cluster that does not come from a Secret: it never leaves.
    wish: Option<watch::Receiver<Wish>>,
}

#[derive(Deserialize)]
struct List<T> {
    items: Vec<T>,
}

type Object = Meta<Namespaces>;

// === impl Leaving ===

impl Leaving {
    /// For the virtual nodes `nodes` of a cluster.
    #[must_use]
    pub fn new(
        upper: Client,
        lower: Client,
        origin_cluster: &str,
        nodes: Vec<String>,
        wish: Option<watch::Receiver<Wish>>,
    ) -> Self {
        Self {
            upper,
            lower,
            origin_cluster: origin_cluster.to_owned(),
            nodes,
            wish,
        }
    }

    /// The Secret of the cluster, with which its Lease goes.
    #[must_use]
    pub fn owner(&self) -> Option<OwnerReference> {
        let wish = self.wish.as_ref()?;
        Some(wish.borrow().config.secret.as_owner())
    }

    /// Puts our finalizer on the Secret, then waits until it is being deleted and the cluster is empty, or until it is
    /// to be abandoned.
    pub async fn drain(&self) {
        let Some(wish) = self.wish.clone() else {
            return std::future::pending().await;
        };
        let now = wish.borrow().clone();
        self.finalizer(&now, true).await;
        let mut abandoned = wish.clone();
        let emptied = async {
            let mut wish = wish;
            if wish.wait_for(|wish| wish.leaving).await.is_err() {
                std::future::pending::<()>().await;
            }
            tracing::info!(nodes = ?self.nodes, "the lower cluster leaves: evicting its pods");
            self.until_done("cordon", || self.cordon()).await;
            self.until_done("evict pods", || self.evict()).await;
            self.until_done("remove copies", || self.remove_copies()).await;
        };
        tokio::select! {
            () = emptied => {}
            Ok(_) = abandoned.wait_for(|wish| wish.leaving && wish.config.abandon) => {
                tracing::warn!(nodes = ?self.nodes, "the lower cluster is abandoned: nothing is removed there");
            }
        }
    }

    /// Removes the Nodes and our finalizer. Their publishers must have ended.
    pub async fn farewell(&self) {
        let Some(wish) = &self.wish else { return };
        self.until_done("delete nodes", || self.delete_nodes()).await;
        let wish = wish.borrow().clone();
        self.finalizer(&wish, false).await;
    }

    /// Repeats `step` until it says that nothing is left to do.
    async fn until_done<F>(&self, what: &str, step: impl Fn() -> F)
    where
        F: Future<Output = Result<bool, ApiError>>,
    {
        let mut reported = String::new();
        loop {
            match step().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    let text = error.to_string();
                    if reported != text {
                        tracing::warn!(nodes = ?self.nodes, what, %error, "leaving is held up, trying on");
                    }
                    reported = text;
                }
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }

    async fn cordon(&self) -> Result<bool, ApiError> {
        for node in &self.nodes {
            let patch = json!({"spec": {"unschedulable": true}});
            match api::merge::<IgnoredAny>(&self.upper, "/api/v1/nodes", node, &patch).await {
                Ok(_) | Err(ApiError::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Evicts what is not ending yet; done when no pod is left that can be evicted.
    async fn evict(&self) -> Result<bool, ApiError> {
        let mut left = false;
        for node in &self.nodes {
            let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{node}");
            let pods: List<Object> = api::read(&self.upper, &path).await?;
            for pod in pods.items.iter().filter(|pod| !belongs_to_daemon_set(pod)) {
                left = true;
                if pod.metadata.deletion_timestamp.is_none() {
                    self.evict_one(pod).await?;
                }
            }
        }
        Ok(!left)
    }

    async fn evict_one(&self, pod: &Object) -> Result<(), ApiError> {
        let (namespace, name) = (namespace(pod), name(pod));
        let eviction = json!({
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"namespace": namespace, "name": name},
            "deleteOptions": {"preconditions": {"uid": pod.metadata.uid}},
        });
        let collection = format!("{}/{name}/eviction", api::collection(namespace, "pods"));
        match api::create::<IgnoredAny>(&self.upper, &collection, &eviction).await {
            // 429 is the answer of a PDB; the pod stays until it allows the eviction.
            Ok(_) | Err(ApiError::NotFound(_) | ApiError::Transient(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes what our virtual nodes copied; done when nothing of it is left, nor a lower pod.
    async fn remove_copies(&self) -> Result<bool, ApiError> {
        let mut left = false;
        for node in &self.nodes {
            let selector = format!(
                "labelSelector={}%3D{},{}%3D{node}",
                names::ORIGIN_CLUSTER,
                self.origin_cluster,
                names::ORIGIN_NODE
            );
            let pods: List<Object> = api::read(&self.lower, &format!("/api/v1/pods?{selector}")).await?;
            left |= !pods.items.is_empty();
            for (group, plural) in COPIES {
                let list: List<Object> =
                    api::read(&self.lower, &format!("{group}/{plural}?{selector}")).await?;
                for object in &list.items {
                    left = true;
                    let collection = format!("{group}/namespaces/{}/{plural}", namespace(object));
                    let uid = object.metadata.uid.as_deref().unwrap_or_default();
                    api::delete(&self.lower, &collection, name(object), uid, None).await?;
                }
            }
        }
        Ok(!left)
    }

    async fn delete_nodes(&self) -> Result<bool, ApiError> {
        for node in &self.nodes {
            let Some(found) = api::get::<Object>(&self.upper, "/api/v1/nodes", node).await? else {
                continue;
            };
            let labels = found.metadata.labels.as_ref();
            let kind = labels.and_then(|labels| labels.get(names::NODE_TYPE));
            if kind.is_some_and(|kind| kind == names::NODE_TYPE_VALUE) {
                let uid = found.metadata.uid.as_deref().unwrap_or_default();
                api::delete(&self.upper, "/api/v1/nodes", node, uid, None).await?;
            }
        }
        Ok(true)
    }

    /// Puts the finalizer on or takes it off, whatever other finalizers there are.
    async fn finalizer(&self, wish: &Wish, held: bool) {
        if held && wish.leaving {
            return;
        }
        self.until_done("change the finalizer", || async {
            let secret = &wish.config.secret;
            let secrets: Api<Secret> = Api::namespaced(self.upper.clone(), &secret.key.namespace);
            let params = PatchParams::apply(FIELD_MANAGER).force();
            let patch = Patch::Apply(with_finalizer(wish, held));
            match secrets
                .patch(&secret.key.name, &params, &patch)
                .await
                .map_err(ApiError::from)
            {
                // Gone, or another one of that name: nothing to hold.
                Ok(_) | Err(ApiError::NotFound(_) | ApiError::Conflict(_)) => Ok(true),
                Err(error) => Err(error),
            }
        })
        .await;
    }
}

/// The Secret as far as it is ours. The UID keeps the server from making a new one.
fn with_finalizer(wish: &Wish, held: bool) -> Value {
    let secret = &wish.config.secret;
    let finalizers: &[&str] = if held { &[names::CLUSTER_FINALIZER] } else { &[] };
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {
            "namespace": *secret.key.namespace, "name": *secret.key.name, "uid": secret.uid,
            "finalizers": finalizers,
        },
    })
}

fn namespace(object: &Object) -> &str {
    object.metadata.namespace.as_deref().unwrap_or_default()
}

fn name(object: &Object) -> &str {
    object.metadata.name.as_deref().unwrap_or_default()
}

/// Its controller would replace it at once, and no virtual node runs it.
fn belongs_to_daemon_set(pod: &Object) -> bool {
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    owners
        .iter()
        .any(|owner| owner.kind == "DaemonSet" && owner.controller == Some(true))
}
