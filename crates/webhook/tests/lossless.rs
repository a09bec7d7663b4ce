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

/// The lists of constraints among pods: where they are, and whether what is over hosts acts above as well.
const AMONG_PODS: [(&str, bool); 5] = [
    (
        "/affinity/podAffinity/requiredDuringSchedulingIgnoredDuringExecution",
        true,
    ),
    (
        "/affinity/podAffinity/preferredDuringSchedulingIgnoredDuringExecution",
        true,
    ),
    (
        "/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution",
        false,
    ),
    (
        "/affinity/podAntiAffinity/preferredDuringSchedulingIgnoredDuringExecution",
        false,
    ),
    ("/topologySpreadConstraints", false),
];

/// Constraints among pods, required and preferred, over labels of nodes of both levels.
fn mk_among_pods(random: &mut Random) -> Value {
    let mut affinity = json!({});
    for kind in ["podAffinity", "podAntiAffinity"] {
        let required: Vec<Value> = (0..random.below(4)).map(|_| mk_term(random)).collect();
        let preferred =
            (0..random.below(3)).map(|_| json!({"weight": 1, "podAffinityTerm": mk_term(random)}));
        let preferred: Vec<Value> = preferred.collect();
        affinity[kind] = json!({
            "requiredDuringSchedulingIgnoredDuringExecution": required,
            "preferredDuringSchedulingIgnoredDuringExecution": preferred,
        });
    }
    let spread = (0..random.below(4)).map(|_| {
        let mut constraint = mk_term(random);
        constraint["maxSkew"] = json!(1);
        constraint["whenUnsatisfiable"] = json!(random.pick(&["DoNotSchedule", "ScheduleAnyway"]));
        constraint
    });
    json!({"affinity": affinity, "topologySpreadConstraints": spread.collect::<Vec<Value>>()})
}

fn mk_term(random: &mut Random) -> Value {
    let key = *random.pick(&[
        names::CLUSTER_ID,
        names::CLUSTER_ID,
        "region",
        "zone",
        names::HOSTNAME,
    ]);
    json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": random.pick(&["a", "b", "3"])}}})
}

/// The entries of a list, in no order, whose topology keys are admitted.
fn entries(spec: &Value, list: &str, admits: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let all = spec.pointer(list).and_then(Value::as_array).into_iter().flatten();
    let of_topology = all.filter(|entry| {
        let term = entry.get("podAffinityTerm").unwrap_or(entry);
        admits(term["topologyKey"].as_str().unwrap())
    });
    of_topology.map(Value::to_string).collect()
}

/// Domains of an ignored key are told apart by virtual nodes alone, those of a host by lower nodes alone; all others
/// may be told apart at both levels.
#[test]
fn constraints_among_pods_act_where_their_domains_are_told_apart() {
    let rules = mk_rules();
    let mut seen = [0; 2];
    for seed in 0..PODS {
        let mut random = Random(seed);
        let spec = mk_among_pods(&mut random);
        let pod = admit(&mk_pod(&spec), &rules, &Known::default()).pod;
        let virtual_node = mk_virtual(&mut random);
        let below = lower_constraints(&pod, &virtual_node.labels, &rules.ignored_keys).unwrap();
        let below = json!({"affinity": below.affinity, "topologySpreadConstraints": below.topology_spread_constraints});
        let ignored = |key: &str| rules.ignored_keys.contains(key);
        for (list, hosts_above) in AMONG_PODS {
            let wanted = entries(&spec, list, |key| hosts_above || key != names::HOSTNAME);
            assert_eq!(
                entries(&pod["spec"], list, |_| true),
                wanted,
                "above, {list}: {spec}"
            );
            let wanted = entries(&spec, list, |key| !ignored(key));
            assert_eq!(entries(&below, list, |_| true), wanted, "below, {list}: {spec}");
            seen[0] += wanted.len();
            seen[1] += entries(&spec, list, ignored).len();
        }
    }
    let [below, above_only] = seen;
    assert!(
        below > 1_000 && above_only > 1_000,
        "{below} below, {above_only} above only"
    );
}
