//! What the webhook knows besides the review: namespaces and avoidance, kept up to date by watches.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client};
use parking_lot::RwLock;
use tensile_core::avoidance::Avoidance;
use tensile_core::names;
use tensile_runtime::clock;
use tensile_runtime::object::{Meta, Namespaces};
use tensile_runtime::watch::Change;

use crate::mutate::{Namespace, Surroundings};

/// Time to ask for a namespace that the watch has not brought yet. The API server gives us 10 s in all
/// (`timeoutSeconds` of a webhook, default), and a watch is rarely later than this.
const LOOK_UP: Duration = Duration::from_secs(1);

/// Namespaces and avoidance as last seen.
#[derive(Debug, Default)]
pub struct Known {
    namespaces: RwLock<HashMap<Arc<str>, Namespace>>,
    avoidance: ArcSwap<Avoidance>,
}

// === impl Known ===

impl Known {
    /// Takes over a change of a namespace.
    pub fn namespace_changed(&self, change: Change<Meta<Namespaces>>) {
        let mut namespaces = self.namespaces.write();
        match change {
            Change::Apply(object) => {
                let name = object.metadata.name.as_deref().unwrap_or_default();
                namespaces.insert(name.into(), namespace(&object));
            }
            Change::Delete(object) => {
                namespaces.remove(object.metadata.name.as_deref().unwrap_or_default());
            }
            Change::Reset(keys) => {
                let kept: std::collections::HashSet<&str> = keys.iter().map(|key| &*key.name).collect();
                namespaces.retain(|name, _| kept.contains(&**name));
            }
        }
    }

    /// Takes over a change of the ConfigMap with the avoidance entries.
    pub fn avoidance_changed(&self, change: Change<ConfigMap>) {
        match change {
            Change::Apply(map) => {
                let (avoidance, errors) = Avoidance::decode(&map.data.unwrap_or_default());
                for error in errors {
                    tracing::warn!(%error, "an avoidance entry has no effect");
                }
                self.avoidance.store(Arc::new(avoidance));
            }
            Change::Delete(_) => self.avoidance.store(Arc::default()),
            Change::Reset(keys) if keys.is_empty() => self.avoidance.store(Arc::default()),
            Change::Reset(_) => {}
        }
    }

    /// Asks for a namespace if the watch has not brought it yet: often it is made by the same manifest as
    /// its first pods.
    pub async fn look_up(&self, client: &Client, name: &str) {
        if name.is_empty() || self.namespaces.read().contains_key(name) {
            return;
        }
        let api: Api<Meta<Namespaces>> = Api::all(client.clone());
        match tokio::time::timeout(LOOK_UP, api.get(name)).await {
            // The watch may have been faster, and later.
            Ok(Ok(object)) => drop(
                self.namespaces
                    .write()
                    .entry(name.into())
                    .or_insert_with(|| namespace(&object)),
            ),
            Ok(Err(error)) => tracing::warn!(namespace = name, %error, "cannot look the namespace up"),
            Err(_) => tracing::warn!(namespace = name, "cannot look the namespace up in time"),
        }
    }
}

impl Surroundings for Known {
    fn namespace(&self, name: &str) -> Namespace {
        self.namespaces.read().get(name).cloned().unwrap_or_default()
    }

    fn any_avoided(&self) -> bool {
        !self.avoidance.load().is_empty()
    }

    fn avoided(&self, owner: &str) -> Vec<String> {
        let avoidance = self.avoidance.load();
        if avoidance.is_empty() {
            return Vec::new();
        }
        avoidance.nodes(owner, clock::now()).map(str::to_owned).collect()
    }
}

fn namespace(object: &Meta<Namespaces>) -> Namespace {
    let (labels, annotations) = (&object.metadata.labels, &object.metadata.annotations);
    Namespace {
        virtual_pods: labels
            .as_ref()
            .and_then(|map| map.get(names::VIRTUAL_POD))
            .is_some_and(|value| value == "true"),
        when_unreachable: annotations
            .as_ref()
            .and_then(|map| map.get(names::WHEN_UNREACHABLE))
            .cloned(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::{Value, json};
    use tensile_runtime::key::Key;

    use super::*;

    fn mk_namespace(metadata: &Value) -> Meta<Namespaces> {
        serde_json::from_value(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}))
            .unwrap()
    }

    fn mk_avoidance(data: &Value) -> ConfigMap {
        serde_json::from_value(json!({"metadata": {"name": "tensile-avoidance"}, "data": data})).unwrap()
    }

    #[test]
    fn namespaces_follow_the_watch() {
        let known = Known::default();
        assert_eq!(known.namespace("a"), Namespace::default());
        let labelled = json!({"name": "a", "labels": {"virtual-pod": "true"}});
        known.namespace_changed(Change::Apply(mk_namespace(&labelled)));
        assert!(known.namespace("a").virtual_pods);
        let annotated = json!({"name": "a", "labels": {"virtual-pod": "no"},
            "annotations": {"tensile.dev/when-unreachable": "stay"}});
        known.namespace_changed(Change::Apply(mk_namespace(&annotated)));
        let expected = Namespace {
            virtual_pods: false,
            when_unreachable: Some("stay".to_owned()),
        };
        assert_eq!(known.namespace("a"), expected);
        known.namespace_changed(Change::Reset(HashSet::from([Key::new("", "b")])));
        assert_eq!(known.namespace("a"), Namespace::default());
    }

    #[test]
    fn avoidance_follows_the_watch_and_expired_entries_have_no_effect() {
        let known = Known::default();
        let far = u64::MAX;
        let data = json!({"owner": format!(r#"{{"v": {far}, "past": 1}}"#), "broken": "x"});
        known.avoidance_changed(Change::Apply(mk_avoidance(&data)));
        assert_eq!(known.avoided("owner"), ["v"]);
        assert!(known.avoided("broken").is_empty());
        known.avoidance_changed(Change::Reset(HashSet::from([Key::new("s", "tensile-avoidance")])));
        assert_eq!(known.avoided("owner"), ["v"], "it is still there");
        known.avoidance_changed(Change::Reset(HashSet::new()));
        assert!(known.avoided("owner").is_empty());
        known.avoidance_changed(Change::Apply(mk_avoidance(&data)));
        known.avoidance_changed(Change::Delete(mk_avoidance(&data)));
        assert!(known.avoided("owner").is_empty());
    }
}
