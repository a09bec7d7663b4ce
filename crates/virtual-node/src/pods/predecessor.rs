//! Policy `never-duplicate`: nothing may replace a pod before it is known to be gone.
//!
//! A ReplicaSet makes a replacement as soon as a pod is being deleted, whoever asked for that, and while the cluster of
//! the old pod is silent nobody knows whether it still runs. So it is the virtual node of the replacement that waits:
//! the upper pod exists until its own virtual node has seen the end of the lower one. A pod that is deleted by force,
//! or with its Node, counts as gone: whoever does that vouches for it, as with Kubernetes' StatefulSets.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use tensile_runtime::object::{Pods, Slim};

use super::Body;
use crate::api::{self, ApiError};
use crate::context::Context;
use tensile_core::names;
use tensile_runtime::key::Key;

/// How often a pod that waits looks whether it may run: one list of its namespace.
pub(super) const INTERVAL: Duration = Duration::from_secs(3);

/// A pod of the same namespace, as far as this looks at it.
type Sibling = Slim<Pods, Spec, Value>;

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
}

#[derive(Deserialize)]
struct List {
    items: Vec<Sibling>,
}

/// Name of the pod that the upper pod `key` with `uid` must not run beside, if there is one.
///
/// # Errors
/// As the upper cluster answers.
pub(super) async fn of(
    context: &Context,
    key: &Key,
    uid: &str,
    body: &Body,
) -> Result<Option<String>, ApiError> {
    let Some(owner) = owner(body) else {
        return Ok(None);
    };
    let list: List = api::read(&context.upper, &api::collection(&key.namespace, "pods")).await?;
    Ok(still_ending(owner, uid, &list.items).map(str::to_owned))
}

/// UID of the controller whose pods must not run side by side while one of them ends.
fn owner(body: &Body) -> Option<&str> {
    let metadata = body.metadata();
    let policy = metadata.annotations.as_ref()?.get(names::WHEN_UNREACHABLE)?;
    if policy != names::NEVER_DUPLICATE {
        return None;
    }
    let mut owners = metadata.owner_references.iter().flatten();
    let controller = owners.find(|owner| owner.controller == Some(true))?;
    Some(&controller.uid)
}

/// Another pod of `owner` that is being deleted and was given to a node, and is not known to have ended.
fn still_ending<'a>(owner: &str, uid: &str, siblings: &'a [Sibling]) -> Option<&'a str> {
    let ending = siblings.iter().find(|sibling| {
        let metadata = &sibling.metadata;
        let mut owners = metadata.owner_references.iter().flatten();
        let phase = sibling
            .status
            .as_ref()
            .and_then(|status| status["phase"].as_str());
        metadata.uid.as_deref() != Some(uid)
            && metadata.deletion_timestamp.is_some()
            && owners.any(|other| other.controller == Some(true) && other.uid == owner)
            && sibling.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())
            && !matches!(phase, Some("Succeeded" | "Failed"))
    })?;
    ending.metadata.name.as_deref()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_sibling(change: &Value) -> Sibling {
        let mut pod = json!({
            "metadata": {"name": "old", "uid": "u0", "deletionTimestamp": "2026-01-01T00:00:00Z",
                "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "o", "controller": true}]},
            "spec": {"nodeName": "vn"}, "status": {"phase": "Running"},
        });
        json_patch::merge(&mut pod, change);
        serde_json::from_str(&pod.to_string()).unwrap()
    }

    #[test]
    fn only_a_placed_sibling_that_is_being_deleted_and_has_not_ended_is_waited_for() {
        let other = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": "x", "controller": true}]);
        let cases = [
            (json!({}), Some("old")),
            (json!({"metadata": {"deletionTimestamp": null}}), None),
            (json!({"metadata": {"uid": "u1"}}), None),
            (json!({"metadata": {"ownerReferences": other}}), None),
            (json!({"spec": {"nodeName": null}}), None),
            (json!({"status": {"phase": "Failed"}}), None),
        ];
        for (change, expected) in cases {
            assert_eq!(
                still_ending("o", "u1", &[mk_sibling(&change)]),
                expected,
                "{change}"
            );
        }
    }

    #[test]
    fn only_owned_pods_of_that_policy_wait() {
        let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "rs", "uid": "o", "controller": true}]);
        let cases = [
            ("never-duplicate", owner.clone(), Some("o")),
            ("stay", owner, None),
            ("never-duplicate", json!([]), None),
        ];
        for (policy, owners, expected) in cases {
            let metadata =
                json!({"annotations": {"tensile.dev/when-unreachable": policy}, "ownerReferences": owners});
            let spec = serde_json::value::RawValue::from_string("{}".to_owned()).unwrap();
            let body = Body::new(serde_json::from_value(metadata).unwrap(), spec);
            assert_eq!(super::owner(&body), expected, "{policy}");
        }
    }
}
