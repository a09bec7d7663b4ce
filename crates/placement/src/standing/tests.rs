use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};
use tensile_core::labels::{Labels, Selector};

use super::*;
use crate::pod::{Pod, PodKey};
use crate::testing::{mk_candidate, mk_claim, mk_claimant, mk_class, store};

/// Nodes of several pieces.
const NODES: usize = 3 * PIECE;

#[derive(Clone, Debug)]
enum Event {
    /// A node comes or changes; with so many CPUs.
    Node(usize, u8),
    DeleteNode(usize),
    /// A pod comes or moves: its number, its node and whether it keeps hostile ones away.
    Pod(u8, usize, bool),
    DeletePod(u8),
    /// The label `kind` of the namespace.
    Namespace(bool),
    /// A claim comes.
    Claim,
}

fn any_event() -> impl Strategy<Value = Event> {
    let node = || 0..NODES;
    prop_oneof![
        4 => (node(), 1..4u8).prop_map(|(node, cpu)| Event::Node(node, cpu)),
        1 => node().prop_map(Event::DeleteNode),
        6 => (0..20u8, node(), proptest::bool::weighted(0.1)).prop_map(|(pod, node, repels)| Event::Pod(pod, node, repels)),
        3 => (0..20u8).prop_map(Event::DeletePod),
        1 => any::<bool>().prop_map(Event::Namespace),
        1 => Just(Event::Claim),
    ]
}

impl Event {
    fn apply(&self, cluster: &mut Cluster) {
        match *self {
            Self::Node(node, cpu) => {
                cluster.apply_node(&serde_json::from_value(mk_node(node, cpu)).unwrap());
            }
            Self::DeleteNode(node) => drop(cluster.delete_node(&format!("n{node}"))),
            Self::Pod(pod, node, repels) => {
                cluster.apply_pod(&mk_pod(pod, node, repels));
            }
            Self::DeletePod(pod) => drop(cluster.delete_pod(PodKey::new("ns", &format!("p{pod}")))),
            Self::Namespace(kind) => {
                let labels: Labels = [("kind", kind.to_string())].into_iter().collect();
                cluster.apply_namespace("ns", &labels);
            }
            Self::Claim => store(cluster, &[mk_claim("c", ""), mk_class("csi")]),
        }
    }
}

fn mk_node(node: usize, cpu: u8) -> Value {
    json!({
        "metadata": {"name": format!("n{node}"), "labels": {"zone": (node % 3).to_string()}},
        "spec": {"taints": if cpu == 3 { json!([{"key": "k", "effect": "NoSchedule"}]) } else { json!(null) }},
        "status": {"allocatable": {"cpu": cpu.to_string(), "memory": "1Gi", "pods": "3"}}
    })
}

fn mk_pod(pod: u8, node: usize, repels: bool) -> Pod {
    let term = json!({
        "labelSelector": {"matchLabels": {"app": "hostile"}}, "topologyKey": "zone",
        "namespaceSelector": {"matchLabels": {"kind": "true"}}
    });
    let affinity = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
    serde_json::from_value(json!({
        "metadata": {"namespace": "ns", "name": format!("p{pod}")},
        "spec": {
            "nodeName": format!("n{node}"), "affinity": if repels { affinity } else { json!(null) },
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "500m"}}}]
        }
    }))
    .unwrap()
}

fn mk_asking(app: &str, more: &Value) -> Arc<Candidate> {
    let mut spec = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    mk_candidate(&json!({"namespace": "ns", "labels": {"app": app}}), &spec).into()
}

/// Kinds of pods: what decides about them, and which of the nodes are asked.
fn kinds() -> Vec<(Arc<Candidate>, Option<Selector>)> {
    let spread = json!({
        "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchExpressions": [{"key": "none", "operator": "DoesNotExist"}]}
    });
    vec![
        (mk_asking("plain", &json!({})), None),
        (
            mk_asking("plain", &json!({"nodeSelector": {"zone": "1"}})),
            "zone!=0".parse().ok(),
        ),
        (mk_asking("hostile", &json!({})), None),
        (
            mk_asking("plain", &json!({"topologySpreadConstraints": [spread]})),
            None,
        ),
        (mk_claimant(&["c"]).into(), None),
    ]
}

#[test]
fn a_change_of_a_node_is_no_reason_to_ask_all_others() {
    let mut cluster = Cluster::default();
    (0..NODES).for_each(|node| Event::Node(node, 2).apply(&mut cluster));
    let kinds = kinds();
    let known = |cluster: &Cluster| {
        let known = |(candidate, pool): &(Arc<Candidate>, Option<Selector>)| {
            let known = cluster.known_fit(candidate, pool.as_ref()).is_some();
            let _ = cluster.fit(candidate, pool.as_ref());
            known
        };
        kinds.iter().map(known).collect::<Vec<bool>>()
    };
    assert_eq!(known(&cluster), [false; 5]);
    assert_eq!(known(&cluster), [true; 5]);
    for (event, wanted) in [
        (Event::Pod(0, 1, false), [true, true, true, false, false]),
        (Event::Node(NODES, 2), [true, true, true, false, false]),
        (Event::Claim, [true, true, true, false, false]),
        (Event::Namespace(true), [true, true, true, false, false]),
        (Event::Pod(1, 1, true), [true, true, false, false, false]),
        (Event::DeletePod(1), [true, true, false, false, false]),
        (Event::Node(0, 2), [true; 5]),
    ] {
        event.apply(&mut cluster);
        assert_eq!(known(&cluster), wanted, "{event:?}");
    }
}

proptest! {
    // Each case compares after every event, so that fewer cases do.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn an_answer_that_is_brought_up_to_date_equals_a_new_one(
        events in proptest::collection::vec((any_event(), any::<[bool; 5]>()), 0..80)
    ) {
        let mut cluster = Cluster::default();
        (0..2 * PIECE).for_each(|node| Event::Node(node, 2).apply(&mut cluster));
        let kinds = kinds();
        for (event, asked) in &events {
            event.apply(&mut cluster);
            for ((candidate, pool), _) in kinds.iter().zip(asked).filter(|(_, asked)| **asked) {
                let (known, anew) = (cluster.fit(candidate, pool.as_ref()), Fit::of(&cluster, candidate, pool.as_ref()));
                prop_assert_eq!(known, anew, "after {:?}", event);
            }
        }
    }
}
