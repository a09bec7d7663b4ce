//! Lower clusters: the Secrets that say which there are, and a picture of what is in one.

use k8s_openapi::api::core::v1::Secret;
use kube::api::ListParams;
use kube::config::Kubeconfig;
use kube::{Api, Client};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tensile_core::labels::Labels;
use tensile_core::names;
use tensile_core::view::NodeView;
use tensile_placement::Cluster;
use tensile_placement::storage::{Keyed, Storage, Table};

use crate::connect::{self, Upper};
use crate::error::{CliError, reason};

/// Key of the kubeconfig in the Secret of a lower cluster.
pub(crate) const KUBECONFIG: &str = "kubeconfig";

/// A lower cluster, as its Secret says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LowerCluster {
    /// Value of the label [`names::CLUSTER`].
    pub(crate) id: String,
    /// Name of the Secret.
    pub(crate) secret: String,
    /// Text of the kubeconfig, or what is wrong with the Secret.
    pub(crate) kubeconfig: Result<String, String>,
    /// Whether the Secret is being deleted: the cluster is on its way out.
    pub(crate) leaving: bool,
}

/// What a lower cluster holds.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// Nodes and the pods on them.
    pub(crate) model: Cluster,
    /// Nodes, and how many of them are ready.
    pub(crate) nodes: usize,
    pub(crate) ready_nodes: usize,
    /// Pods that stand for pods of the upper cluster.
    pub(crate) our_pods: usize,
}

/// A list as the API server answers it.
#[derive(Deserialize)]
struct List<T> {
    items: Vec<T>,
}

/// What is looked at of a namespace.
#[derive(Deserialize)]
struct Namespace {
    metadata: NamespaceMetadata,
}

#[derive(Deserialize)]
struct NamespaceMetadata {
    name: String,
    #[serde(default)]
    labels: Labels,
}

/// All lower clusters, sorted by id.
pub(crate) async fn list(upper: &Upper) -> Result<Vec<LowerCluster>, CliError> {
    let secrets: Api<Secret> = Api::namespaced(upper.client.clone(), &upper.namespace);
    let labelled = ListParams::default().labels(names::CLUSTER);
    let what = format!("cannot list the Secrets of namespace {}", upper.namespace);
    let secrets = secrets.list(&labelled).await.map_err(CliError::api(what))?;
    let mut clusters: Vec<LowerCluster> = secrets.iter().map(LowerCluster::of).collect();
    clusters.sort_by(|left, right| left.id.cmp(&right.id));
    Ok(clusters)
}

// === impl LowerCluster ===

impl LowerCluster {
    fn of(secret: &Secret) -> Self {
        let name = secret.metadata.name.clone().unwrap_or_default();
        let labels = secret.metadata.labels.as_ref();
        let id = labels.and_then(|labels| labels.get(names::CLUSTER)).cloned();
        let bytes = secret.data.as_ref().and_then(|data| data.get(KUBECONFIG));
        let kubeconfig = match bytes {
            None => Err(format!("Secret {name} has no key {KUBECONFIG}")),
            Some(bytes) => String::from_utf8(bytes.0.clone())
                .map_err(|_| format!("key {KUBECONFIG} of Secret {name} is no text")),
        };
        Self {
            id: id.unwrap_or_default(),
            kubeconfig,
            leaving: secret.metadata.deletion_timestamp.is_some(),
            secret: name,
        }
    }

    /// A client with the rights of the kubeconfig; the error is what a person reads.
    pub(crate) async fn open(&self) -> Result<Client, String> {
        let text = self.kubeconfig.as_ref().map_err(Clone::clone)?;
        let kubeconfig = Kubeconfig::from_yaml(text).map_err(|error| error.to_string())?;
        connect::client(kubeconfig, None)
            .await
            .map_err(|error| error.to_string())
    }
}

// === impl Snapshot ===

impl Snapshot {
    /// Lists everything that decides where a pod fits.
    pub(crate) async fn take(client: &Client, upper_uid: &str) -> Result<Self, String> {
        let (nodes, pods, namespaces, storage) = tokio::try_join!(
            items::<NodeView>(client, "/api/v1/nodes"),
            items::<Value>(client, "/api/v1/pods"),
            items::<Namespace>(client, "/api/v1/namespaces"),
            storage(client),
        )?;
        let mut snapshot = Self {
            nodes: nodes.len(),
            ready_nodes: nodes.iter().filter(|node| node.ready).count(),
            our_pods: pods.iter().filter(|pod| is_ours(pod, upper_uid)).count(),
            ..Self::default()
        };
        *snapshot.model.storage_mut() = storage;
        for node in &nodes {
            snapshot.model.apply_node(node);
        }
        for Namespace { metadata } in &namespaces {
            snapshot.model.apply_namespace(&metadata.name, &metadata.labels);
        }
        for pod in pods {
            let pod =
                serde_json::from_value(pod).map_err(|error| format!("a pod cannot be read: {error}"))?;
            snapshot.model.apply_pod(&pod);
        }
        Ok(snapshot)
    }
}

/// Whether a lower pod stands for a pod of the upper cluster.
fn is_ours(pod: &Value, upper_uid: &str) -> bool {
    pod["metadata"]["labels"][names::ORIGIN_CLUSTER] == upper_uid
}

async fn storage(client: &Client) -> Result<Storage, String> {
    let (volumes, claims, classes, csi_nodes, drivers) = tokio::try_join!(
        items(client, "/api/v1/persistentvolumes"),
        items(client, "/api/v1/persistentvolumeclaims"),
        items(client, "/apis/storage.k8s.io/v1/storageclasses"),
        items(client, "/apis/storage.k8s.io/v1/csinodes"),
        items(client, "/apis/storage.k8s.io/v1/csidrivers"),
    )?;
    let mut storage = Storage::default();
    fill(&mut storage.volumes, volumes);
    fill(&mut storage.claims, claims);
    fill(&mut storage.classes, classes);
    fill(&mut storage.csi_nodes, csi_nodes);
    fill(&mut storage.drivers, drivers);
    Ok(storage)
}

fn fill<T: Keyed + PartialEq>(table: &mut Table<T>, objects: Vec<T>) {
    for object in objects {
        table.apply(object);
    }
}

/// All objects of a list, each read as a `T`.
pub(crate) async fn items<T: DeserializeOwned>(client: &Client, path: &str) -> Result<Vec<T>, String> {
    let wrong = |error: &dyn std::fmt::Display| format!("cannot list {path}: {error}");
    let request = http::Request::get(path)
        .body(Vec::new())
        .map_err(|error| wrong(&error))?;
    let list: List<T> = client
        .request(request)
        .await
        .map_err(|error| wrong(&reason(&error)))?;
    Ok(list.items)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_secret_says_which_cluster_it_opens_and_what_is_missing() {
        let secret = |data: serde_json::Value| {
            let secret = json!({"metadata": {"name": "s", "labels": {names::CLUSTER: "a"}}, "data": data});
            LowerCluster::of(&serde_json::from_value(secret).unwrap())
        };
        let good = secret(json!({"kubeconfig": "YQ=="}));
        assert_eq!(
            (&*good.id, &*good.secret, good.kubeconfig),
            ("a", "s", Ok("a".to_owned()))
        );
        assert_eq!(
            secret(json!({})).kubeconfig,
            Err("Secret s has no key kubeconfig".to_owned())
        );
        let bytes = secret(json!({"kubeconfig": "//8="}));
        assert!(bytes.kubeconfig.unwrap_err().ends_with("is no text"));
    }
}
