//! A changed upper pod → patches for its lower pod.
//!
//! Only what the user changed is carried down. A lower admission plugin may have changed the same fields (an image
//! from another registry, injected containers, default requests), and such drift is not fought: the annotation
//! [`names::APPLIED`] remembers what was carried down last, and a field is written only when the upper pod says
//! something new.

use serde_json::{Value, json};

use super::json::{Object, set};
use super::pod::Lower;
use super::scheduling::merge_tolerations;
use super::{fingerprint, metadata};
use crate::names;

/// Container lists whose images and resources may change while a pod runs.
const CONTAINER_LISTS: [&str; 2] = ["initContainers", "containers"];
/// What [`applied`] calls the resources of the pod as a whole; no container has this name.
const POD: &str = "";

/// Strategic merge patches (`application/strategic-merge-patch+json`), to be sent in this order: the last one
/// records that all of them arrived. Each carries the lower pod's UID as precondition.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Update {
    /// For `pods/ephemeralcontainers`.
    pub ephemeral_containers: Option<Value>,
    /// For `pods/resize`.
    pub resize: Option<Value>,
    /// For the pod itself.
    pub pod: Option<Value>,
}

/// What brings the lower pod `below`, as it was just read, to `desired`. Ask for it when [`names::INTENT`] of the
/// lower pod is not [`Lower::intent`]; fields that no API server lets change are left as they are.
#[must_use]
pub fn update(desired: &Lower, below: &Value) -> Update {
    let annotations = &below["metadata"]["annotations"];
    if annotations[names::INTENT] == *desired.intent {
        return Update::default();
    }
    let applied = annotations[names::APPLIED]
        .as_str()
        .and_then(|text| serde_json::from_str(text).ok());
    let change = Change {
        pod: &desired.pod,
        below,
        applied: applied.unwrap_or_default(),
    };
    let spec_patch = |spec: Object| {
        let uid = &below["metadata"]["uid"];
        (!spec.is_empty()).then(|| json!({"metadata": {"uid": uid}, "spec": spec}))
    };
    let mut pod = spec_patch(change.spec()).unwrap_or_default();
    pod["metadata"] = change.metadata(&desired.intent);
    Update {
        ephemeral_containers: spec_patch(ephemeral_containers(&desired.ephemeral_containers, below)),
        resize: spec_patch(change.resize()),
        pod: Some(pod),
    }
}

/// What [`names::APPLIED`] says of a lower pod with this metadata and spec: the keys that came from above, and hashes
/// of each container's image and resources.
pub(super) fn applied(metadata: &Object, spec: &Object) -> Value {
    let keys = |map: &str| -> Vec<&String> {
        let keys = metadata
            .get(map)
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(key, _)| key);
        keys.filter(|key| !key.starts_with(metadata::OURS)).collect()
    };
    let hash = |value: &Value| json!(format!("{:016x}", fingerprint(value)));
    let containers = CONTAINER_LISTS
        .into_iter()
        .filter_map(|list| spec.get(list)?.as_array())
        .flatten();
    let containers = containers.filter_map(|container| {
        let hashes = json!({"image": hash(&container["image"]), "resources": hash(&container["resources"])});
        Some((container["name"].as_str()?.to_owned(), hashes))
    });
    let mut containers: Object = containers.collect();
    set(
        &mut containers,
        POD,
        spec.get("resources")
            .map(|resources| json!({"resources": hash(resources)})),
    );
    json!({"labels": keys("labels"), "annotations": keys("annotations"), "containers": containers})
}

/// One comparison.
struct Change<'a> {
    pod: &'a Value,
    below: &'a Value,
    applied: Value,
}

// === impl Change ===

impl Change<'_> {
    /// Labels and annotations; those of the lower cluster's own stay.
    fn metadata(&self, intent: &str) -> Value {
        let mut patch = json!({"uid": self.below["metadata"]["uid"]});
        for map in ["labels", "annotations"] {
            let (desired, below) = (&self.pod["metadata"][map], &self.below["metadata"][map]);
            let members = desired.as_object().into_iter().flatten();
            let mut changed: Object = members
                .filter(|(key, value)| below.get(key) != Some(value))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect();
            let gone = self.applied[map]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str);
            for key in gone.filter(|key| desired.get(key).is_none() && below.get(key).is_some()) {
                changed.insert(key.to_owned(), Value::Null);
            }
            if !changed.is_empty() {
                patch[map] = Value::Object(changed);
            }
        }
        patch["annotations"][names::INTENT] = json!(intent);
        patch
    }

    /// The members of the spec that may change, but for resources.
    fn spec(&self) -> Object {
        let mut patch = self.containers("image");
        let (spec, below) = (&self.pod["spec"], &self.below["spec"]);
        let deadline = |spec: &Value| spec["activeDeadlineSeconds"].as_i64();
        // A deadline may be set or shortened; the lower one can be shorter for a pod that was made again.
        if let Some(wanted) =
            deadline(spec).filter(|wanted| deadline(below).is_none_or(|below| *wanted < below))
        {
            patch.insert("activeDeadlineSeconds".to_owned(), json!(wanted));
        }
        // The one change that the API allows: from a negative period to 1.
        let grace = |spec: &Value| spec["terminationGracePeriodSeconds"].as_i64();
        if grace(spec) == Some(1) && grace(below).is_some_and(|below| below < 0) {
            patch.insert("terminationGracePeriodSeconds".to_owned(), json!(1));
        }
        set(&mut patch, "tolerations", self.tolerations());
        patch
    }

    fn resize(&self) -> Object {
        let mut patch = self.containers("resources");
        let resources = &self.pod["spec"]["resources"];
        if self.is_new(POD, "resources", resources) && self.below["spec"]["resources"] != *resources {
            patch.insert("resources".to_owned(), resources.clone());
        }
        patch
    }

    /// The containers whose member `key` changed, as lists to merge by name.
    fn containers(&self, key: &str) -> Object {
        let mut patch = Object::new();
        for list in CONTAINER_LISTS {
            let desired = self.pod["spec"][list].as_array().into_iter().flatten();
            let changed = desired.filter(|container| {
                let name = container["name"].as_str().unwrap_or_default();
                let below = named(&self.below["spec"][list], name);
                self.is_new(name, key, &container[key])
                    && below.is_some_and(|below| below[key] != container[key])
            });
            let changed: Vec<_> = changed.map(|c| json!({"name": c["name"], key: c[key]})).collect();
            if !changed.is_empty() {
                patch.insert(list.to_owned(), Value::Array(changed));
            }
        }
        patch
    }

    /// Whether the upper pod says something else than when it was carried down last.
    fn is_new(&self, container: &str, key: &str, value: &Value) -> bool {
        !value.is_null()
            && self.applied["containers"][container][key] != format!("{:016x}", fingerprint(value))
    }

    /// The whole list, since it is not merged: what is below, with new tolerations added and seconds changed.
    fn tolerations(&self) -> Option<Value> {
        let list = |pod: &Value| pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
        let below = list(self.below);
        let mut tolerations = below.clone();
        merge_tolerations(&mut tolerations, list(self.pod));
        (tolerations != below).then_some(Value::Array(tolerations))
    }
}

/// The containers that the lower pod does not have yet.
fn ephemeral_containers(desired: &[Value], below: &Value) -> Object {
    let has = |name: &Value| {
        named(
            &below["spec"]["ephemeralContainers"],
            name.as_str().unwrap_or_default(),
        )
        .is_some()
    };
    let missing: Vec<_> = desired
        .iter()
        .filter(|container| !has(&container["name"]))
        .cloned()
        .collect();
    let mut patch = Object::new();
    set(
        &mut patch,
        "ephemeralContainers",
        (!missing.is_empty()).then_some(Value::Array(missing)),
    );
    patch
}

/// The element of `list` with this name.
fn named<'a>(list: &'a Value, name: &str) -> Option<&'a Value> {
    list.as_array()?.iter().find(|element| element["name"] == name)
}

#[cfg(test)]
mod tests;
