//! What the lower cluster has for us: the sum over its usable nodes, less what others' pods ask for there.
//!
//! Nothing is accumulated from events: the nodes and pods are kept, and every figure is computed from all of
//! them, at most once a second.

use std::collections::{BTreeMap, HashMap, HashSet};

use tensile_core::resources::Resources;
use tensile_core::view::{NodeView, PodView};
use tensile_runtime::key::Key;
use tensile_runtime::object::{Nodes, Pods, Viewed};
use tensile_runtime::watch::Change;

/// Labels that say which machine it is, not what the cluster is.
const OWN_LABELS: [&str; 2] = ["kubernetes.io/hostname", "beta.kubernetes.io/hostname"];
/// Labels with this in their key mark roles and restrictions within the lower cluster.
const EXCLUDED: [&str; 3] = [
    "node-role.kubernetes.io/",
    "node-restriction.kubernetes.io/",
    "node.kubernetes.io/exclude-",
];

/// A lower node as its watch delivers it.
pub type LowerNode = Viewed<Nodes, NodeView>;
/// A lower pod that is not ours, as its watch delivers it.
pub type OtherPod = Viewed<Pods, PodView>;

/// Nodes of the lower cluster, and what pods that are not ours hold of them.
#[derive(Debug, Default)]
pub struct Capacity {
    nodes: HashMap<Key, NodeView>,
    others: HashMap<Key, Held>,
}

#[derive(Debug)]
struct Held {
    node: Box<str>,
    request: Resources,
}

/// What the virtual node shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Σ capacity.
    pub capacity: Resources,
    /// Σ allocatable − Σ requests of others, never negative.
    pub allocatable: Resources,
    /// Labels on which all counted nodes agree.
    pub labels: BTreeMap<String, String>,
    /// Architecture, if all nodes agree.
    pub architecture: Option<String>,
    /// Operating system, if all nodes agree.
    pub operating_system: Option<String>,
    /// The lowest kubelet version.
    pub kubelet_version: Option<String>,
    /// Number of nodes counted.
    pub nodes: usize,
}

// === impl Capacity ===

impl Capacity {
    /// Takes a change of a lower node.
    pub fn node(&mut self, change: Change<LowerNode>) {
        match change {
            Change::Apply(node) => {
                self.nodes.insert(Key::of(&node), node.view);
            }
            Change::Delete(node) => {
                self.nodes.remove(&Key::of(&node));
            }
            Change::Reset(live) => self.nodes.retain(|key, _| live.contains(key)),
        }
    }

    /// Takes a change of a pod that is not ours; says whether figures may have changed.
    pub fn other_pod(&mut self, change: Change<OtherPod>) -> bool {
        match change {
            Change::Apply(pod) => self.apply(&Key::of(&pod), &pod.view),
            Change::Delete(pod) => self.others.remove(&Key::of(&pod)).is_some(),
            Change::Reset(live) => self.retain(&live),
        }
    }

    fn apply(&mut self, key: &Key, pod: &PodView) -> bool {
        let Some(node) = pod.node_name.clone().filter(|_| pod.occupies_node()) else {
            return self.others.remove(key).is_some();
        };
        let same = self
            .others
            .get(key)
            .is_some_and(|held| held.node == node && held.request == pod.request);
        if !same {
            self.others.insert(
                key.clone(),
                Held {
                    node,
                    request: pod.request.clone(),
                },
            );
        }
        !same
    }

    fn retain(&mut self, live: &HashSet<Key>) -> bool {
        let before = self.others.len();
        self.others.retain(|key, _| live.contains(key));
        self.others.len() != before
    }

    /// All nodes by name, and whether each is usable.
    #[must_use]
    pub fn node_names(&self) -> BTreeMap<String, bool> {
        let nodes = self.nodes.values();
        nodes
            .map(|node| (node.name.to_string(), is_usable(node)))
            .collect()
    }

    /// The figures, from all nodes and pods.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let usable: Vec<&NodeView> = self.nodes.values().filter(|node| is_usable(node)).collect();
        let names: HashSet<&str> = usable.iter().map(|node| &*node.name).collect();
        let mut summary = Summary {
            nodes: usable.len(),
            labels: common_labels(&usable),
            ..Summary::default()
        };
        for node in &usable {
            summary.capacity.add(&node.capacity);
            summary.allocatable.add(&node.allocatable);
        }
        for held in self.others.values().filter(|held| names.contains(&*held.node)) {
            summary.allocatable.sub(&held.request);
        }
        summary.allocatable.clamp_to_zero();
        summary.architecture = agreed(usable.iter().map(|node| &*node.architecture));
        summary.operating_system = agreed(usable.iter().map(|node| &*node.operating_system));
        let versions = usable.iter().map(|node| &*node.kubelet_version);
        summary.kubelet_version = versions.min_by_key(|version| numbers(version)).map(str::to_owned);
        summary
    }
}

/// Whether pods can be scheduled to the node now.
fn is_usable(node: &NodeView) -> bool {
    node.ready && !node.unschedulable
}

/// Labels that all nodes have with the same value.
fn common_labels(nodes: &[&NodeView]) -> BTreeMap<String, String> {
    let Some((first, rest)) = nodes.split_first() else {
        return BTreeMap::new();
    };
    first
        .labels
        .iter()
        .filter(|(key, _)| !OWN_LABELS.contains(key) && !EXCLUDED.iter().any(|part| key.contains(part)))
        .filter(|(key, value)| rest.iter().all(|node| node.labels.get(key) == Some(value)))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn agreed<'a>(mut values: impl Iterator<Item = &'a str>) -> Option<String> {
    let first = values.next().filter(|value| !value.is_empty())?;
    values.all(|value| value == first).then(|| first.to_owned())
}

/// `v1.36.3` as `[1, 36, 3]`, so that 1.9 comes before 1.10.
fn numbers(version: &str) -> Vec<u32> {
    version
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|part| part.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn mk_node(name: &str, extra: &Value) -> LowerNode {
        let mut node = json!({
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "zone": "z1"}},
            "status": {
                "capacity": {"cpu": "4", "memory": "8Gi", "pods": "110"},
                "allocatable": {"cpu": "3", "memory": "6Gi", "pods": "100"},
                "conditions": [{"type": "Ready", "status": "True"}],
                "nodeInfo": {"kubeletVersion": "v1.36.3", "architecture": "amd64", "operatingSystem": "linux"}
            }
        });
        json_patch::merge(&mut node, extra);
        serde_json::from_value(node).unwrap()
    }

    fn mk_pod(name: &str, node: &str, cpu: &str, phase: &str) -> OtherPod {
        serde_json::from_value(json!({
            "metadata": {"name": name, "namespace": "ns"},
            "spec": {"nodeName": node, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
            "status": {"phase": phase}
        }))
        .unwrap()
    }

    fn cpu(capacity: &Capacity) -> Value {
        Value::Object(capacity.summary().allocatable.to_json())["cpu"].clone()
    }

    #[test]
    fn sums_usable_nodes_less_what_others_hold_there() {
        let mut capacity = Capacity::default();
        capacity.node(Change::Apply(mk_node("a", &json!({}))));
        capacity.node(Change::Apply(mk_node("b", &json!({}))));
        assert_eq!(cpu(&capacity), "6");
        capacity.other_pod(Change::Apply(mk_pod("p", "a", "500m", "Running")));
        capacity.other_pod(Change::Apply(mk_pod("elsewhere", "gone", "2", "Running")));
        assert_eq!(cpu(&capacity), "5500m");
        capacity.other_pod(Change::Apply(mk_pod("p", "a", "500m", "Succeeded")));
        assert_eq!(cpu(&capacity), "6");
    }

    #[test]
    fn cordoned_and_not_ready_nodes_do_not_count() {
        for extra in [
            json!({"spec": {"unschedulable": true}}),
            json!({"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}),
            json!({"spec": {"unschedulable": true}, "status": {"conditions": []}}),
        ] {
            let mut capacity = Capacity::default();
            capacity.node(Change::Apply(mk_node("a", &json!({}))));
            capacity.node(Change::Apply(mk_node("b", &extra)));
            capacity.other_pod(Change::Apply(mk_pod("p", "b", "1", "Running")));
            assert_eq!(cpu(&capacity), "3", "{extra}");
        }
    }

    #[test]
    fn figures_are_never_negative() {
        let mut capacity = Capacity::default();
        capacity.node(Change::Apply(mk_node("a", &json!({}))));
        capacity.other_pod(Change::Apply(mk_pod("p", "a", "50", "Running")));
        assert_eq!(cpu(&capacity), "0");
    }

    #[test]
    fn a_reset_forgets_what_is_gone() {
        let mut capacity = Capacity::default();
        capacity.node(Change::Apply(mk_node("a", &json!({}))));
        capacity.node(Change::Apply(mk_node("b", &json!({}))));
        capacity.other_pod(Change::Apply(mk_pod("p", "a", "1", "Running")));
        capacity.node(Change::Reset(HashSet::from([Key::new("", "a")])));
        assert!(capacity.other_pod(Change::Reset(HashSet::new())));
        assert_eq!(cpu(&capacity), "3");
    }

    #[test]
    fn shows_labels_and_versions_that_all_nodes_share() {
        let mut capacity = Capacity::default();
        capacity.node(Change::Apply(mk_node(
            "a",
            &json!({"metadata": {"labels": {"disk": "ssd"}}}),
        )));
        let other = json!({"metadata": {"labels": {"disk": "hdd"}}, "status": {"nodeInfo": {"kubeletVersion": "v1.9.10"}}});
        capacity.node(Change::Apply(mk_node("b", &other)));
        let summary = capacity.summary();
        assert_eq!(
            summary.labels,
            BTreeMap::from([("zone".to_owned(), "z1".to_owned())])
        );
        assert_eq!(summary.kubelet_version.as_deref(), Some("v1.9.10"));
        assert_eq!(summary.architecture.as_deref(), Some("amd64"));
    }
}
