//! Upper ConfigMaps, Secrets and Namespaces → their copies.

use serde_json::{Value, json};

use super::json::text;
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
    let upper_metadata = member(upper, "metadata")?;
    let mut metadata = upper_metadata.clone();
    metadata::strip(&mut metadata);
    metadata::annotations(&mut metadata);
    metadata::mark(&mut metadata, &upper_metadata, origin_cluster);
    metadata::annotate(
        &mut metadata,
        names::INTENT,
        text(&upper_metadata, "resourceVersion").to_owned(),
    );
    metadata.insert("namespace".to_owned(), json!(lower_namespace));

    let mut lower = upper.clone();
    lower["apiVersion"] = json!("v1");
    lower["kind"] = json!(kind.as_str());
    lower["metadata"] = Value::Object(metadata);
    if lower["type"] == TOKEN_SECRET {
        lower["type"] = json!("Opaque");
    }
    Ok(lower)
}

/// A Namespace for lower objects. `upper` is the metadata owner: the upper namespace's name and UID.
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
