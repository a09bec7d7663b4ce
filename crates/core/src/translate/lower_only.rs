//! Fields that an admission plugin or controller of the lower cluster computes, and those that refer to objects
//! which exist in the upper cluster alone.

use serde_json::{Value, json};

use super::json::{Object, containers_mut, set, text};
use super::pod::Policy;
use super::{Note, TranslateError};

/// Computed by admission below from the classes; a value that differs is refused. Readiness gates are dropped since
/// nobody sets their conditions below; they count in the status of the upper pod.
const COMPUTED: [&str; 4] = ["priority", "preemptionPolicy", "overhead", "readinessGates"];

/// Members that name objects of the upper cluster's gang scheduler or evictors (alpha in Kubernetes 1.35 to 1.37).
const UPPER_OBJECTS: [&str; 4] = ["schedulingGroup", "podGroup", "workloadRef", "evictionResponders"];

/// Members that open the node to the pod.
const HOST_NAMESPACES: [&str; 3] = ["hostNetwork", "hostPID", "hostIPC"];

/// Adapts everything of this module.
pub(super) fn adapt(spec: &mut Object, policy: &Policy, notes: &mut Vec<Note>) -> Result<(), TranslateError> {
    if !policy.host_namespaces
        && let Some(field) = HOST_NAMESPACES
            .into_iter()
            .find(|key| spec.get(*key) == Some(&json!(true)))
    {
        return Err(TranslateError::Refused {
            field: field.to_owned(),
        });
    }
    for key in COMPUTED {
        spec.remove(key);
    }
    for field in UPPER_OBJECTS {
        notes.extend(spec.remove(field).map(|_| Note::Dropped { field }));
    }
    let class = policy
        .priority_classes
        .get(text(spec, "priorityClassName"))
        .map(|name| json!(name));
    set(spec, "priorityClassName", class);
    drop_resource_claims(spec, notes);
    Ok(())
}

fn drop_resource_claims(spec: &mut Object, notes: &mut Vec<Note>) {
    let Some(claims) = spec.remove("resourceClaims") else {
        return;
    };
    let names = claims
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|claim| claim["name"].as_str());
    notes.push(Note::ResourceClaims {
        names: names.map(str::to_owned).collect(),
    });
    if let Some(resources) = spec.get_mut("resources").and_then(Value::as_object_mut) {
        resources.remove("claims");
    }
    for container in containers_mut(spec) {
        if let Some(resources) = container.get_mut("resources").and_then(Value::as_object_mut) {
            resources.remove("claims");
        }
    }
}
