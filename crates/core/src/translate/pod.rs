//! Upper pod → lower pod.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::json::{Object, containers_mut, text};
use super::service_account::ServiceAccount;
use super::{Note, TranslateError, fingerprint, member};
use super::{downward, environment, lower_only, metadata, scheduling, service_account, update, volumes};
use crate::{names, stash};

/// What the translation knows about the virtual node and the two clusters.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// UID of the upper cluster's kube-system namespace.
    pub origin_cluster: &'a str,
    /// Name of the virtual node.
    pub node_name: &'a str,
    /// Labels of the virtual node: they resolve the ignored keys of the stash.
    pub node_labels: &'a BTreeMap<String, String>,
    /// Label keys that select virtual nodes (`--ignore-selector-keys`).
    pub ignored_keys: &'a BTreeSet<String>,
    /// Labels that stay above (`--ignore-labels`).
    pub ignore_labels: &'a [String],
    /// Namespace of the lower pod.
    pub lower_namespace: &'a str,
    /// Environment that the upper services give this pod, in order.
    pub service_env: &'a [(String, String)],
    /// Whose service account the pod has, from [`ServiceAccount::of`].
    pub service_account: ServiceAccount,
    /// What this lower cluster allows and calls things.
    pub policy: &'a Policy,
}

/// What one lower cluster allows, and what it calls things that are called differently above.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Scheduler of the lower pods; without it the lower cluster's default. The upper name is never used, since a
    /// scheduler that does not exist leaves a pod Pending for ever.
    pub scheduler_name: Option<String>,
    /// Lower PriorityClass by upper one. Other classes are left out, since one that does not exist is refused.
    pub priority_classes: BTreeMap<String, String>,
    /// Whether pods may use `hostNetwork`, `hostPID` and `hostIPC`.
    pub host_namespaces: bool,
    /// Whether pods may mount `hostPath` volumes.
    pub host_path: bool,
}

/// A lower pod, ready to be created.
#[derive(Clone, Debug, PartialEq)]
pub struct Lower {
    /// The pod, with [`names::INTENT`] among its annotations.
    pub pod: Value,
    /// Ephemeral containers, which no pod may have at its creation: they follow as an update.
    pub ephemeral_containers: Vec<Value>,
    /// What [`names::INTENT`] of the lower pod is when nothing has to be updated: 16 hex digits. With ephemeral
    /// containers that is not yet so for [`pod`](Self::pod) itself.
    pub intent: String,
    /// What the user should learn.
    pub notes: Vec<Note>,
}

// === impl Policy ===

impl Default for Policy {
    /// Leaves the decision to the lower cluster's own admission.
    fn default() -> Self {
        Self {
            scheduler_name: None,
            priority_classes: BTreeMap::new(),
            host_namespaces: true,
            host_path: true,
        }
    }
}

/// The lower pod for `upper`, an object with `metadata` and `spec`.
///
/// The intent covers everything but the service environment: that is fixed when a pod starts, so a new service
/// is no reason to update the pods of its namespace.
///
/// # Errors
/// When the pod is not one that an API server returned, its stash cannot be read, or the policy refuses it.
pub fn to_lower(upper: &Value, context: &Context<'_>) -> Result<Lower, TranslateError> {
    let upper_metadata = member(upper, "metadata")?;
    let upper_spec = member(upper, "spec")?;
    identified(upper_metadata)?;
    let constraints = stash::lower_constraints(upper, context.node_labels, context.ignored_keys)
        .map_err(TranslateError::Stash)?;
    let mut notes = Vec::new();

    let mut spec = upper_spec.clone();
    let stashed = upper["metadata"]["annotations"]
        .get(names::CLUSTER_SELECTOR)
        .is_some();
    scheduling::replace(
        &mut spec,
        constraints,
        stashed,
        context.policy.scheduler_name.as_deref(),
    );
    if let Some(hint) = upper["metadata"]["annotations"][names::PLACEMENT_HINT].as_str() {
        scheduling::prefer(&mut spec, hint);
    }
    lower_only::adapt(&mut spec, context.policy, &mut notes)?;
    volumes::adapt(&mut spec, context.policy, &mut notes)?;
    service_account::apply(&mut spec, context.service_account, text(upper_metadata, "uid"));
    environment::no_lower_services(&mut spec);

    let mut lower_metadata = upper_metadata.clone();
    metadata::strip(&mut lower_metadata);
    metadata::annotations(&mut lower_metadata);
    metadata::labels(&mut lower_metadata, context.ignore_labels, context.node_name);
    metadata::mark(&mut lower_metadata, upper_metadata, context.origin_cluster);
    lower_metadata.insert("namespace".to_owned(), json!(context.lower_namespace));

    let upper = downward::Upper {
        metadata: upper_metadata,
        spec: upper_spec,
        lower_namespace: context.lower_namespace,
        ignore_labels: context.ignore_labels,
    };
    upper.resolve(&mut lower_metadata, &mut spec);
    Ok(finish(lower_metadata, spec, context.service_env, notes))
}

/// Checks that the pod has the identity that an API server gives.
fn identified(metadata: &Object) -> Result<(), TranslateError> {
    match ["name", "namespace", "uid"]
        .into_iter()
        .find(|key| text(metadata, key).is_empty())
    {
        Some(path) => Err(TranslateError::Malformed { path }),
        None => Ok(()),
    }
}

/// Takes out the ephemeral containers, computes the intents and puts the pod together.
fn finish(
    mut metadata: Object,
    mut spec: Object,
    service_env: &[(String, String)],
    notes: Vec<Note>,
) -> Lower {
    let mut ephemeral_containers = match spec.remove("ephemeralContainers") {
        Some(Value::Array(containers)) => containers,
        _ => Vec::new(),
    };
    let created = fingerprint(&json!([metadata, spec]));
    let intent = match ephemeral_containers.as_slice() {
        [] => created,
        containers => fingerprint(&json!([created, containers])),
    };
    let applied = update::applied(&metadata, &spec).to_string();
    metadata::annotate(&mut metadata, names::APPLIED, applied);
    metadata::annotate(&mut metadata, names::INTENT, hex(created));
    let ephemeral = ephemeral_containers.iter_mut().filter_map(Value::as_object_mut);
    containers_mut(&mut spec)
        .chain(ephemeral)
        .for_each(|container| environment::inject(container, service_env));
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
    Lower {
        pod,
        ephemeral_containers,
        intent: hex(intent),
        notes,
    }
}

fn hex(hash: u64) -> String {
    format!("{hash:016x}")
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
