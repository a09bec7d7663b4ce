use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};
use tensile_core::resources::Resources;

use super::*;
use crate::fit::Verdict;
use crate::testing::mk_candidate;

/// Per node: whether it is known, what is used, and how many pods of which shape are there.
type Figures = BTreeMap<String, (bool, Resources, BTreeMap<String, u32>)>;

fn mk_spec(cpu: u64, node: Option<&str>) -> Value {
    let anti = json!([{"labelSelector": {"matchLabels": {"app": "hostile"}}, "topologyKey": "zone"}]);
    let affinity = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": anti}});
    json!({
        "nodeName": node,
        "affinity": if cpu == 3 { affinity } else { json!(null) },
        "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu.to_string(), "example.com/x": "1"}}}]
    })
}

fn mk_pod(name: &str, cpu: u64, node: Option<&str>) -> Pod {
    mk_phased(name, cpu, node, "Running", None)
}

fn mk_phased(name: &str, cpu: u64, node: Option<&str>, phase: &str, origin: Option<&str>) -> Pod {
    let labels = origin.map_or(json!({}), |origin| json!({"tensile.dev/origin-uid": origin}));
    let metadata = json!({"name": name, "namespace": "ns", "labels": labels});
    let pod = json!({"metadata": metadata, "spec": mk_spec(cpu, node), "status": {"phase": phase}});
    serde_json::from_value(pod).unwrap()
}

fn mk_asking(cpu: u64) -> Candidate {
    mk_candidate(&json!({"namespace": "ns"}), &mk_spec(cpu, None))
}

fn mk_node(name: &str, cpu: u64) -> NodeView {
    let allocatable = json!({"cpu": cpu.to_string(), "pods": "9", "example.com/x": "9"});
    let node = json!({
        "metadata": {"name": name, "labels": {"zone": (cpu % 2).to_string()}},
        "status": {"allocatable": allocatable}
    });
    serde_json::from_value(node).unwrap()
}

fn figures(cluster: &Cluster) -> Figures {
    let describe = |shape: &Shape| format!("{}: {:?}", shape.namespace, shape.request);
    let figure = |node: &NodeState| {
        let pods = node
            .pods
            .iter()
            .map(|(shape, count)| (describe(shape), *count))
            .collect();
        (
            node.name.to_string(),
            (node.facts.is_some(), node.used.clone(), pods),
        )
    };
    cluster
        .nodes
        .iter()
        .filter(|node| !node.is_vacant())
        .map(figure)
        .collect()
}

/// What the inner indexes must agree on with the row of nodes.
fn assert_consistent(cluster: &Cluster) {
    let mut by_namespace: BTreeMap<(NodeId, *const Shape), u32> = BTreeMap::new();
    for namespace in cluster.namespaces.values() {
        assert!(
            namespace.known || !namespace.shapes.is_empty(),
            "a vacant namespace is kept"
        );
        for (shape, nodes) in &namespace.shapes {
            assert!(!nodes.is_empty(), "a vacant shape is kept");
            assert_eq!(cluster.repelling.contains(shape), !shape.anti_affinity.is_empty());
            by_namespace.extend(
                nodes
                    .iter()
                    .map(|(id, count)| ((*id, Arc::as_ptr(shape)), *count)),
            );
        }
    }
    let row = cluster.nodes.iter().enumerate().flat_map(|(id, node)| {
        node.pods
            .iter()
            .map(move |(shape, count)| ((id as NodeId, Arc::as_ptr(shape)), *count))
    });
    assert_eq!(row.collect::<BTreeMap<_, _>>(), by_namespace);
    let in_use = cluster.nodes.iter().filter(|node| !node.is_vacant()).count();
    assert_eq!(in_use, cluster.node_ids.len());
    assert_eq!(cluster.nodes.len(), cluster.node_ids.len() + cluster.vacant.len());
}

#[test]
fn a_pod_is_counted_on_its_node_until_it_is_over() {
    let mut cluster = Cluster::default();
    cluster.apply_node(&mk_node("n", 4));
    let used = |cluster: &Cluster| cluster.node("n").unwrap().used.milli_cpu;
    assert!(
        !cluster.apply_pod(&mk_pod("p", 1, None)),
        "an unbound pod holds nothing"
    );
    for (phase, expected) in [("Pending", 1000), ("Running", 1000), ("Succeeded", 0)] {
        cluster.apply_pod(&mk_phased("p", 1, Some("n"), phase, None));
        assert_eq!(used(&cluster), expected, "{phase}");
    }
    assert!(cluster.apply_pod(&mk_pod("p", 2, Some("n"))));
    assert!(
        !cluster.apply_pod(&mk_pod("p", 2, Some("n"))),
        "the same again changes nothing"
    );
    assert!(cluster.delete_pod(PodKey::new("ns", "p")));
    assert_eq!(used(&cluster), 0);
}

#[test]
fn pods_may_be_heard_of_before_their_node_and_outlive_it() {
    let mut cluster = Cluster::default();
    cluster.apply_pod(&mk_pod("p", 1, Some("n")));
    assert!(cluster.node("n").is_none());
    cluster.apply_node(&mk_node("n", 4));
    assert_eq!(cluster.node("n").unwrap().free().milli_cpu, 3000);
    cluster.delete_node("n");
    assert_eq!(cluster.nodes().count(), 0);
    cluster.apply_node(&mk_node("n", 2));
    assert_eq!(cluster.node("n").unwrap().free().milli_cpu, 1000);
}

#[test]
fn replicas_share_one_shape_though_their_origins_differ() {
    let mut cluster = Cluster::default();
    cluster.apply_pod(&mk_phased("p", 1, Some("n"), "Running", Some("o")));
    cluster.apply_pod(&mk_phased("q", 1, Some("n"), "Running", Some("other")));
    let shapes: Vec<u32> = cluster.nodes[0].pods.iter().map(|(_, count)| *count).collect();
    assert_eq!(shapes, [2]);
}

#[test]
fn hints_are_kept_or_missed_once_for_each_promise() {
    let mut cluster = Cluster::default();
    for (pod, origin, promised, taken) in [
        ("p", "o", "n", "n"),
        ("q", "other", "n", "m"),
        ("r", "late", "n", "n"),
    ] {
        cluster.reserve(origin.into(), &mk_asking(1), promised);
        cluster.apply_pod(&mk_phased(pod, 1, None, "Pending", Some(origin)));
        cluster.apply_pod(&mk_phased(pod, 1, Some(taken), "Pending", Some(origin)));
        cluster.apply_pod(&mk_phased(pod, 1, Some(taken), "Running", Some(origin)));
    }
    assert_eq!(cluster.hints(), Hints { kept: 2, missed: 1 });
}

#[test]
fn a_reservation_holds_a_place_until_the_lower_pod_takes_it() {
    let mut cluster = Cluster::default();
    cluster.apply_node(&mk_node("n", 1));
    let candidate = mk_asking(1);
    assert!(cluster.reserve("o".into(), &candidate, "n"));
    assert_eq!(Fit::of(&cluster, &candidate, None).verdict(), Verdict::FullNow);

    cluster.apply_pod(&mk_phased("p", 1, None, "Pending", Some("o")));
    assert_eq!(
        cluster.reservations().len(),
        1,
        "a lower pod that waits for its place keeps the promise"
    );

    cluster.apply_pod(&mk_phased("p", 1, Some("n"), "Pending", Some("o")));
    assert_eq!(cluster.reservations().len(), 0);
    assert_eq!(cluster.node("n").unwrap().used.milli_cpu, 1000, "counted once");
    assert!(!cluster.reserve("o".into(), &candidate, "n"), "it has its place");

    cluster.delete_pod(PodKey::new("ns", "p"));
    assert_eq!(Fit::of(&cluster, &candidate, None).verdict(), Verdict::Fits);
}

#[test]
fn a_reservation_ends_when_the_lower_pod_fails_or_it_is_taken_back() {
    let mut cluster = Cluster::default();
    cluster.apply_node(&mk_node("n", 4));
    for origin in ["failed", "released"] {
        cluster.reserve(origin.into(), &mk_asking(1), "n");
    }
    assert!(cluster.apply_pod(&mk_phased("p", 1, None, "Failed", Some("failed"))));
    assert!(cluster.is_settled("failed".into()));
    assert!(cluster.release("released".into()));
    assert!(!cluster.release("released".into()));
    assert_eq!(cluster.node("n").unwrap().used, &Resources::default());
}

#[test]
fn a_new_reservation_replaces_the_old_one() {
    let mut cluster = Cluster::default();
    cluster.reserve("o".into(), &mk_asking(1), "a");
    cluster.reserve("o".into(), &mk_asking(2), "b");
    let reserved: Vec<String> = cluster.reservations().map(|(_, node)| node.to_string()).collect();
    assert_eq!(reserved, ["b"]);
    assert_consistent(&cluster);
}

#[test]
fn asking_what_would_be_without_some_pods_changes_nothing() {
    let mut cluster = Cluster::default();
    cluster.apply_node(&mk_node("n", 4));
    cluster.apply_pod(&mk_phased("p", 2, Some("n"), "Running", Some("victim")));
    cluster.reserve("promised".into(), &mk_asking(1), "n");
    cluster.apply_pod(&mk_phased("q", 1, Some("unknown"), "Running", Some("elsewhere")));
    let before = figures(&cluster);
    let candidate = Arc::new(mk_asking(3));
    for (origins, verdict) in [
        (vec![], Verdict::FullNow),
        (vec!["elsewhere", "nobody"], Verdict::FullNow),
        (vec!["victim"], Verdict::Fits),
        (vec!["promised"], Verdict::FullNow),
        (vec!["promised", "victim"], Verdict::Fits),
    ] {
        let uids: Vec<Uid> = origins.iter().map(|origin| Uid::from(*origin)).collect();
        assert_eq!(
            cluster.fit_without(&uids, &candidate, None).verdict(),
            verdict,
            "{origins:?}"
        );
        assert_eq!(figures(&cluster), before);
        assert_consistent(&cluster);
    }
}

#[derive(Clone, Debug)]
enum Event {
    ApplyNode(u8, u64),
    DeleteNode(u8),
    ApplyPod(u8, u64, Option<u8>, bool),
    DeletePod(u8),
    RelistNodes,
    RelistPods,
    Reserve(u8, u64, u8),
    Release(u8),
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (0u8..4, 0u64..4).prop_map(|(node, cpu)| Event::ApplyNode(node, cpu)),
        (0u8..4).prop_map(Event::DeleteNode),
        (0u8..6, 0u64..4, proptest::option::of(0u8..4), any::<bool>())
            .prop_map(|(pod, cpu, node, over)| Event::ApplyPod(pod, cpu, node, over)),
        (0u8..6).prop_map(Event::DeletePod),
        Just(Event::RelistNodes),
        Just(Event::RelistPods),
        (0u8..6, 0u64..4, 0u8..4).prop_map(|(pod, cpu, node)| Event::Reserve(pod, cpu, node)),
        (0u8..6).prop_map(Event::Release),
    ]
}

/// What the API server would list, and what is promised.
#[derive(Default)]
struct Truth {
    nodes: BTreeMap<u8, NodeView>,
    pods: BTreeMap<u8, Pod>,
    promises: BTreeMap<u8, (u64, u8)>,
}

// === impl Truth ===

impl Truth {
    /// Does `event` here and in the model; pod n stands for the upper pod n.
    fn apply(&mut self, event: &Event, cluster: &mut Cluster) {
        let name = |node: u8| format!("n{node}");
        match *event {
            Event::ApplyNode(node, cpu) => {
                self.nodes.insert(node, mk_node(&name(node), cpu));
                cluster.apply_node(&self.nodes[&node]);
            }
            Event::DeleteNode(node) => {
                self.nodes.remove(&node);
                cluster.delete_node(&name(node));
            }
            Event::ApplyPod(pod, cpu, node, over) => {
                let phase = if over { "Failed" } else { "Running" };
                let node = node.map(name);
                let pod_now = mk_phased(
                    &format!("p{pod}"),
                    cpu,
                    node.as_deref(),
                    phase,
                    Some(&format!("o{pod}")),
                );
                if over || node.is_some() {
                    self.promises.remove(&pod);
                }
                cluster.apply_pod(&pod_now);
                self.pods.insert(pod, pod_now);
            }
            Event::DeletePod(pod) => {
                self.pods.remove(&pod);
                cluster.delete_pod(PodKey::new("ns", &format!("p{pod}")));
            }
            Event::RelistNodes => {
                self.nodes.pop_first();
                cluster.retain_nodes(|name| self.nodes.values().any(|node| &*node.name == name));
            }
            Event::RelistPods => {
                self.pods.pop_first();
                cluster.retain_pods(&self.pods.values().map(|pod| pod.key).collect());
            }
            Event::Reserve(pod, cpu, node) => {
                if cluster.reserve(format!("o{pod}").as_str().into(), &mk_asking(cpu), &name(node)) {
                    self.promises.insert(pod, (cpu, node));
                }
            }
            Event::Release(pod) => {
                self.promises.remove(&pod);
                cluster.release(format!("o{pod}").as_str().into());
            }
        }
    }

    /// A model made from nothing but what is true now.
    fn fresh_model(&self) -> Cluster {
        let mut cluster = Cluster::default();
        for pod in self.pods.values() {
            cluster.apply_pod(pod);
        }
        for (pod, (cpu, node)) in &self.promises {
            assert!(cluster.reserve(
                format!("o{pod}").as_str().into(),
                &mk_asking(*cpu),
                &format!("n{node}")
            ));
        }
        for node in self.nodes.values() {
            cluster.apply_node(node);
        }
        cluster
    }
}

proptest! {
    // Each case compares after every event, so that fewer cases do.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn figures_always_equal_those_of_a_fresh_start(events in proptest::collection::vec(any_event(), 0..40)) {
        let mut cluster = Cluster::default();
        let mut truth = Truth::default();
        for event in &events {
            truth.apply(event, &mut cluster);
            let fresh = truth.fresh_model();
            prop_assert_eq!(figures(&cluster), figures(&fresh), "after {:?}", event);
            assert_consistent(&cluster);
            for cpu in 1..4 {
                let candidate = Arc::new(mk_asking(cpu));
                prop_assert_eq!(Fit::of(&cluster, &candidate, None).summary(), Fit::of(&fresh, &candidate, None).summary());
                prop_assert_eq!(cluster.fit(&candidate, None), Fit::of(&cluster, &candidate, None), "answered anew");
                cluster.fit_without(&["o1".into(), "o2".into()], &candidate, None);
                prop_assert_eq!(cluster.fit(&candidate, None), Fit::of(&cluster, &candidate, None), "answered again");
            }
        }
    }
}
