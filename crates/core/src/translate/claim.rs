//! Upper PersistentVolumeClaims → claims that the lower cluster provisions or binds, and their growth.
//!
//! The lower claim asks for the same as the upper one, but is bound by the lower cluster: what binds the upper claim
//! to an upper volume would make it a lost claim there.

use serde_json::{Value, json};

use super::json::{Object, edit, set, text};
use super::volume::PROVISIONER;
use super::{TranslateError, member, metadata};
use crate::names;
use crate::quantity::Quantity;

/// Annotations that the upper controllers and the upper scheduler bind by.
const BINDING: [&str; 7] = [
    "pv.kubernetes.io/bind-completed",
    "pv.kubernetes.io/bound-by-controller",
    "volume.beta.kubernetes.io/storage-class",
    "volume.beta.kubernetes.io/storage-provisioner",
    "volume.kubernetes.io/selected-node",
    "volume.kubernetes.io/storage-provisioner",
    "volume.kubernetes.io/storage-resizer",
];
/// Members that name upper objects whose content would have to be copied. Without them the lower cluster would give
/// an empty volume in place of the data, so they are refused.
const SOURCES: [&str; 2] = ["dataSource", "dataSourceRef"];
/// Status members that say how far an expansion is, next to `capacity`.
const EXPANSION: [&str; 2] = ["allocatedResources", "allocatedResourceStatuses"];

/// Which StorageClass the lower claim has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum StorageClass<'a> {
    /// The one with the upper name. An upper claim without class (`""`, volumes made by hand) stays one.
    #[default]
    SameName,
    /// The default of the lower cluster.
    Default,
    /// The one with this name.
    Named(&'a str),
}

/// Which class the lower claim for `upper` has. A class of ours above tells by its parameter `storageClassName` what
/// it is called below, and without one stands for the default there; any other has the same name on both sides.
#[must_use]
pub fn lower_class<'a>(upper: &Value, class: &'a Value) -> StorageClass<'a> {
    if upper["metadata"]["annotations"][PROVISIONER] != names::MANAGER {
        return StorageClass::SameName;
    }
    let name = class["parameters"]["storageClassName"].as_str();
    name.map_or(StorageClass::Default, StorageClass::Named)
}

/// The claim for `upper` in `lower_namespace`.
///
/// # Errors
/// When `upper` has no metadata or spec, or asks for the content of another upper object.
pub fn to_lower(
    upper: &Value,
    class: StorageClass<'_>,
    origin_cluster: &str,
    lower_namespace: &str,
) -> Result<Value, TranslateError> {
    let upper_metadata = member(upper, "metadata")?;
    let mut spec = member(upper, "spec")?.clone();
    if let Some(source) = SOURCES
        .into_iter()
        .find(|source| spec.get(*source).is_some_and(|value| !value.is_null()))
    {
        return Err(TranslateError::Refused {
            field: format!("{source} of claim {}", text(upper_metadata, "name")),
        });
    }
    spec.remove("volumeName");
    match class {
        StorageClass::SameName => {}
        StorageClass::Default => set(&mut spec, "storageClassName", None),
        StorageClass::Named(name) => set(&mut spec, "storageClassName", Some(json!(name))),
    }
    if class != StorageClass::SameName {
        spec.remove("volumeAttributesClassName");
    }
    let mut metadata = metadata::copy(upper_metadata, origin_cluster, lower_namespace);
    edit(&mut metadata, "annotations", |annotations| {
        annotations.retain(|key, _| !BINDING.contains(&key.as_str()));
    });
    Ok(json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}))
}

/// The merge patch that lets the lower claim `below` grow with `upper`, if it must. A claim never shrinks.
#[must_use]
pub fn grow(upper: &Value, below: &Value) -> Option<Value> {
    let request = |claim: &Value| storage(&claim["spec"]["resources"]["requests"]);
    let wanted = request(upper).filter(|wanted| request(below).is_none_or(|below| below < *wanted))?;
    Some(json!({
        "metadata": {"uid": below["metadata"]["uid"]},
        "spec": {"resources": {"requests": {"storage": wanted.to_string()}}},
    }))
}

/// What an expansion below changes above.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Expansion {
    /// Merge patch for the upper volume, to be sent first: a claim is never larger than its volume.
    pub volume: Option<Value>,
    /// Merge patch for the status of the upper claim.
    pub claim: Option<Value>,
}

/// What the upper claim and its volume should say now that the lower claim is as `lower`. Only for volumes of ours:
/// one made by hand is its owner's to keep right.
#[must_use]
pub fn expansion(claim: &Value, volume: &Value, lower: &Value) -> Expansion {
    let Some(capacity) = storage(&lower["status"]["capacity"]) else {
        return Expansion::default();
    };
    let shown = storage(&volume["spec"]["capacity"]);
    let volume_patch = shown.is_none_or(|shown| shown < capacity).then(|| {
        json!({
            "metadata": {"uid": volume["metadata"]["uid"]},
            "spec": {"capacity": {"storage": capacity.to_string()}},
        })
    });
    let mut status = Object::new();
    if storage(&claim["status"]["capacity"]).is_none_or(|shown| shown < capacity) {
        status.insert("capacity".to_owned(), json!({"storage": capacity.to_string()}));
    }
    for key in EXPANSION.into_iter().chain(["conditions"]) {
        if claim["status"][key] != lower["status"][key] {
            status.insert(key.to_owned(), lower["status"][key].clone());
        }
    }
    let claim = (!status.is_empty())
        .then(|| json!({"metadata": {"uid": claim["metadata"]["uid"]}, "status": status}));
    Expansion {
        volume: volume_patch,
        claim,
    }
}

fn storage(resources: &Value) -> Option<Quantity> {
    resources["storage"].as_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_claim(size: &str) -> Value {
        json!({
            "metadata": {
                "name": "data", "namespace": "shop", "uid": "u-1", "resourceVersion": "42", "finalizers": ["f"],
                "annotations": {"note": "kept"},
            },
            "spec": {"resources": {"requests": {"storage": size}}},
        })
    }

    #[test]
    fn a_claim_loses_what_binds_it_above() {
        let mut upper = mk_claim("1Gi");
        for annotation in BINDING {
            upper["metadata"]["annotations"][annotation] = json!("x");
        }
        let spec = json!({
            "accessModes": ["ReadWriteOnce"], "selector": {"matchLabels": {"a": "b"}}, "volumeMode": "Filesystem",
            "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "", "ofTomorrow": 1,
        });
        upper["spec"] = spec.clone();
        upper["spec"]["volumeName"] = json!("pvc-1");
        assert_eq!(
            to_lower(&upper, StorageClass::SameName, "upper-uid", "lower-shop").unwrap(),
            json!({
                "apiVersion": "v1",
                "kind": "PersistentVolumeClaim",
                "metadata": {
                    "name": "data", "namespace": "lower-shop",
                    "labels": {"tensile.dev/origin-cluster": "upper-uid", "tensile.dev/origin-uid": "u-1"},
                    "annotations": {
                        "note": "kept", "tensile.dev/origin": "shop/data", "tensile.dev/intent": "42",
                    },
                },
                "spec": spec,
            })
        );
    }

    #[test]
    fn the_storage_class_is_the_one_asked_for() {
        let mut upper = mk_claim("1Gi");
        upper["spec"]["storageClassName"] = json!("tensile");
        upper["spec"]["volumeAttributesClassName"] = json!("fast");
        for (class, name, attributes) in [
            (StorageClass::SameName, json!("tensile"), json!("fast")),
            (StorageClass::Default, Value::Null, Value::Null),
            (StorageClass::Named("ssd"), json!("ssd"), Value::Null),
        ] {
            let spec = to_lower(&upper, class, "upper-uid", "shop").unwrap()["spec"].take();
            assert_eq!(spec["storageClassName"], name, "{class:?}");
            assert_eq!(spec["volumeAttributesClassName"], attributes, "{class:?}");
        }
    }

    #[test]
    fn a_class_of_ours_says_what_it_is_called_below() {
        let (mut upper, class) = (
            mk_claim("1Gi"),
            json!({"parameters": {"storageClassName": "ssd"}}),
        );
        assert_eq!(lower_class(&upper, &class), StorageClass::SameName);
        upper["metadata"]["annotations"][PROVISIONER] = json!("tensile.dev");
        assert_eq!(lower_class(&upper, &class), StorageClass::Named("ssd"));
        assert_eq!(lower_class(&upper, &json!({})), StorageClass::Default);
    }

    #[test]
    fn content_of_upper_objects_is_refused_and_not_replaced_by_nothing() {
        for source in SOURCES {
            let mut upper = mk_claim("1Gi");
            upper["spec"][source] = json!({"kind": "VolumeSnapshot", "name": "s"});
            let error = to_lower(&upper, StorageClass::SameName, "upper-uid", "shop")
                .unwrap_err()
                .to_string();
            assert!(
                error.starts_with(&format!("{source} of claim data is not allowed")),
                "{error}"
            );
        }
    }

    #[test]
    fn a_claim_grows_and_never_shrinks() {
        for (upper, below, sent) in [
            ("2Gi", "1Gi", Some("2Gi")),
            ("1024Mi", "1Gi", None),
            ("1Gi", "2Gi", None),
            ("nonsense", "1Gi", None),
        ] {
            let mut lower = mk_claim(below);
            lower["metadata"]["uid"] = json!("l-1");
            let expected = sent.map(|size| {
                json!({"metadata": {"uid": "l-1"}, "spec": {"resources": {"requests": {"storage": size}}}})
            });
            assert_eq!(grow(&mk_claim(upper), &lower), expected, "{upper} over {below}");
        }
    }

    #[test]
    fn an_expansion_is_told_once_volume_first() {
        let (mut claim, mut lower) = (mk_claim("2Gi"), mk_claim("2Gi"));
        let mut volume = json!({"metadata": {"uid": "v-1"}, "spec": {"capacity": {"storage": "1Gi"}}});
        claim["status"] = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}});
        assert_eq!(
            expansion(&claim, &volume, &lower),
            Expansion::default(),
            "nothing is known below"
        );

        let resizing = json!([{"type": "Resizing", "status": "True"}]);
        lower["status"] = json!({"phase": "Bound", "capacity": {"storage": "1Gi"}, "conditions": resizing});
        let running = Expansion {
            volume: None,
            claim: Some(json!({"metadata": {"uid": "u-1"}, "status": {"conditions": resizing}})),
        };
        assert_eq!(expansion(&claim, &volume, &lower), running);

        claim["status"]["conditions"] = resizing;
        lower["status"] = json!({"phase": "Bound", "capacity": {"storage": "2Gi"}});
        let done = Expansion {
            volume: Some(json!({"metadata": {"uid": "v-1"}, "spec": {"capacity": {"storage": "2Gi"}}})),
            claim: Some(json!({
                "metadata": {"uid": "u-1"}, "status": {"capacity": {"storage": "2Gi"}, "conditions": null},
            })),
        };
        assert_eq!(expansion(&claim, &volume, &lower), done);

        claim["status"] = lower["status"].clone();
        volume["spec"]["capacity"]["storage"] = json!("2Gi");
        assert_eq!(expansion(&claim, &volume, &lower), Expansion::default());
    }
}
