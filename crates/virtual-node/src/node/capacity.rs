//! What the lower cluster has for us: the sum over its usable nodes, less what others' pods ask for there.
//!
//! Nothing is accumulated from events: the nodes and pods are kept, once for all pools, and every figure is computed
//! from all of them, at most once a second.

use std::collections::{BTreeMap, HashMap, HashSet};

use tensile_core::resources::Resources;
use tensile_core::view::{NodeView, PodView};
use tensile_runtime::key::Key;
use tensile_runtime::object::{Nodes, Pods, Viewed};
use tensile_runtime::watch::Change;

use crate::pools::Pool;

/// Labels that say which machine it is, not what the cluster is.
const OWN_LABELS: [&str; 2] = ["kubernetes.io/hostname", "beta.kubernetes.io/hostname"];
/// Labels with this in their key mark roles and restrictions within the lower cluster.
const EXCLUDED: [&str; 3] = [
    "node-role.kubernetes.io/",
    "node-restriction.kubernetes.io/",
    "node.kubernetes.io/exclude-",
];

/// The declared feature that is not passed on.
const STREAM_FEATURE: &str = "ExtendWebSocketsToKubelet";

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
    /// `declaredFeatures` that all nodes have, sorted.
    pub features: Vec<String>,
    /// What is wrong with the pool, and what to do about it.
    pub pool_problem: Option<String>,
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

    /// Whether the node `name` cannot stop what runs there: it is not ready, or gone.
    #[must_use]
    pub fn is_dead(&self, name: &str) -> bool {
        self.nodes.get(&Key::new("", name)).is_none_or(|node| !node.ready)
    }

    /// All nodes of a pool by name, and whether each is usable.
    #[must_use]
    pub fn node_names(&self, pool: &Pool) -> BTreeMap<String, bool> {
        let mine = self.nodes.values().filter(|node| pool.owns(&node.labels));
        mine.map(|node| (node.name.to_string(), is_usable(node)))
            .collect()
    }

    /// The figures of a pool, from all nodes and pods.
    #[must_use]
    pub fn summary(&self, pool: &Pool) -> Summary {
        let is_counted = |node: &&NodeView| is_usable(node) && pool.owns(&node.labels);
        let usable: Vec<&NodeView> = self.nodes.values().filter(is_counted).collect();
        let systems = || usable.iter().map(|node| &*node.operating_system);
        let mixed = systems().any(|system| Some(system) != systems().next());
        let pool_problem = self.problem(pool, mixed);
        if mixed {
            return Summary {
                pool_problem,
                ..Summary::default()
            };
        }
        let mut summary = Summary {
            nodes: usable.len(),
            labels: common_labels(&usable, pool),
            features: common_features(&usable),
            operating_system: agreed(systems()),
            pool_problem,
            ..Summary::default()
        };
        self.sum(pool, &usable, &mut summary);
        summary.architecture = agreed(usable.iter().map(|node| &*node.architecture));
        let versions = usable.iter().map(|node| &*node.kubelet_version);
        summary.kubelet_version = versions.min_by_key(|version| numbers(version)).map(str::to_owned);
        summary
    }

    fn sum(&self, pool: &Pool, usable: &[&NodeView], summary: &mut Summary) {
        let names: HashSet<&str> = usable.iter().map(|node| &*node.name).collect();
        for node in usable {
            summary.capacity.add(&node.capacity);
            summary.allocatable.add(&node.allocatable);
        }
        for held in self.others.values().filter(|held| names.contains(&*held.node)) {
            summary.allocatable.sub(&held.request);
        }
        for (lane, units) in &pool.fixed {
            summary.capacity.set(lane, *units);
            summary.allocatable.set(lane, *units);
        }
        summary.allocatable.clamp_to_zero();
    }

    /// Nodes that several pools claim are counted by none; nodes of several systems would show a wrong one.
    fn problem(&self, pool: &Pool, mixed: bool) -> Option<String> {
        let mut overlaps: Vec<_> = self
            .nodes
            .values()
            .filter_map(|node| Some((&*node.name, pool.rival(&node.labels)?)))
            .collect();
        overlaps.sort_unstable();
        if let Some((node, rival)) = overlaps.first() {
            return Some(format!(
                "{} lower nodes, {node} among them, match the selectors of both {} and {rival} and count for neither; \
                 correct nodes.yaml",
                overlaps.len(),
                pool.name
            ));
        }
        mixed.then(|| {
            "the lower nodes have several operating systems and count for nothing; give nodes.yaml a selector such as \
             kubernetes.io/os: linux"
                .to_owned()
        })
    }
}

/// Whether pods can be scheduled to the node now.
fn is_usable(node: &NodeView) -> bool {
    node.ready && !node.unschedulable
}

/// Labels that all nodes have with the same value.
fn common_labels(nodes: &[&NodeView], pool: &Pool) -> BTreeMap<String, String> {
    let Some((first, rest)) = nodes.split_first() else {
        return BTreeMap::new();
    };
    first
        .labels
        .iter()
        .filter(|(key, _)| !OWN_LABELS.contains(key) && !EXCLUDED.iter().any(|part| key.contains(part)))
        .filter(|(key, _)| !pool.exclude_labels.iter().any(|pattern| pattern.matches(key)))
        .filter(|(key, value)| rest.iter().all(|node| node.labels.get(key) == Some(value)))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

/// Features that every node declares, so that no pod is sent where the next kubelet would refuse it. The one of
/// WebSockets is left out: it would switch the protocol of streams to what the lower API server must translate.
fn common_features(nodes: &[&NodeView]) -> Vec<String> {
    let Some((first, rest)) = nodes.split_first() else {
        return Vec::new();
    };
    let mut features: Vec<String> = first
        .declared_features
        .iter()
        .filter(|feature| &***feature != STREAM_FEATURE)
        .filter(|feature| rest.iter().all(|node| node.declared_features.contains(feature)))
        .map(ToString::to_string)
        .collect();
    features.sort_unstable();
    features
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
        Value::Object(capacity.summary(&Pool::default()).allocatable.to_json())["cpu"].clone()
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

    fn mk_pool(yaml: &str, index: usize) -> Pool {
        let nodes = tensile_runtime::clusters::NodeConfig::read_file("a", yaml).unwrap();
        Pool::new(&nodes, index)
    }

    #[test]
    fn a_pool_counts_its_nodes_and_shows_what_its_configuration_says() {
        let yaml = "nodes: [{name: ssd, selector: {matchLabels: {disk: ssd}}, excludeLabels: [zo*], resources: {cpu: 7}}, \
                    {name: hdd, selector: {matchLabels: {disk: hdd}}}]";
        let figures = |index| {
            let mut capacity = Capacity::default();
            for (name, disk) in [("a", "ssd"), ("b", "ssd"), ("c", "hdd")] {
                let labels = json!({"metadata": {"labels": {"disk": disk}}});
                capacity.node(Change::Apply(mk_node(name, &labels)));
            }
            capacity.summary(&mk_pool(yaml, index))
        };
        let (ssd, hdd) = (figures(0), figures(1));
        assert_eq!((ssd.nodes, hdd.nodes), (2, 1));
        assert_eq!(
            ssd.labels,
            BTreeMap::from([("disk".to_owned(), "ssd".to_owned())])
        );
        assert_eq!(ssd.allocatable.to_json()["cpu"], "7");
        assert_eq!(ssd.capacity.to_json()["memory"], "16Gi");
        assert_eq!(hdd.pool_problem, None);
    }

    #[test]
    fn a_node_of_two_pools_counts_for_neither_and_both_are_named() {
        let yaml = "nodes: [{name: one}, {name: two, selector: {matchLabels: {disk: ssd}}}]";
        for index in [0, 1] {
            let mut capacity = Capacity::default();
            let labels = json!({"metadata": {"labels": {"disk": "ssd"}}});
            capacity.node(Change::Apply(mk_node("a", &labels)));
            let summary = capacity.summary(&mk_pool(yaml, index));
            assert_eq!(summary.nodes, 0);
            let problem = summary.pool_problem.unwrap();
            assert!(problem.contains("one") && problem.contains("two"), "{problem}");
        }
    }

    #[test]
    fn nodes_of_several_systems_count_for_nothing_and_say_so() {
        let mut capacity = Capacity::default();
        capacity.node(Change::Apply(mk_node("a", &json!({}))));
        let windows = json!({"status": {"nodeInfo": {"operatingSystem": "windows"}}});
        capacity.node(Change::Apply(mk_node("b", &windows)));
        let summary = capacity.summary(&Pool::default());
        assert_eq!(summary.nodes, 0);
        assert!(summary.pool_problem.unwrap().contains("kubernetes.io/os"));
    }

    #[test]
    fn features_are_those_that_every_node_declares() {
        let mut capacity = Capacity::default();
        for (name, features) in [
            ("a", json!(["C", "A", "ExtendWebSocketsToKubelet"])),
            ("b", json!(["A", "B", "C", "ExtendWebSocketsToKubelet"])),
        ] {
            let node = mk_node(name, &json!({"status": {"declaredFeatures": features}}));
            capacity.node(Change::Apply(node));
        }
        assert_eq!(capacity.summary(&Pool::default()).features, ["A", "C"]);
    }

    /// One event: what of `kind` called `name` becomes, with a figure.
    type Event = (u8, u8, u8, u8);

    fn play(events: &[Event]) -> Capacity {
        let mut capacity = Capacity::default();
        for &(what, name, place, figure) in events {
            let (node, pod) = (format!("n{}", name % 3), format!("p{}", name % 5));
            let extra = json!({
                "spec": {"unschedulable": figure % 4 == 0},
                "status": {"conditions": [{"type": "Ready", "status": if figure % 3 == 0 { "False" } else { "True" }}]},
            });
            let phase = if figure % 5 == 0 { "Succeeded" } else { "Running" };
            let pod = mk_pod(&pod, &format!("n{}", place % 3), &figure.to_string(), phase);
            match what % 5 {
                0 | 1 => capacity.node(Change::Apply(mk_node(&node, &extra))),
                2 => capacity.node(Change::Delete(mk_node(&node, &extra))),
                3 => drop(capacity.other_pod(Change::Apply(pod))),
                _ => drop(capacity.other_pod(Change::Delete(pod))),
            }
        }
        capacity
    }

    /// The last event of each object, which is its final state.
    fn last(events: &[Event]) -> Vec<Event> {
        let id = |&(what, name, ..): &Event| {
            if what % 5 < 3 {
                (0, name % 3)
            } else {
                (1, name % 5)
            }
        };
        let is_last =
            |(at, event): &(usize, &Event)| !events[at + 1..].iter().any(|later| id(later) == id(event));
        events
            .iter()
            .enumerate()
            .filter(is_last)
            .map(|(_, event)| *event)
            .collect()
    }

    proptest::proptest! {
        #[test]
        fn any_sequence_of_events_leads_to_the_figures_of_the_final_state(
            events in proptest::collection::vec(proptest::prelude::any::<Event>(), 0..60)
        ) {
            let summary = play(&events).summary(&Pool::default());
            proptest::prop_assert_eq!(&summary, &play(&last(&events)).summary(&Pool::default()));
            proptest::prop_assert!(summary.allocatable.iter().all(|(_, units)| units >= 0));
        }
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
        let summary = capacity.summary(&Pool::default());
        assert_eq!(
            summary.labels,
            BTreeMap::from([("zone".to_owned(), "z1".to_owned())])
        );
        assert_eq!(summary.kubelet_version.as_deref(), Some("v1.9.10"));
        assert_eq!(summary.architecture.as_deref(), Some("amd64"));
    }
}
