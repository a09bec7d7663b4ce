//! Metrics per lower cluster and virtual node: a registry each, whose labels say whose figures they are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::Registry;
use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;

/// The registries of all virtual nodes that run; clones share them.
#[derive(Clone, Default)]
pub struct Registries(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    next: u64,
    registries: BTreeMap<u64, Registry>,
}

/// The registry of one virtual node; its figures are not shown any more when this is dropped.
pub struct OwnRegistry {
    /// Where to register.
    pub registry: Registry,
    number: u64,
    all: Registries,
}

// === impl Registries ===

impl Registries {
    /// A registry whose metrics have the labels `cluster` and `node`.
    ///
    /// # Errors
    /// Never with these labels, as far as prometheus tells.
    pub fn add(&self, cluster: &str, node: &str) -> prometheus::Result<OwnRegistry> {
        let labels = HashMap::from([("cluster", cluster), ("node", node)]);
        let labels = labels
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()));
        let registry = Registry::new_custom(None, Some(labels.collect()))?;
        let mut state = self.0.lock();
        state.next += 1;
        let number = state.next;
        state.registries.insert(number, registry.clone());
        Ok(OwnRegistry {
            registry,
            number,
            all: self.clone(),
        })
    }
}

/// The registry that this is registered in merges families of the same name.
impl Collector for Registries {
    fn desc(&self) -> Vec<&Desc> {
        Vec::new()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.0
            .lock()
            .registries
            .values()
            .flat_map(Registry::gather)
            .collect()
    }
}

// === impl OwnRegistry ===

impl Drop for OwnRegistry {
    fn drop(&mut self) {
        self.all.0.lock().registries.remove(&self.number);
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
            let own = all.add("a", node).unwrap();
            let counter = IntCounter::new("tensile_test_total", "A test.").unwrap();
            own.registry.register(Box::new(counter.clone())).unwrap();
            counter.inc();
            own
        };
        let (_one, two) = (mk("one"), mk("two"));
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
