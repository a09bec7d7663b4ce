//! What lower clusters and virtual nodes show of themselves: a registry each, whose labels say whose figures they are,
//! and what the nodes know.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::Registry;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

use crate::kubelet::Current;

/// The registries of all virtual nodes that run; clones share them.
#[derive(Clone, Default)]
pub struct Registries(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    next: u64,
    entries: BTreeMap<u64, Entry>,
}

struct Entry {
    registry: Registry,
    node: Option<NodeState>,
}

/// A virtual node, and what it knows while this process runs it.
#[derive(Clone)]
pub struct NodeState {
    /// Id of its cluster.
    pub cluster: String,
    /// Its name.
    pub name: String,
    /// Its indices and queues.
    pub current: Current,
}

/// The registry of one virtual node or of a cluster; its figures are not shown any more when this is dropped.
pub struct OwnRegistry {
    /// Where to register.
    pub registry: Registry,
    number: u64,
    all: Registries,
}

// === impl Registries ===

impl Registries {
    /// A registry whose metrics have the label `cluster`.
    ///
    /// # Errors
    /// Never with these labels, as far as prometheus tells.
    pub fn add_cluster(&self, cluster: &str) -> prometheus::Result<OwnRegistry> {
        self.add(&[("cluster", cluster)], None)
    }

    /// A registry whose metrics have the labels `cluster` and `node`.
    ///
    /// # Errors
    /// As [`Registries::add_cluster`].
    pub fn add_node(&self, node: NodeState) -> prometheus::Result<OwnRegistry> {
        let (cluster, name) = (node.cluster.clone(), node.name.clone());
        self.add(&[("cluster", &cluster), ("node", &name)], Some(node))
    }

    fn add(&self, labels: &[(&str, &str)], node: Option<NodeState>) -> prometheus::Result<OwnRegistry> {
        let labels: HashMap<String, String> = labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let registry = Registry::new_custom(None, Some(labels))?;
        let mut state = self.0.lock();
        state.next += 1;
        let number = state.next;
        let entry = Entry {
            registry: registry.clone(),
            node,
        };
        state.entries.insert(number, entry);
        Ok(OwnRegistry {
            registry,
            number,
            all: self.clone(),
        })
    }

    /// The virtual nodes that this process has, whether it runs them now or not.
    #[must_use]
    pub fn nodes(&self) -> Vec<NodeState> {
        let state = self.0.lock();
        let nodes = state.entries.values().filter_map(|entry| entry.node.clone());
        nodes.collect()
    }
}

/// The registry that this is registered in merges families of the same name.
impl Collector for Registries {
    fn desc(&self) -> Vec<&Desc> {
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // Not under the lock: a registry may look at what a virtual node knows.
        let registries: Vec<Registry> = {
            let state = self.0.lock();
            let all = state.entries.values();
            all.map(|entry| entry.registry.clone()).collect()
        };
        registries.iter().flat_map(Registry::gather).collect()
    }
}

// === impl OwnRegistry ===

impl Drop for OwnRegistry {
    fn drop(&mut self) {
        self.all.0.lock().entries.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use prometheus::{IntCounter, TextEncoder};

    use super::*;

    #[test]
    fn each_virtual_node_has_figures_of_its_own_until_it_ends() {
        let (all, process) = (Registries::default(), Registry::new());
        process.register(Box::new(all.clone())).unwrap();
        let mk = |node: &str| {
            let own = all
                .add_node(NodeState {
                    cluster: "a".to_owned(),
                    name: node.to_owned(),
                    current: Current::default(),
                })
                .unwrap();
            let counter = IntCounter::new("tensile_test_total", "A test.").unwrap();
            own.registry.register(Box::new(counter.clone())).unwrap();
            counter.inc();
            own
        };
        let (_one, two) = (mk("one"), mk("two"));
        let _cluster = all.add_cluster("a").unwrap();
        assert_eq!(all.nodes().len(), 2);
        let text = || TextEncoder::new().encode_to_string(&process.gather()).unwrap();
        let shown = text();
        for node in ["one", "two"] {
            let labels = [format!("node=\"{node}\""), "cluster=\"a\"".to_owned()];
            let is_its = |line: &str| labels.iter().all(|label| line.contains(label)) && line.ends_with(" 1");
            assert!(shown.lines().any(is_its), "{shown}");
        }
        assert_eq!(shown.matches("# TYPE").count(), 1, "{shown}");
        drop(two);
        assert!(!text().contains("two"));
    }
}
