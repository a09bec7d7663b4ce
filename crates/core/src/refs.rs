//! The objects that a pod needs beside itself.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::translate::ROOT_CA;

/// Kinds of objects that a pod refers to by name, in its own namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefKind {
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
    /// A PersistentVolumeClaim.
    PersistentVolumeClaim,
}

/// One object that a pod refers to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    /// Its kind.
    pub kind: RefKind,
    /// Its name.
    pub name: String,
    /// Whether the pod starts without it; false as soon as one reference of the pod is mandatory.
    pub optional: bool,
}

/// Volume kinds whose credentials are a Secret, and the member that names it.
const VOLUME_SECRETS: [(&str, &str); 8] = [
    ("cephfs", "secretRef"),
    ("cinder", "secretRef"),
    ("csi", "nodePublishSecretRef"),
    ("flexVolume", "secretRef"),
    ("iscsi", "secretRef"),
    ("rbd", "secretRef"),
    ("scaleIO", "secretRef"),
    ("storageos", "secretRef"),
];

const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// What was found so far: whether every reference to an object is optional.
#[derive(Default)]
struct Found<'a>(BTreeMap<(RefKind, &'a str), bool>);

// === impl RefKind ===

impl RefKind {
    /// The kind as the API writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
            Self::PersistentVolumeClaim => "PersistentVolumeClaim",
        }
    }
}

// === impl Found ===

impl<'a> Found<'a> {
    /// The object that the member `key` of `reference` names, optional if `reference` says so.
    fn add(&mut self, kind: RefKind, reference: &'a Value, key: &str) {
        self.insert(kind, &reference[key], reference["optional"] == true);
    }

    fn insert(&mut self, kind: RefKind, name: &'a Value, optional: bool) {
        let is_root_ca = kind == RefKind::ConfigMap && *name == ROOT_CA;
        if let Some(name) = name.as_str().filter(|name| !name.is_empty() && !is_root_ca) {
            self.0
                .entry((kind, name))
                .and_modify(|all| *all &= optional)
                .or_insert(optional);
        }
    }

    fn volume(&mut self, volume: &'a Value) {
        self.add(RefKind::ConfigMap, &volume["configMap"], "name");
        self.add(RefKind::Secret, &volume["secret"], "secretName");
        self.add(RefKind::Secret, &volume["azureFile"], "secretName");
        self.add(
            RefKind::PersistentVolumeClaim,
            &volume["persistentVolumeClaim"],
            "claimName",
        );
        for source in elements(&volume["projected"], "sources") {
            self.add(RefKind::ConfigMap, &source["configMap"], "name");
            self.add(RefKind::Secret, &source["secret"], "name");
        }
        for (kind, key) in VOLUME_SECRETS {
            self.add(RefKind::Secret, &volume[kind][key], "name");
        }
    }

    fn container(&mut self, container: &'a Value) {
        for env in elements(container, "env") {
            self.add(RefKind::ConfigMap, &env["valueFrom"]["configMapKeyRef"], "name");
            self.add(RefKind::Secret, &env["valueFrom"]["secretKeyRef"], "name");
        }
        for source in elements(container, "envFrom") {
            self.add(RefKind::ConfigMap, &source["configMapRef"], "name");
            self.add(RefKind::Secret, &source["secretRef"], "name");
        }
    }
}

/// The objects that a pod with this `spec` refers to, each once, sorted by kind and name.
///
/// Pull secrets count as optional: a kubelet starts the pod without one that is missing.
/// Not among them: the ConfigMap with the cluster's CA, which every cluster keeps in every namespace; and the claims of
/// generic ephemeral volumes, whose template is part of the pod, so that the lower cluster makes them itself.
#[must_use]
pub fn references(spec: &Value) -> Vec<Reference> {
    let mut found = Found::default();
    elements(spec, "volumes").for_each(|volume| found.volume(volume));
    for list in CONTAINER_LISTS {
        elements(spec, list).for_each(|container| found.container(container));
    }
    elements(spec, "imagePullSecrets")
        .for_each(|secret| found.insert(RefKind::Secret, &secret["name"], true));
    let reference = |((kind, name), optional): ((RefKind, &str), bool)| Reference {
        kind,
        name: name.to_owned(),
        optional,
    };
    found.0.into_iter().map(reference).collect()
}

/// The elements of the list at `key`; none when there is no such list.
fn elements<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_reference(kind: RefKind, name: &str, optional: bool) -> Reference {
        Reference {
            kind,
            name: name.to_owned(),
            optional,
        }
    }

    #[test]
    fn every_way_to_refer_is_found() {
        use RefKind::{ConfigMap, PersistentVolumeClaim, Secret};
        let env =
            |key: &str| json!({"containers": [{"env": [{"valueFrom": {key: {"name": "x", "key": "k"}}}]}]});
        let volume = |volume: Value| json!({"volumes": [volume]});
        let table = [
            (volume(json!({"configMap": {"name": "x"}})), ConfigMap),
            (volume(json!({"secret": {"secretName": "x"}})), Secret),
            (
                volume(json!({"persistentVolumeClaim": {"claimName": "x"}})),
                PersistentVolumeClaim,
            ),
            (
                volume(json!({"projected": {"sources": [{"configMap": {"name": "x"}}]}})),
                ConfigMap,
            ),
            (
                volume(json!({"projected": {"sources": [{"secret": {"name": "x"}}]}})),
                Secret,
            ),
            (
                volume(json!({"csi": {"nodePublishSecretRef": {"name": "x"}}})),
                Secret,
            ),
            (volume(json!({"azureFile": {"secretName": "x"}})), Secret),
            (volume(json!({"cephfs": {"secretRef": {"name": "x"}}})), Secret),
            (volume(json!({"cinder": {"secretRef": {"name": "x"}}})), Secret),
            (
                volume(json!({"flexVolume": {"secretRef": {"name": "x"}}})),
                Secret,
            ),
            (volume(json!({"iscsi": {"secretRef": {"name": "x"}}})), Secret),
            (volume(json!({"rbd": {"secretRef": {"name": "x"}}})), Secret),
            (volume(json!({"scaleIO": {"secretRef": {"name": "x"}}})), Secret),
            (volume(json!({"storageos": {"secretRef": {"name": "x"}}})), Secret),
            (env("configMapKeyRef"), ConfigMap),
            (env("secretKeyRef"), Secret),
            (
                json!({"initContainers": [{"envFrom": [{"configMapRef": {"name": "x"}}]}]}),
                ConfigMap,
            ),
            (
                json!({"ephemeralContainers": [{"envFrom": [{"secretRef": {"name": "x"}}]}]}),
                Secret,
            ),
        ];
        for (spec, kind) in table {
            assert_eq!(references(&spec), [mk_reference(kind, "x", false)], "{spec}");
        }
        let pull = json!({"imagePullSecrets": [{"name": "x"}]});
        assert_eq!(references(&pull), [mk_reference(Secret, "x", true)]);
    }

    #[test]
    fn each_object_is_named_once_and_mandatory_wins() {
        let from = |name: &str, optional: bool| json!({"configMapRef": {"name": name, "optional": optional}});
        let spec = json!({
            "containers": [
                {"envFrom": [from("b", true), from("a", true), from("a", false)]},
                {"envFrom": [from("a", true), {"secretRef": {"name": "s"}}, from("b", true)]},
            ],
            "imagePullSecrets": [{"name": "s"}],
        });
        let expected = [
            mk_reference(RefKind::ConfigMap, "a", false),
            mk_reference(RefKind::ConfigMap, "b", true),
            mk_reference(RefKind::Secret, "s", false),
        ];
        assert_eq!(references(&spec), expected);
    }

    #[test]
    fn what_is_not_sent_down_or_made_below_is_not_needed() {
        let spec = json!({
            "volumes": [
                {"name": "kube-api-access-1", "projected": {"sources": [
                    {"serviceAccountToken": {}}, {"configMap": {"name": "kube-root-ca.crt"}},
                ]}},
                {"name": "ca", "configMap": {"name": "kube-root-ca.crt"}},
                {"name": "e", "ephemeral": {"volumeClaimTemplate": {}}},
                {"name": "c", "cephfs": {}},
                {"name": "f", "csi": {"nodePublishSecretRef": null}},
            ],
            "imagePullSecrets": [{"name": ""}, {}],
        });
        assert_eq!(references(&spec), []);
        assert_eq!(references(&json!({})), []);
    }
}
