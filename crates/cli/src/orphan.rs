//! Lets lower clusters go that no virtual node runs any more: nobody else would take the finalizer off their Secrets.

use k8s_openapi::api::core::v1::{Node, Secret};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use tensile_core::names;

use crate::connect::Upper;
use crate::error::CliError;
use crate::nodes;

/// Deletes the Nodes of these clusters and takes our finalizer off their Secrets, as a virtual node does when it abandons
/// a cluster. Pods of a Node that is gone are removed by the upper cluster itself.
pub(crate) async fn release(upper: &Upper, ids: &[String]) -> Result<(), CliError> {
    let virtual_nodes: Api<Node> = Api::all(upper.client.clone());
    for node in nodes::list(upper).await? {
        if ids.contains(&node.cluster) {
            let deleted = virtual_nodes.delete(&node.name, &DeleteParams::default()).await;
            unless_gone(deleted).map_err(CliError::api(format!("cannot delete Node {}", node.name)))?;
        }
    }
    let secrets: Api<Secret> = Api::namespaced(upper.client.clone(), &upper.namespace);
    let labelled = ListParams::default().labels(names::CLUSTER);
    let what = format!("cannot list the Secrets of namespace {}", upper.namespace);
    for secret in secrets.list(&labelled).await.map_err(CliError::api(what))? {
        let name = secret.metadata.name.clone().unwrap_or_default();
        if let Some(patch) = without_finalizer(&secret, ids) {
            let patched = secrets
                .patch(&name, &PatchParams::default(), &Patch::Merge(patch))
                .await;
            unless_gone(patched).map_err(CliError::api(format!(
                "cannot take the finalizer off Secret {name}"
            )))?;
        }
    }
    Ok(())
}

/// The patch that takes our finalizer off a Secret that is being deleted, if it is of one of these clusters; it holds for
/// this version of the Secret only, so that nobody else's finalizer is lost.
fn without_finalizer(secret: &Secret, ids: &[String]) -> Option<Value> {
    let metadata = &secret.metadata;
    metadata.deletion_timestamp.as_ref()?;
    let id = metadata.labels.as_ref()?.get(names::CLUSTER)?;
    let finalizers = metadata.finalizers.as_ref()?;
    let others: Vec<&String> = finalizers
        .iter()
        .filter(|finalizer| *finalizer != names::CLUSTER_FINALIZER)
        .collect();
    let ours = ids.contains(id) && others.len() < finalizers.len();
    ours.then(|| json!({"metadata": {"resourceVersion": metadata.resource_version, "finalizers": others}}))
}

/// What is gone already needs no more doing.
fn unless_gone<T>(answer: kube::Result<T>) -> kube::Result<()> {
    match answer {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patch(id: &str, deleted: bool, finalizers: &[&str]) -> Option<Value> {
        let secret = json!({"metadata": {
            "name": "s", "resourceVersion": "7", "labels": {names::CLUSTER: id}, "finalizers": finalizers,
            "deletionTimestamp": deleted.then_some("2026-01-01T00:00:00Z"),
        }});
        without_finalizer(&serde_json::from_value(secret).unwrap(), &["a".to_owned()])
    }

    #[test]
    fn only_our_finalizer_is_taken_off_and_only_where_the_cluster_leaves() {
        let ours = names::CLUSTER_FINALIZER;
        let expected = json!({"metadata": {"resourceVersion": "7", "finalizers": ["other"]}});
        assert_eq!(patch("a", true, &["other", ours]), Some(expected));
        for (id, deleted, finalizers) in [
            ("b", true, &[ours][..]),
            ("a", false, &[ours]),
            ("a", true, &["other"]),
            ("a", true, &[]),
        ] {
            assert_eq!(
                patch(id, deleted, finalizers),
                None,
                "{id} {deleted} {finalizers:?}"
            );
        }
    }
}
