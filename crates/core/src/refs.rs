//! The objects that a pod needs beside itself.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::translate::is_token_volume;

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
        if let Some(name) = name.as_str().filter(|name| !name.is_empty()) {
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
/// Not among them: what a dropped token volume projects, and the claims of generic ephemeral volumes, whose template
/// is part of the pod, so that the lower cluster makes them itself.
#[must_use]
pub fn references(spec: &Value) -> Vec<Reference> {
    let mut found = Found::default();
    elements(spec, "volumes")
        .filter(|volume| !is_token_volume(volume))
        .for_each(|volume| found.volume(volume));
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
