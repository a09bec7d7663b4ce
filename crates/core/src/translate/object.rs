//! Upper ConfigMaps, Secrets and Namespaces → their copies.

use serde_json::{Value, json};

use super::{TranslateError, member, metadata};
use crate::names;
use crate::refs::RefKind;

/// Type of Secrets that the token controller owns: below it would delete a copy, whose service account it does
/// not know.
const TOKEN_SECRET: &str = "kubernetes.io/service-account-token";

/// The copy of a ConfigMap or Secret `upper` in `lower_namespace`: data, type and immutability, unknown members
/// included.
///
/// # Errors
/// When `upper` has no metadata.
pub fn to_lower(
    upper: &Value,
    kind: RefKind,
    origin_cluster: &str,
    lower_namespace: &str,
) -> Result<Value, TranslateError> {
    let metadata = metadata::copy(member(upper, "metadata")?, origin_cluster, lower_namespace);
    let mut lower = upper.clone();
    lower["apiVersion"] = json!("v1");
    lower["kind"] = json!(kind.as_str());
    lower["metadata"] = Value::Object(metadata);
    if lower["type"] == TOKEN_SECRET {
        lower["type"] = json!("Opaque");
    }
    Ok(lower)
}

/// The Namespace `lower_name` for copies out of the upper namespace with this name and UID.
#[must_use]
pub fn namespace(lower_name: &str, upper_name: &str, upper_uid: &str, origin_cluster: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": lower_name,
            "labels": {names::ORIGIN_CLUSTER: origin_cluster, names::ORIGIN_UID: upper_uid},
            "annotations": {names::ORIGIN: upper_name},
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_upper(extra: &Value) -> Value {
        let mut upper = json!({
            "metadata": {
                "name": "settings", "namespace": "shop", "uid": "u-1", "resourceVersion": "42", "managedFields": [],
                "ownerReferences": [{}], "finalizers": ["f"], "labels": {"a": "b", "tensile.dev/cluster": "one"}, "annotations": {"c": "d"},
            },
        });
        upper
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        upper
    }

    fn mk_lower(kind: &str, extra: &Value) -> Value {
        let mut lower = json!({
            "apiVersion": "v1",
            "kind": kind,
            "metadata": {
                "name": "settings", "namespace": "lower-shop",
                "labels": {"a": "b", "tensile.dev/origin-cluster": "upper-uid", "tensile.dev/origin-uid": "u-1"},
                "annotations": {"c": "d", "tensile.dev/origin": "shop/settings", "tensile.dev/intent": "42"},
            },
        });
        lower
            .as_object_mut()
            .unwrap()
            .extend(extra.as_object().unwrap().clone());
        lower
    }

    #[test]
    fn content_is_copied_and_identity_is_not() {
        let table = [
            (
                RefKind::ConfigMap,
                json!({"data": {"k": "v"}, "binaryData": {"b": "AA=="}, "immutable": true}),
            ),
            (
                RefKind::Secret,
                json!({"data": {"k": "dg=="}, "type": "kubernetes.io/tls", "aFieldOfTomorrow": [1]}),
            ),
        ];
        for (kind, content) in table {
            let lower = to_lower(&mk_upper(&content), kind, "upper-uid", "lower-shop").unwrap();
            assert_eq!(lower, mk_lower(kind.as_str(), &content));
        }
    }

    #[test]
    fn a_token_secret_becomes_opaque_so_that_no_controller_takes_it() {
        let upper = mk_upper(&json!({"type": "kubernetes.io/service-account-token"}));
        let lower = to_lower(&upper, RefKind::Secret, "upper-uid", "lower-shop").unwrap();
        assert_eq!(lower, mk_lower("Secret", &json!({"type": "Opaque"})));
    }

    #[test]
    fn a_namespace_carries_its_origin() {
        assert_eq!(
            namespace("lower-shop", "shop", "n-1", "upper-uid"),
            json!({
                "apiVersion": "v1", "kind": "Namespace",
                "metadata": {
                    "name": "lower-shop",
                    "labels": {"tensile.dev/origin-cluster": "upper-uid", "tensile.dev/origin-uid": "n-1"},
                    "annotations": {"tensile.dev/origin": "shop"},
                },
            })
        );
    }
}
