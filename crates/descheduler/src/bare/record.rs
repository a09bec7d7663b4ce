//! What must be known of a pod to make it again.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tensile_core::names;
use tensile_core::owners::controller;

/// Members of the metadata that a copy cannot or must not have: the API server's own, and what holds the old pod back.
const OF_OBJECT: [&str; 10] = [
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
    "managedFields",
    "finalizers",
    "generateName",
];
/// Members of the spec that are decided when a pod is placed, or come later than its creation.
const OF_PLACE: [&str; 2] = ["nodeName", "ephemeralContainers"];

/// A pod that is moved, as it is to be made again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Record {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name, before and after.
    pub(crate) name: String,
    /// Its UID before.
    pub(crate) uid: String,
    /// The version that was read: only this one is evicted.
    pub(crate) resource_version: String,
    /// The pod to be made.
    pub(crate) pod: Value,
    /// The version under which the record itself is stored.
    #[serde(skip)]
    pub(crate) stored: Option<String>,
}

// === impl Record ===

impl Record {
    /// Of a pod as the API server gave it; `None` if it is not the one with this UID, is going already, or has an owner
    /// that makes it again.
    pub(crate) fn of(pod: Value, uid: &str) -> Option<Self> {
        let metadata = &pod["metadata"];
        let owned = controller(metadata).is_some();
        if metadata["uid"] != uid || metadata["deletionTimestamp"].is_string() || owned {
            return None;
        }
        let text = |value: &Value| value.as_str().map(str::to_owned);
        Some(Self {
            namespace: text(&metadata["namespace"])?,
            name: text(&metadata["name"])?,
            uid: uid.to_owned(),
            resource_version: text(&metadata["resourceVersion"])?,
            pod: successor(pod),
            stored: None,
        })
    }

    /// `namespace/name`.
    pub(crate) fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// The pod to be made in its place.
fn successor(mut pod: Value) -> Value {
    let uid = pod["metadata"]["uid"].clone();
    remove(&mut pod["metadata"], &OF_OBJECT);
    remove(&mut pod["spec"], &OF_PLACE);
    remove(&mut pod, &["status"]);
    let annotations = &mut pod["metadata"]["annotations"];
    if !annotations.is_object() {
        *annotations = json!({});
    }
    remove(annotations, &[names::PLACEMENT_HINT]);
    if annotations.get(names::MOVED_FROM).is_none() {
        annotations[names::MOVED_FROM] = uid;
    }
    pod
}

fn remove(object: &mut Value, members: &[&str]) {
    let mut empty = Map::new();
    let object = object.as_object_mut().unwrap_or(&mut empty);
    object.retain(|member, _| !members.contains(&member.as_str()));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_pod() -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "namespace": "ns", "name": "p", "uid": "u", "resourceVersion": "7", "generation": 2,
                "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": [{}], "finalizers": ["x/y"],
                "labels": {"app": "a"}, "annotations": {"own": "1", names::PLACEMENT_HINT: "n"}
            },
            "spec": {"nodeName": "va", "containers": [{"name": "c"}], "ephemeralContainers": [{}], "priority": 3},
            "status": {"phase": "Pending"}
        })
    }

    #[test]
    fn what_the_user_wrote_survives_and_what_was_decided_does_not() {
        let record = Record::of(mk_pod(), "u").unwrap();
        assert_eq!((&*record.key(), &*record.resource_version), ("ns/p", "7"));
        let made = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "namespace": "ns", "name": "p", "labels": {"app": "a"},
                "annotations": {"own": "1", names::MOVED_FROM: "u"}
            },
            "spec": {"containers": [{"name": "c"}], "priority": 3}
        });
        assert_eq!(record.pod, made);
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
    }

    #[test]
    fn a_pod_that_was_moved_before_is_known_by_the_first() {
        let mut pod = Record::of(mk_pod(), "u").unwrap().pod;
        pod["metadata"]["uid"] = json!("second");
        pod["metadata"]["resourceVersion"] = json!("9");
        let again = Record::of(pod, "second").unwrap();
        let origin = &again.pod["metadata"]["annotations"][names::MOVED_FROM];
        assert_eq!((&*again.uid, origin), ("second", &json!("u")));
    }

    #[test]
    fn pods_that_go_are_others_or_have_an_owner_are_not_recorded() {
        assert_eq!(Record::of(mk_pod(), "other"), None);
        for (member, value) in [
            ("deletionTimestamp", json!("2026-01-01T00:00:00Z")),
            ("ownerReferences", json!([{"uid": "o", "controller": true}])),
        ] {
            let mut pod = mk_pod();
            pod["metadata"][member] = value;
            assert_eq!(Record::of(pod, "u"), None, "{member}");
        }
        let mut loose = mk_pod();
        loose["metadata"]["ownerReferences"] = json!([{"uid": "o"}]);
        assert!(
            Record::of(loose, "u").is_some(),
            "its owner does not make it again"
        );
    }
}
