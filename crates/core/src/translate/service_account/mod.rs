//! The pod's identity towards an API server: whose token it holds.
//!
//! A program finds a token, the CA and the namespace where it expects them, in projected volumes: the one that the
//! ServiceAccount admission plugin adds (`kube-api-access-*`), and those of the user. The lower kubelet would fill
//! them from the lower cluster. What happens instead is said by the annotation
//! [`names::SERVICE_ACCOUNT`]:
//!
//! - [`Upper`](ServiceAccount::Upper): the volumes stay, and read a Secret with tokens of the upper cluster; see
//!   [`tokens`].
//! - [`Lower`](ServiceAccount::Lower): the pod has the lower service account of the same name, as if it had been made
//!   there.
//! - [`None`](ServiceAccount::None): no token reaches the pod. Volumes that hold nothing else are left out with their
//!   mounts.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::TranslateError;
use super::json::{Object, containers_mut, objects_mut, retain, set, text};
use crate::names;

pub mod tokens;

/// Start of the name of the volume that the ServiceAccount admission plugin adds.
const ADMISSION_VOLUME: &str = "kube-api-access-";

/// Whose service account a pod has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceAccount {
    /// Its own, in the upper cluster.
    Upper,
    /// That of the same name in the lower cluster.
    Lower,
    /// None.
    #[default]
    None,
}

// === impl ServiceAccount ===

impl ServiceAccount {
    /// What the annotation of the pod says, else that of its namespace, else `default`. Both are metadata objects.
    ///
    /// # Errors
    /// When an annotation has none of the three values.
    pub fn of(pod: &Value, namespace: &Value, default: Self) -> Result<Self, TranslateError> {
        let annotation = |metadata: &Value| {
            metadata["annotations"][names::SERVICE_ACCOUNT]
                .as_str()
                .map(str::to_owned)
        };
        match annotation(pod).or_else(|| annotation(namespace)) {
            None => Ok(default),
            Some(value) => Self::parse(&value).ok_or(TranslateError::ServiceAccount { value }),
        }
    }

    fn parse(value: &str) -> Option<Self> {
        match value {
            "upper" => Some(Self::Upper),
            "lower" => Some(Self::Lower),
            "none" => Some(Self::None),
            _ => None,
        }
    }
}

/// Gives the lower pod with this `spec` its identity. `uid` is the upper pod's.
pub(super) fn apply(spec: &mut Object, service_account: ServiceAccount, uid: &str) {
    let mut automount = false;
    match service_account {
        ServiceAccount::Upper => tokens::redirect(spec, &tokens::secret_name(uid)),
        // Lower admission adds the volume again.
        ServiceAccount::Lower => automount = drop_volumes(spec, is_of_admission),
        ServiceAccount::None => {
            drop_token_sources(spec);
            drop_volumes(spec, |volume| {
                is_of_admission(volume) || projects_only_tokens(volume)
            });
        }
    }
    if service_account != ServiceAccount::Lower {
        spec.remove("serviceAccountName");
        spec.remove("serviceAccount");
    }
    set(spec, "automountServiceAccountToken", Some(json!(automount)));
}

/// Takes the tokens out of volumes that project other things, too.
fn drop_token_sources(spec: &mut Object) {
    for volume in objects_mut(spec, "volumes") {
        let Some(projected) = volume.get_mut("projected") else {
            continue;
        };
        if let Some(sources) = projected.get_mut("sources").and_then(Value::as_array_mut)
            && !sources.iter().all(is_token)
        {
            sources.retain(|source| !is_token(source));
        }
    }
}

fn is_of_admission(volume: &Value) -> bool {
    let by_name = volume["name"]
        .as_str()
        .is_some_and(|name| name.starts_with(ADMISSION_VOLUME));
    by_name && volume["projected"].is_object()
}

fn projects_only_tokens(volume: &Value) -> bool {
    let sources = volume["projected"]["sources"].as_array();
    sources.is_some_and(|sources| !sources.is_empty() && sources.iter().all(is_token))
}

fn is_token(source: &Value) -> bool {
    source.get("serviceAccountToken").is_some()
}

/// Removes the volumes that `condemned` names, and their mounts in every container. Returns whether there were any.
fn drop_volumes(spec: &mut Object, condemned: impl Fn(&Value) -> bool) -> bool {
    let mut dropped = BTreeSet::new();
    retain(spec, "volumes", |volume| {
        let drop = condemned(volume);
        if drop {
            dropped.extend(volume["name"].as_str().map(str::to_owned));
        }
        !drop
    });
    if !dropped.is_empty() {
        let is_kept = |mount: &Value| {
            mount
                .as_object()
                .is_none_or(|mount| !dropped.contains(text(mount, "name")))
        };
        containers_mut(spec).for_each(|container| retain(container, "volumeMounts", is_kept));
    }
    !dropped.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pod as upper admission leaves it, with a volume of the user's that holds a token, too.
    fn mk_spec() -> Value {
        let mounts = json!([
            {"name": "kube-api-access-x2x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"},
            {"name": "vault", "mountPath": "/v"},
            {"name": "mixed", "mountPath": "/m"},
            {"name": "empty", "mountPath": "/e"},
        ]);
        json!({
            "serviceAccountName": "builder", "serviceAccount": "builder",
            "volumes": [
                {"name": "kube-api-access-x2x", "projected": {"defaultMode": 420, "sources": [
                    {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
                    {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                    {"downwardAPI": {"items": []}},
                ]}},
                {"name": "vault", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "t", "audience": "vault"}},
                ]}},
                {"name": "mixed", "projected": {"sources": [
                    {"serviceAccountToken": {"path": "t"}}, {"secret": {"name": "s"}},
                ]}},
                {"name": "empty", "projected": {"sources": []}},
            ],
            "initContainers": [{"name": "i", "volumeMounts": mounts}],
            "containers": [{"name": "c", "volumeMounts": [mounts[0]]}],
            "ephemeralContainers": [{"name": "e", "volumeMounts": [mounts[0], mounts[2]]}],
        })
    }

    fn applied(mut spec: Value, service_account: ServiceAccount) -> Value {
        apply(spec.as_object_mut().unwrap(), service_account, "u-1");
        spec
    }

    #[test]
    fn without_identity_no_token_is_left() {
        let (mixed, empty) = (
            json!({"name": "mixed", "mountPath": "/m"}),
            json!({"name": "empty", "mountPath": "/e"}),
        );
        assert_eq!(
            applied(mk_spec(), ServiceAccount::None),
            json!({
                "automountServiceAccountToken": false,
                "volumes": [
                    {"name": "mixed", "projected": {"sources": [{"secret": {"name": "s"}}]}},
                    {"name": "empty", "projected": {"sources": []}},
                ],
                "initContainers": [{"name": "i", "volumeMounts": [mixed, empty]}],
                "containers": [{"name": "c"}],
                "ephemeralContainers": [{"name": "e", "volumeMounts": [mixed]}],
            })
        );
    }

    #[test]
    fn with_a_lower_identity_lower_admission_adds_its_volume() {
        let lower = applied(mk_spec(), ServiceAccount::Lower);
        assert_eq!(lower["serviceAccountName"], "builder");
        assert_eq!(lower["automountServiceAccountToken"], true);
        let upper = mk_spec();
        assert_eq!(
            lower["volumes"].as_array().unwrap()[..],
            upper["volumes"].as_array().unwrap()[1..]
        );
        assert_eq!(lower["containers"], json!([{"name": "c"}]));

        let without = applied(json!({"serviceAccountName": "builder"}), ServiceAccount::Lower);
        assert_eq!(
            without,
            json!({"serviceAccountName": "builder", "automountServiceAccountToken": false})
        );
    }

    #[test]
    fn with_its_upper_identity_every_volume_and_mount_stays() {
        let (upper, lower) = (mk_spec(), applied(mk_spec(), ServiceAccount::Upper));
        for list in ["initContainers", "containers", "ephemeralContainers"] {
            assert_eq!(lower[list], upper[list]);
        }
        assert_eq!(lower["volumes"].as_array().unwrap().len(), 4);
        assert_eq!(lower["automountServiceAccountToken"], false);
        assert_eq!(lower.get("serviceAccountName"), None);
    }

    #[test]
    fn the_pod_says_whose_account_it_has_then_its_namespace() {
        let says = |value: &str| json!({"annotations": {names::SERVICE_ACCOUNT: value}});
        let silent = json!({});
        let of = |pod: &Value, namespace: &Value| ServiceAccount::of(pod, namespace, ServiceAccount::Upper);
        assert_eq!(of(&silent, &silent).unwrap(), ServiceAccount::Upper);
        assert_eq!(of(&silent, &says("lower")).unwrap(), ServiceAccount::Lower);
        assert_eq!(of(&says("none"), &says("lower")).unwrap(), ServiceAccount::None);
        assert_eq!(of(&says("upper"), &says("lower")).unwrap(), ServiceAccount::Upper);
        let error = of(&says("mine"), &silent).unwrap_err().to_string();
        assert_eq!(
            error,
            "annotation tensile.dev/service-account is mine; it must be upper, lower or none"
        );
    }
}
