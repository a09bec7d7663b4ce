//! Which claims are ours to look at, beside those that pods use.

use std::collections::{BTreeSet, HashMap, HashSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use tensile_core::names;
use tensile_core::translate::volume;
use tensile_runtime::key::Key;
use tensile_runtime::object::{Meta, PersistentVolumes};

/// Upper claims that wait for a volume on this virtual node, and our upper volumes by claim.
#[derive(Debug, Default)]
pub struct Index {
    wanted: HashSet<Key>,
    volumes: HashMap<Key, BTreeSet<Box<str>>>,
}

// === impl Index ===

impl Index {
    /// Takes an upper claim as its watch shows it, or that it is gone.
    pub fn set_upper(&mut self, key: &Key, claim: Option<&ObjectMeta>, node_name: &str) {
        let annotations = claim.and_then(|claim| claim.annotations.as_ref());
        if annotations.is_some_and(|annotations| volume::is_selected(annotations, node_name)) {
            self.wanted.insert(key.clone());
        } else {
            self.wanted.remove(key);
        }
    }

    /// Takes an upper volume of ours as its watch shows it; returns its claim.
    pub fn apply_volume(&mut self, volume: &Meta<PersistentVolumes>) -> Option<Key> {
        let claim = claim_of(&volume.metadata)?;
        let name = volume.metadata.name.as_deref().unwrap_or_default();
        self.volumes.entry(claim.clone()).or_default().insert(name.into());
        Some(claim)
    }

    /// The upper volume is gone; returns its claim.
    pub fn delete_volume(&mut self, volume: &Meta<PersistentVolumes>) -> Option<Key> {
        let claim = claim_of(&volume.metadata)?;
        if let Some(names) = self.volumes.get_mut(&claim) {
            names.remove(volume.metadata.name.as_deref().unwrap_or_default());
            if names.is_empty() {
                self.volumes.remove(&claim);
            }
        }
        Some(claim)
    }

    /// Only these upper volumes exist.
    pub fn retain_volumes(&mut self, live: &HashSet<Key>) {
        self.volumes.retain(|_, names| {
            names.retain(|name| live.contains(&Key::new("", name)));
            !names.is_empty()
        });
    }

    /// Whether a claim that no pod uses is ours to look at.
    #[must_use]
    pub fn is_ours(&self, key: &Key) -> bool {
        self.wanted.contains(key) || self.volumes.contains_key(key)
    }

    /// Our upper volumes for a claim, also for earlier claims of that name.
    #[must_use]
    pub fn volumes(&self, key: &Key) -> BTreeSet<Box<str>> {
        self.volumes.get(key).cloned().unwrap_or_default()
    }
}

fn claim_of(volume: &ObjectMeta) -> Option<Key> {
    let origin = volume.annotations.as_ref()?.get(names::ORIGIN)?;
    let (namespace, name) = origin.split_once('/')?;
    Some(Key::new(namespace, name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_volume(name: &str) -> Meta<PersistentVolumes> {
        let metadata = json!({"name": name, "annotations": {"tensile.dev/origin": "shop/data"}});
        serde_json::from_str(&json!({"metadata": metadata}).to_string()).unwrap()
    }

    #[test]
    fn a_claim_is_ours_while_it_waits_for_us_or_has_a_volume_of_ours() {
        let (mut index, key) = (Index::default(), Key::new("shop", "data"));
        let waiting = json!({"annotations": {
            "volume.kubernetes.io/selected-node": "vn", "volume.kubernetes.io/storage-provisioner": "tensile.dev",
        }});
        let waiting: ObjectMeta = serde_json::from_value(waiting).unwrap();
        index.set_upper(&key, Some(&waiting), "other");
        assert!(!index.is_ours(&key));
        index.set_upper(&key, Some(&waiting), "vn");
        assert!(index.is_ours(&key));
        index.set_upper(&key, None, "vn");
        assert!(!index.is_ours(&key));

        assert_eq!(index.apply_volume(&mk_volume("a")), Some(key.clone()));
        index.apply_volume(&mk_volume("b"));
        index.delete_volume(&mk_volume("a"));
        assert!(index.is_ours(&key));
        index.retain_volumes(&HashSet::new());
        assert!(!index.is_ours(&key));
    }
}
