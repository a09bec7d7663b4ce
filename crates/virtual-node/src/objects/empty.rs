//! Whether a lower namespace that we made may go: nobody else has moved in.
//!
//! Every kind that the lower API server knows is looked at, as the namespace controller does when it empties one. A kind
//! that we may not list, and an API that does not answer, may hold something: the namespace stays, and the log says why.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kube::core::discovery::v2::ACCEPT_AGGREGATED_DISCOVERY_V2;
use parking_lot::Mutex;
use serde::Deserialize;

use tensile_runtime::object::{Meta, Namespaces};

use super::kinds::{Listed, kinds};
use crate::api::{self, ApiError};
use crate::context::Context;

/// Where the API server says what it knows: the core group, and all others.
const DISCOVERY: [&str; 2] = ["/api", "/apis"];
/// Names are enough: contents, those of Secrets above all, stay where they are.
const NAMES_ONLY: &str = "application/json;g=meta.k8s.io;v=v1;as=PartialObjectMetadataList,application/json";
/// How long an answer is used: many namespaces that go at a time ask once. Whoever makes a new kind, and an object of
/// it in a namespace of ours, within this time must be as unlucky as with any look that comes before a deletion.
const MAX_AGE: Duration = Duration::from_secs(10);
/// What every cluster puts into each namespace: plural and name.
const OF_CLUSTER: [(&str, &str); 2] = [("configmaps", "kube-root-ca.crt"), ("serviceaccounts", "default")];

/// Looks into namespaces.
#[derive(Clone, Default)]
pub(super) struct Emptiness {
    known: Arc<Mutex<Option<Known>>>,
    /// Reasons to keep namespaces that were told already.
    told: Arc<Mutex<HashSet<String>>>,
}

/// What there can be, as it was said at some time.
struct Known {
    at: Instant,
    kinds: Arc<[Listed]>,
}

/// An answer; `PartialObjectMetadataList` says null where nothing is.
#[derive(Deserialize)]
struct List {
    kind: String,
    items: Option<Vec<Meta<Namespaces>>>,
}

// === impl Emptiness ===

impl Emptiness {
    /// Whether the lower namespace `name` has nothing in it. What we may not look at counts as something.
    ///
    /// # Errors
    /// When the lower cluster does not answer.
    pub(super) async fn is_empty(&self, context: &Context, name: &str) -> Result<bool, ApiError> {
        let Some(kinds) = self.kinds(context).await? else {
            return Ok(false);
        };
        for kind in &*kinds {
            let path = format!("{}?limit=2", kind.path(name));
            match api::read_as::<List>(&context.lower, &path, NAMES_ONLY).await {
                Ok(list) => {
                    if let Some(object) = list.foreign(kind)? {
                        tracing::info!(
                            namespace = name,
                            kind = kind.name(),
                            object,
                            "kept: it is not empty"
                        );
                        return Ok(false);
                    }
                }
                Err(ApiError::Refused(error)) => {
                    self.tell(&format!(
                        "namespaces that we made are kept, since {} may be in them: {error}; \
                         let the lower credentials list that kind",
                        kind.name()
                    ));
                    return Ok(false);
                }
                // Also "not found": a kind that has just been removed, or is away for a moment. The next look tells.
                Err(error) => return Err(ApiError::Transient(error.to_string())),
            }
        }
        Ok(true)
    }

    /// What there can be; `None` when nobody knows.
    async fn kinds(&self, context: &Context) -> Result<Option<Arc<[Listed]>>, ApiError> {
        if let Some(known) = &*self.known.lock()
            && known.at.elapsed() < MAX_AGE
        {
            return Ok(Some(known.kinds.clone()));
        }
        let (at, mut all) = (Instant::now(), Vec::new());
        for path in DISCOVERY {
            let known = api::read_as(&context.lower, path, ACCEPT_AGGREGATED_DISCOVERY_V2).await?;
            match kinds(known) {
                Ok(kinds) => all.extend(kinds),
                Err(stale) => {
                    self.tell(&format!("namespaces that we made are kept: {stale}"));
                    return Ok(None);
                }
            }
        }
        if !all.iter().any(|kind| kind.name() == "pods") {
            self.tell(
                "namespaces that we made are kept: the lower cluster does not say what they can hold; \
                 aggregated discovery is there since Kubernetes 1.27",
            );
            return Ok(None);
        }
        let kinds: Arc<[Listed]> = all.into();
        *self.known.lock() = Some(Known {
            at,
            kinds: kinds.clone(),
        });
        Ok(Some(kinds))
    }

    /// Once, since every namespace would say the same.
    fn tell(&self, reason: &str) {
        if self.told.lock().insert(reason.to_owned()) {
            tracing::warn!("{reason}");
        }
    }
}

// === impl List ===

impl List {
    /// The name of something that the cluster does not put into every namespace itself.
    fn foreign(&self, kind: &Listed) -> Result<Option<&str>, ApiError> {
        if !self.kind.ends_with("List") {
            let (name, found) = (kind.name(), &self.kind);
            return Err(ApiError::Transient(format!("a list of {name} is a {found}")));
        }
        let names = self
            .items
            .iter()
            .flatten()
            .map(|item| item.metadata.name.as_deref().unwrap_or_default());
        let of_cluster = |name: &str| kind.group.is_empty() && OF_CLUSTER.contains(&(&*kind.plural, name));
        let mut foreign = names.filter(|name| !of_cluster(name));
        Ok(foreign.next())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn mk_kind(group: &str, plural: &str) -> Listed {
        let version = "v1".to_owned();
        let (group, plural) = (group.to_owned(), plural.to_owned());
        Listed {
            group,
            version,
            plural,
        }
    }

    fn mk_list(items: &Value) -> List {
        serde_json::from_value(json!({"kind": "PartialObjectMetadataList", "items": items})).unwrap()
    }

    #[test]
    fn only_what_every_cluster_puts_there_is_nothing() {
        let named = |names: &[&str]| -> Value {
            names
                .iter()
                .map(|name| json!({"metadata": {"name": name}}))
                .collect()
        };
        for (group, plural, items, foreign) in [
            ("", "pods", Value::Null, None),
            ("", "pods", json!([]), None),
            ("", "pods", named(&["web"]), Some("web")),
            ("", "configmaps", named(&["kube-root-ca.crt"]), None),
            (
                "",
                "configmaps",
                named(&["kube-root-ca.crt", "theirs"]),
                Some("theirs"),
            ),
            ("", "serviceaccounts", named(&["default"]), None),
            ("", "secrets", named(&["default"]), Some("default")),
            (
                "shop.example",
                "configmaps",
                named(&["kube-root-ca.crt"]),
                Some("kube-root-ca.crt"),
            ),
        ] {
            let list = mk_list(&items);
            assert_eq!(
                list.foreign(&mk_kind(group, plural)).unwrap(),
                foreign,
                "{plural} {items}"
            );
        }
    }

    #[test]
    fn an_answer_that_is_no_list_says_nothing() {
        let list: List = serde_json::from_value(json!({"kind": "Status"})).unwrap();
        assert!(list.foreign(&mk_kind("", "pods")).is_err());
        assert!(serde_json::from_value::<List>(json!({"items": []})).is_err());
    }
}
