//! Metadata: what identifies the pod in one cluster goes, what describes it stays, and the way back to the origin
//! is added.

use serde_json::{Value, json};

use super::json::{Object, edit, set, text};
use crate::names;

/// Members that belong to one object of one cluster. Owner references would make the lower garbage collector
/// delete the pod, finalizers would keep it for ever.
const OF_ONE_OBJECT: [&str; 11] = [
    "generateName",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "managedFields",
    "selfLink",
    "ownerReferences",
    "finalizers",
];

/// Annotations with this prefix are ours: instructions for the upper cluster, or marks of a copy.
pub(super) const OURS: &str = "tensile.dev/";
/// Marks of static pods; API servers refuse them on pods that others create.
const STATIC_POD: &str = "kubernetes.io/config.";
/// kubectl's own copy of the upper manifest. Below it is only weight (up to 256 KiB), it changes with every `apply`,
/// and it would mislead a `kubectl apply` against the lower cluster.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Removes what belongs to the upper object alone.
pub(super) fn strip(metadata: &mut Object) {
    for key in OF_ONE_OBJECT {
        metadata.remove(key);
    }
}

/// Adds the way back from a lower object to the one with the metadata `upper` in the cluster `origin_cluster`.
pub(super) fn mark(lower: &mut Object, upper: &Object, origin_cluster: &str) {
    edit(lower, "labels", |labels| {
        labels.insert(names::ORIGIN_CLUSTER.to_owned(), json!(origin_cluster));
        labels.insert(names::ORIGIN_UID.to_owned(), json!(text(upper, "uid")));
    });
    annotate(
        lower,
        names::ORIGIN,
        format!("{}/{}", text(upper, "namespace"), text(upper, "name")),
    );
}

/// The metadata of a copy that is no pod; its intent is the original's resourceVersion.
pub(super) fn copy(upper: &Object, origin_cluster: &str, lower_namespace: &str) -> Object {
    let mut lower = upper.clone();
    strip(&mut lower);
    annotations(&mut lower);
    edit(&mut lower, "labels", |labels| {
        labels.retain(|key, _| !key.starts_with(OURS));
    });
    mark(&mut lower, upper, origin_cluster);
    annotate(
        &mut lower,
        names::INTENT,
        text(upper, "resourceVersion").to_owned(),
    );
    lower.insert("namespace".to_owned(), json!(lower_namespace));
    lower
}

/// Labels of the lower pod: the upper ones, less those of `ignore_labels`, which move to an annotation so that
/// readers of tensile-kube's copies find them, plus the virtual node.
pub(super) fn labels(metadata: &mut Object, ignore_labels: &[String], node_name: &str) {
    let mut tripped = Object::new();
    edit(metadata, "labels", |labels| {
        labels.retain(|key, _| !key.starts_with(OURS));
        tripped = ignore_labels
            .iter()
            .filter_map(|key| labels.remove_entry(key))
            .collect();
        labels.insert(names::ORIGIN_NODE.to_owned(), json!(node_name));
    });
    if !tripped.is_empty() {
        annotate(
            metadata,
            names::TRIPPED_LABELS,
            Value::Object(tripped).to_string(),
        );
    }
}

/// Annotations of a copy: the upper ones, less those that say nothing there. The stash has been read by now; left
/// in place, a Tensile below would take it for its own.
pub(super) fn annotations(metadata: &mut Object) {
    edit(metadata, "annotations", |annotations| {
        annotations.retain(|key, _| is_copied(key));
    });
}

/// Sets one annotation.
pub(super) fn annotate(metadata: &mut Object, key: &str, value: String) {
    edit(metadata, "annotations", |annotations| {
        set(annotations, key, Some(Value::String(value)));
    });
}

/// Whether an upper annotation reaches the copy.
pub(super) fn is_copied(key: &str) -> bool {
    !key.starts_with(OURS)
        && !key.starts_with(STATIC_POD)
        && key != LAST_APPLIED
        && key != names::CLUSTER_SELECTOR
}
