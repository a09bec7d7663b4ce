//! The pod's identity towards an API server: none, for now.
//!
//! A token that the lower cluster signs opens the wrong API server, so nothing that would bring one into the pod
//! is sent down: the volume that upper admission adds (`kube-api-access-*`), other projected tokens, and the name
//! of the service account. Programs that need the API server do not find `/var/run/secrets/kubernetes.io/serviceaccount`.
//! The namespace and CA of that volume go with it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::json::{Object, containers_mut, retain, text};

/// Start of the name of the volume that the ServiceAccount admission plugin adds.
const ADMISSION_VOLUME: &str = "kube-api-access-";

/// Removes the service account from `spec`.
pub(super) fn remove(spec: &mut Object) {
    spec.remove("serviceAccountName");
    spec.remove("serviceAccount");
    spec.insert("automountServiceAccountToken".to_owned(), json!(false));
    drop_token_sources(spec);
    drop_volumes(spec, is_token_volume);
}

/// Takes the tokens out of volumes that project other things, too.
fn drop_token_sources(spec: &mut Object) {
    for volume in super::json::objects_mut(spec, "volumes") {
        if let Some(sources) = volume
            .get_mut("projected")
            .and_then(|p| p.get_mut("sources"))
            .and_then(Value::as_array_mut)
            && !sources.iter().all(is_token)
        {
            sources.retain(|source| !is_token(source));
        }
    }
}

/// Whether nothing is left of a volume without its token: admission's own, or one that projects tokens only.
pub(crate) fn is_token_volume(volume: &Value) -> bool {
    let Some(sources) = volume["projected"]["sources"].as_array() else {
        return false;
    };
    let by_admission = volume["name"]
        .as_str()
        .is_some_and(|name| name.starts_with(ADMISSION_VOLUME));
    by_admission || !sources.is_empty() && sources.iter().all(is_token)
}

fn is_token(source: &Value) -> bool {
    source.get("serviceAccountToken").is_some()
}

/// Removes the volumes that `condemned` names, and their mounts in every container.
pub(super) fn drop_volumes(spec: &mut Object, condemned: impl Fn(&Value) -> bool) {
    let mut dropped = BTreeSet::new();
    retain(spec, "volumes", |volume| {
        let drop = condemned(volume);
        if drop && let Some(name) = volume["name"].as_str() {
            dropped.insert(name.to_owned());
        }
        !drop
    });
    if dropped.is_empty() {
        return;
    }
    for container in containers_mut(spec) {
        retain(container, "volumeMounts", |mount| {
            mount
                .as_object()
                .is_none_or(|mount| !dropped.contains(text(mount, "name")))
        });
    }
}
