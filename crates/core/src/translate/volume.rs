//! The upper PersistentVolume of a claim that the lower cluster provisions.
//!
//! The upper scheduler chooses a virtual node for a claim that waits for its first consumer, and waits until the claim
//! is bound before it binds the pod. The lower cluster waits for the pod. So the upper claim is bound at once, to a
//! volume that stands for whatever the lower cluster will provision: it ties every pod that uses the claim to the
//! virtual node, and nothing mounts it above.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::json::{Object, set, text};
use super::{TranslateError, member};
use crate::names;

/// Set by the scheduler: the node for which to provision.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Set by the volume controller: who is to provision, from the StorageClass.
pub(super) const PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// Set by a provisioner on its volumes.
const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";

/// What becomes of the lower claim when nobody claims the upper volume any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reclaim {
    /// It is deleted, and then the upper volume.
    Delete,
    /// It stays, for somebody to take the data.
    Retain,
}

/// Whether a claim with these annotations waits, or waited, for a volume on the virtual node `node_name`.
#[must_use]
pub fn is_selected(annotations: &BTreeMap<String, String>, node_name: &str) -> bool {
    let is = |key: &str, value: &str| annotations.get(key).is_some_and(|found| found == value);
    is(SELECTED_NODE, node_name) && is(PROVISIONER, names::MANAGER)
}

/// Name of the volume that [`for_claim`] makes for the upper `claim`.
#[must_use]
pub fn name(claim: &Value) -> String {
    format!("pvc-{}", claim["metadata"]["uid"].as_str().unwrap_or_default())
}

/// Whether the upper `claim` waits for us to provide a volume for the virtual node `node_name`. The StorageClass has
/// [`names::MANAGER`] as provisioner.
#[must_use]
pub fn is_wanted(claim: &Value, node_name: &str) -> bool {
    let annotations = &claim["metadata"]["annotations"];
    let unbound = claim["spec"]["volumeName"]
        .as_str()
        .unwrap_or_default()
        .is_empty();
    unbound
        && claim["metadata"]["deletionTimestamp"].is_null()
        && annotations[SELECTED_NODE] == node_name
        && annotations[PROVISIONER] == names::MANAGER
}

/// Whether the upper `volume` was made by [`for_claim`].
#[must_use]
pub fn is_ours(volume: &Value) -> bool {
    volume["metadata"]["annotations"][PROVISIONED_BY] == names::MANAGER
}

/// What the reclaim policy of the upper `volume` asks for; a volume that is not ours is never deleted.
#[must_use]
pub fn reclaim(volume: &Value) -> Reclaim {
    if is_ours(volume) && volume["spec"]["persistentVolumeReclaimPolicy"] == "Delete" {
        Reclaim::Delete
    } else {
        Reclaim::Retain
    }
}

/// The upper volume for `claim` on the virtual node `node_name`, with the reclaim policy of the claim's StorageClass
/// `class`.
///
/// # Errors
/// When `claim` has no metadata or spec.
pub fn for_claim(
    claim: &Value,
    class: &Value,
    node_name: &str,
    lower_namespace: &str,
) -> Result<Value, TranslateError> {
    let (metadata, claim_spec) = (member(claim, "metadata")?, member(claim, "spec")?);
    let (namespace, name, uid) = (
        text(metadata, "namespace"),
        text(metadata, "name"),
        text(metadata, "uid"),
    );
    let mut spec = Object::new();
    for key in ["accessModes", "storageClassName", "volumeMode"] {
        set(&mut spec, key, claim_spec.get(key).cloned());
    }
    let storage = &claim["spec"]["resources"]["requests"]["storage"];
    set(&mut spec, "capacity", Some(json!({"storage": storage})));
    let policy = class["reclaimPolicy"].as_str().unwrap_or("Delete");
    set(&mut spec, "persistentVolumeReclaimPolicy", Some(json!(policy)));
    let owner = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": namespace, "name": name, "uid": uid,
    });
    set(&mut spec, "claimRef", Some(owner));
    // A local volume is the one kind that no controller of the upper cluster acts upon. Its path only tells people
    // where the data is.
    set(
        &mut spec,
        "local",
        Some(json!({"path": format!("/{}/{lower_namespace}/{name}", names::MANAGER)})),
    );
    set(&mut spec, "nodeAffinity", Some(on_node(node_name)));
    Ok(json!({
        "apiVersion": "v1",
        "kind": "PersistentVolume",
        "metadata": {
            "name": self::name(claim),
            "labels": {names::ORIGIN_NODE: node_name, names::ORIGIN_UID: uid},
            "annotations": {PROVISIONED_BY: names::MANAGER, names::ORIGIN: format!("{namespace}/{name}")},
        },
        "spec": spec,
    }))
}

fn on_node(name: &str) -> Value {
    let expression = json!({"key": names::HOSTNAME, "operator": "In", "values": [name]});
    json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_claim() -> Value {
        json!({
            "metadata": {
                "name": "data", "namespace": "shop", "uid": "u-1",
                "annotations": {SELECTED_NODE: "vnode", PROVISIONER: "tensile.dev"},
            },
            "spec": {
                "accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem", "storageClassName": "tensile",
                "resources": {"requests": {"storage": "1Gi"}},
            },
        })
    }

    #[test]
    fn a_claim_gets_a_volume_that_ties_it_to_the_virtual_node() {
        let class = json!({"reclaimPolicy": "Retain"});
        let volume = for_claim(&mk_claim(), &class, "vnode", "lower-shop").unwrap();
        assert_eq!(
            volume,
            json!({
                "apiVersion": "v1",
                "kind": "PersistentVolume",
                "metadata": {
                    "name": "pvc-u-1",
                    "labels": {"tensile.dev/origin-node": "vnode", "tensile.dev/origin-uid": "u-1"},
                    "annotations": {
                        "pv.kubernetes.io/provisioned-by": "tensile.dev", "tensile.dev/origin": "shop/data",
                    },
                },
                "spec": {
                    "accessModes": ["ReadWriteOnce"], "volumeMode": "Filesystem", "storageClassName": "tensile",
                    "capacity": {"storage": "1Gi"}, "persistentVolumeReclaimPolicy": "Retain",
                    "claimRef": {
                        "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                        "namespace": "shop", "name": "data", "uid": "u-1",
                    },
                    "local": {"path": "/tensile.dev/lower-shop/data"},
                    "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [
                        {"key": "kubernetes.io/hostname", "operator": "In", "values": ["vnode"]},
                    ]}]}},
                },
            })
        );
        assert!(is_ours(&volume));
    }

    #[test]
    fn only_an_unbound_claim_for_our_node_and_our_provisioner_is_wanted() {
        assert!(is_wanted(&mk_claim(), "vnode"));
        assert!(!is_wanted(&mk_claim(), "other"));
        let changes: [fn(&mut Value); 3] = [
            |claim| claim["spec"]["volumeName"] = json!("pvc-1"),
            |claim| claim["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z"),
            |claim| claim["metadata"]["annotations"][PROVISIONER] = json!("ebs.csi.aws.com"),
        ];
        for change in changes {
            let mut claim = mk_claim();
            change(&mut claim);
            assert!(!is_wanted(&claim, "vnode"), "{claim}");
        }
    }

    #[test]
    fn nothing_foreign_or_retained_is_deleted() {
        let volume = |by: &str, policy: &str| {
            json!({
                "metadata": {"annotations": {PROVISIONED_BY: by}}, "spec": {"persistentVolumeReclaimPolicy": policy},
            })
        };
        for (volume, expected) in [
            (volume("tensile.dev", "Delete"), Reclaim::Delete),
            (volume("tensile.dev", "Retain"), Reclaim::Retain),
            (volume("ebs.csi.aws.com", "Delete"), Reclaim::Retain),
            (
                json!({"spec": {"persistentVolumeReclaimPolicy": "Delete"}}),
                Reclaim::Retain,
            ),
        ] {
            assert_eq!(reclaim(&volume), expected, "{volume}");
        }
        let by_default = for_claim(&mk_claim(), &json!({}), "vnode", "shop").unwrap();
        assert_eq!(
            reclaim(&by_default),
            Reclaim::Delete,
            "the default of a StorageClass"
        );
    }
}
