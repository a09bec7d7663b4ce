//! The upper pods on virtual nodes.

use std::collections::HashMap;

use serde_json::Value;
use tensile_runtime::key::Key;
use tensile_runtime::object::{self, Viewed};
use tensile_runtime::watch::Change;

use crate::pod::{Pod, Templates};

/// Changes after which templates that no pod has any more are forgotten: rare enough to cost nothing, often enough
/// that they never outnumber the pods by more than this.
const SWEEP_AFTER: u32 = 10_000;

/// The upper pods on virtual nodes, kept up to date by a watch.
#[derive(Debug, Default)]
pub struct Pods {
    pods: HashMap<Key, Pod>,
    templates: Templates,
    changes: u32,
}

// === impl Pods ===

impl Pods {
    /// Takes over a change. `is_virtual` says of a node's name whether it is a virtual node.
    pub fn changed(
        &mut self,
        change: &Change<Viewed<object::Pods, Value>>,
        is_virtual: impl Fn(&str) -> bool,
    ) {
        match change {
            Change::Apply(pod) => {
                let key = Key::of(pod);
                let node = pod.view["spec"]["nodeName"].as_str().unwrap_or_default();
                if is_virtual(node) {
                    self.pods.insert(key, Pod::read(&pod.view, &mut self.templates));
                } else {
                    self.pods.remove(&key);
                }
            }
            Change::Delete(pod) => drop(self.pods.remove(&Key::of(pod))),
            Change::Reset(keys) => self.pods.retain(|key, _| keys.contains(key)),
        }
        self.changes += 1;
        if self.changes >= SWEEP_AFTER {
            self.changes = 0;
            self.templates.sweep();
        }
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Pod> {
        self.pods.values()
    }

    /// The pod of this name.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Pod> {
        self.pods.get(key)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.pods.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.pods.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::mk_replica;

    fn mk_viewed(name: &str, node: &str) -> Viewed<object::Pods, Value> {
        serde_json::from_str(&mk_replica(name, "1", node).to_string()).unwrap()
    }

    #[test]
    fn only_pods_on_virtual_nodes_are_kept() {
        let mut pods = Pods::default();
        let is_virtual = |node: &str| node == "va";
        for (name, node) in [("p", "va"), ("q", "va"), ("r", "ordinary")] {
            pods.changed(&Change::Apply(mk_viewed(name, node)), is_virtual);
        }
        assert_eq!(pods.len(), 2);
        pods.changed(&Change::Delete(mk_viewed("p", "va")), is_virtual);
        assert!(pods.get(&Key::new("ns", "p")).is_none() && pods.get(&Key::new("ns", "q")).is_some());
        pods.changed(&Change::Reset([Key::new("ns", "r")].into()), is_virtual);
        assert!(pods.is_empty());
    }
}
