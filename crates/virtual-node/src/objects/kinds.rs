//! The kinds of objects that a namespace can hold, as the API server itself lists them, custom resources included.

use std::collections::HashSet;

use kube::core::discovery::v2::{APIGroupDiscoveryList, APIResourceDiscovery};

/// Kinds that are not looked for: events end by themselves and belong to nobody.
const PASSED_OVER: [&str; 1] = ["events"];
/// What an object needs to be somebody's: it can be found and deleted. What cannot is computed, like usage figures.
const VERBS: [&str; 2] = ["list", "delete"];

/// One kind that a namespace can hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Listed {
    /// API group; empty for the core group.
    pub group: String,
    /// The group's preferred version that has it.
    pub version: String,
    /// Path segment of the API.
    pub plural: String,
}

/// A server behind the API server does not answer, so that nobody knows what it holds.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the API {group}/{version} of the lower cluster does not answer, and may hold something; \
     mend or remove its APIService"
)]
pub(super) struct Stale {
    group: String,
    version: String,
}

// === impl Listed ===

impl Listed {
    /// Path of the collection in `namespace`.
    pub(super) fn path(&self, namespace: &str) -> String {
        let Self {
            group,
            version,
            plural,
        } = self;
        if group.is_empty() {
            format!("/api/{version}/namespaces/{namespace}/{plural}")
        } else {
            format!("/apis/{group}/{version}/namespaces/{namespace}/{plural}")
        }
    }

    /// The name as rules write it, such as `deployments.apps`.
    pub(super) fn name(&self) -> String {
        match self.group.as_str() {
            "" => self.plural.clone(),
            group => format!("{}.{group}", self.plural),
        }
    }
}

/// The kinds of objects that a namespace can hold, each in the first version that has it, from what the server answers
/// about `/api` or `/apis`.
pub(super) fn kinds(discovery: APIGroupDiscoveryList) -> Result<Vec<Listed>, Stale> {
    let mut kinds = Vec::new();
    for group in discovery.items {
        let name = group
            .metadata
            .and_then(|metadata| metadata.name)
            .unwrap_or_default();
        let mut seen = HashSet::new();
        for of_version in group.versions {
            let (group, version) = (name.clone(), of_version.version.unwrap_or_default());
            if of_version.freshness.as_deref() == Some("Stale") {
                return Err(Stale { group, version });
            }
            let held = of_version.resources.into_iter().filter(is_held);
            let new = held.filter_map(|kind| kind.resource.filter(|plural| seen.insert(plural.clone())));
            kinds.extend(new.map(|plural| Listed {
                group: group.clone(),
                version: version.clone(),
                plural,
            }));
        }
    }
    Ok(kinds)
}

fn is_held(kind: &APIResourceDiscovery) -> bool {
    kind.scope.as_deref() == Some("Namespaced")
        && VERBS.iter().all(|verb| kind.verbs.iter().any(|has| has == verb))
        && !kind
            .resource
            .as_deref()
            .is_some_and(|plural| PASSED_OVER.contains(&plural))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn mk_kind(resource: &str, scope: &str, verbs: &[&str]) -> Value {
        json!({"resource": resource, "scope": scope, "verbs": verbs, "responseKind": {"kind": "X"}, "subresources": []})
    }

    fn found(items: &Value) -> Result<Vec<String>, Stale> {
        let kinds = kinds(serde_json::from_value(json!({"items": items})).unwrap())?;
        Ok(kinds
            .iter()
            .map(|kind| format!("{} {}", kind.path("ns"), kind.name()))
            .collect())
    }

    #[test]
    fn what_is_namespaced_and_can_be_found_and_deleted_is_looked_for_once() {
        let all = ["create", "delete", "get", "list", "watch"];
        let core = [
            mk_kind("pods", "Namespaced", &all),
            mk_kind("nodes", "Cluster", &all),
            mk_kind("bindings", "Namespaced", &["create"]),
            mk_kind("events", "Namespaced", &all),
        ];
        let custom = |version: &str, names: &[&str]| {
            let kinds: Vec<_> = names
                .iter()
                .map(|name| mk_kind(name, "Namespaced", &all))
                .collect();
            json!({"version": version, "freshness": "Current", "resources": kinds})
        };
        let items = json!([
            {"metadata": {"creationTimestamp": null}, "versions": [{"version": "v1", "resources": core}]},
            {"metadata": {"name": "shop.example"}, "versions": [custom("v2", &["widgets"]), custom("v1", &["widgets", "gadgets"])]},
            {"metadata": {"name": "metrics.k8s.io"}, "versions": [
                {"version": "v1beta1", "resources": [mk_kind("pods", "Namespaced", &["get", "list"])]},
            ]},
        ]);
        let expected = [
            "/api/v1/namespaces/ns/pods pods",
            "/apis/shop.example/v2/namespaces/ns/widgets widgets.shop.example",
            "/apis/shop.example/v1/namespaces/ns/gadgets gadgets.shop.example",
        ];
        assert_eq!(found(&items).unwrap(), expected);
    }

    #[test]
    fn what_does_not_answer_may_hold_anything() {
        let items = json!([{"metadata": {"name": "shop.example"}, "versions": [{"version": "v1", "freshness": "Stale"}]}]);
        let error = found(&items).unwrap_err().to_string();
        assert!(
            error.starts_with("the API shop.example/v1 of the lower cluster"),
            "{error}"
        );
    }
}
