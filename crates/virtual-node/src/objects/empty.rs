//! Whether a lower namespace that we made may go: nobody else has moved in.

use serde::Deserialize;

use tensile_runtime::object::{Meta, Namespaces};

use crate::api::{self, ApiError};
use crate::context::Context;

/// What is looked for: group and plural of every built-in kind that a person or a controller would put there, and the
/// name of the one object that every cluster puts there itself.
const KINDS: [(&str, &str, &str); 17] = [
    ("api/v1", "pods", ""),
    ("api/v1", "services", ""),
    ("api/v1", "configmaps", "kube-root-ca.crt"),
    ("api/v1", "secrets", ""),
    ("api/v1", "persistentvolumeclaims", ""),
    ("api/v1", "serviceaccounts", "default"),
    ("api/v1", "resourcequotas", ""),
    ("api/v1", "limitranges", ""),
    ("apis/apps/v1", "deployments", ""),
    ("apis/apps/v1", "statefulsets", ""),
    ("apis/apps/v1", "daemonsets", ""),
    ("apis/batch/v1", "jobs", ""),
    ("apis/batch/v1", "cronjobs", ""),
    ("apis/networking.k8s.io/v1", "ingresses", ""),
    ("apis/networking.k8s.io/v1", "networkpolicies", ""),
    ("apis/rbac.authorization.k8s.io/v1", "roles", ""),
    ("apis/rbac.authorization.k8s.io/v1", "rolebindings", ""),
];

#[derive(Deserialize)]
struct List {
    items: Vec<Meta<Namespaces>>,
}

/// Whether the lower namespace `name` has nothing in it. What we may not look at counts as something.
///
/// # Errors
/// When the lower cluster does not answer.
pub(super) async fn is_empty(context: &Context, name: &str) -> Result<bool, ApiError> {
    for (group, plural, of_cluster) in KINDS {
        let path = format!("/{group}/namespaces/{name}/{plural}?limit=2");
        match api::read::<List>(&context.lower, &path).await {
            Ok(list) => {
                let is_of_cluster =
                    |item: &Meta<Namespaces>| item.metadata.name.as_deref() == Some(of_cluster);
                if !list.items.iter().all(is_of_cluster) {
                    return Ok(false);
                }
            }
            Err(ApiError::Transient(error)) => return Err(ApiError::Transient(error)),
            Err(_) => return Ok(false),
        }
    }
    Ok(true)
}
