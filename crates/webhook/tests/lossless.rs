//! Nothing is lost: what stays above and what comes out below mean together what the user wrote.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use support::random::{Node, Random};
use support::{Known, admit, mk_pod, mk_rules};
use tensile_core::affinity::{PreferredNodeAffinity, RequiredNodeAffinity};
use tensile_core::names;
use tensile_core::stash::{Constraints, lower_constraints};
use tensile_core::taints::{Effect, Taint, Toleration, untolerated};

/// 2 500 pods, each on 4 virtual nodes with 12 lower nodes: 120 000 cases.
const PODS: u64 = 2_500;
const VIRTUAL_NODES: usize = 4;
const LOWER_NODES: usize = 12;

/// Node affinity, node selector and tolerations of a pod, compiled.
struct Constraint {
    required: RequiredNodeAffinity,
    preferred: PreferredNodeAffinity,
    tolerations: Vec<Toleration>,
}

impl Constraint {
    fn of(constraints: &Constraints) -> Self {
        let affinity = constraints.affinity.as_ref();
        Self {
            required: RequiredNodeAffinity::parse(constraints.node_selector.as_ref(), affinity).unwrap(),
            preferred: PreferredNodeAffinity::parse(affinity).unwrap(),
            tolerations: Toleration::parse_list(constraints.tolerations.as_ref()).unwrap(),
        }
    }

    fn admits(&self, node: &Node, taints: &[Taint]) -> bool {
        self.required.matches(&node.name, &node.labels) && self.tolerates(taints)
    }

    fn tolerates(&self, taints: &[Taint]) -> bool {
        untolerated(taints, &self.tolerations, Effect::keeps_out).is_none()
    }

    fn score(&self, node: &Node) -> i64 {
        self.preferred.score(&node.name, &node.labels)
    }
}

/// The lower node as the user meant it: its own labels, but the ignored ones are the virtual node's.
fn joined(lower: &Node, upper: &Node, ignored: &BTreeSet<String>) -> Node {
    let own = lower.labels.iter().filter(|(key, _)| !ignored.contains(*key));
    let others = upper.labels.iter().filter(|(key, _)| ignored.contains(*key));
    let labels: BTreeMap<String, String> = own
        .chain(others)
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    Node {
        labels,
        ..lower.clone()
    }
}

fn mk_virtual(random: &mut Random) -> Node {
    let mut node = random.node("virtual");
    if random.chance(70) {
        node.taints.push(
            json!({"key": names::PROVIDER_TAINT, "value": names::PROVIDER_TAINT_VALUE,
            "effect": "NoSchedule"}),
        );
    }
    node
}

fn taints(node: &Node) -> Vec<Taint> {
    Taint::parse_list(Some(&json!(node.taints))).unwrap()
}

fn check(spec: &Value, avoided: &[String], random: &mut Random) -> [usize; 2] {
    let rules = mk_rules();
    let known = Known {
        avoided: avoided.to_vec(),
        ..Known::default()
    };
    let admitted = admit(&mk_pod(spec), &rules, &known);
    assert_eq!(admitted.denial, None, "{spec}");
    assert_eq!(admitted.warnings, Vec::<String>::new(), "{spec}");
    let pod = admitted.pod;
    let again = admit(&pod, &rules, &known);
    assert_eq!(again.patch, Vec::<Value>::new(), "twice is once: {spec}");

    let original = Constraint::of(&Constraints::of_spec(spec));
    let above = Constraint::of(&Constraints::of_spec(&pod["spec"]));
    let mut mk_lower = || random.node("lower");
    let lower_nodes: Vec<(Node, Vec<Taint>)> = (0..LOWER_NODES)
        .map(|_| mk_lower())
        .map(|node| (node.clone(), taints(&node)))
        .collect();
    let mut seen = [0; 2];
    for _ in 0..VIRTUAL_NODES {
        let virtual_node = mk_virtual(random);
        let all = taints(&virtual_node);
        // The original may not bear the provider taint; that much the webhook adds.
        let theirs: Vec<Taint> = all
            .iter()
            .filter(|taint| *taint.key != *names::PROVIDER_TAINT)
            .cloned()
            .collect();
        let passes_above = above.admits(&virtual_node, &all);
        let may_be_above = original.tolerates(&theirs) && !avoided.contains(&virtual_node.name);
        let below =
            Constraint::of(&lower_constraints(&pod, &virtual_node.labels, &rules.ignored_keys).unwrap());
        let mut scores = BTreeSet::new();
        for (lower, taints) in &lower_nodes {
            let meant = joined(lower, &virtual_node, &rules.ignored_keys);
            let wanted = original.admits(&meant, taints) && may_be_above;
            let found = passes_above && below.admits(lower, taints);
            assert_eq!(
                found, wanted,
                "{spec}\n{pod}\nabove: {virtual_node:?}\nbelow: {lower:?}"
            );
            seen[usize::from(wanted)] += 1;
            scores.insert(original.score(&meant) - below.score(lower));
        }
        assert_eq!(
            scores.len(),
            1,
            "lower nodes are preferred as the user wished: {spec}\n{pod}"
        );
    }
    seen
}

#[test]
fn both_levels_together_mean_what_the_user_wrote() {
    let mut seen = [0; 2];
    for seed in 0..PODS {
        let mut random = Random(seed);
        let spec = random.spec();
        let avoided = if random.chance(25) {
            vec!["virtual-1".to_owned()]
        } else {
            Vec::new()
        };
        for (seen, new) in seen.iter_mut().zip(check(&spec, &avoided, &mut random)) {
            *seen += new;
        }
    }
    let [no, yes] = seen;
    assert!(no + yes >= 100_000, "{no} + {yes} cases");
    assert!(
        no > 10_000 && yes > 10_000,
        "both verdicts are common: {no} no, {yes} yes"
    );
}
