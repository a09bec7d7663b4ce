//! Topology spread constraints that must hold (`DoNotSchedule`).
//!
//! The rules are those of kube-scheduler's podtopologyspread plugin: pods that the selector matches are counted
//! per domain, over the nodes that have all topology keys and that the policies let in; the pod may go where
//! its domain is then at most `maxSkew` ahead of the emptiest one.

use std::collections::HashMap;
use std::sync::Arc;

use tensile_core::taints::{Effect, untolerated};

use super::refuse;
use crate::candidate::{Candidate, SpreadConstraint};
use crate::cluster::Cluster;
use crate::labels::TextId;
use crate::node::Node;
use crate::reason::{Reason, Refusal, Tally};

/// The constraints of one pod with their counts.
#[derive(Debug)]
pub(super) struct Spread<'a>(Vec<Counted<'a>>);

#[derive(Debug)]
struct Counted<'a> {
    constraint: &'a SpreadConstraint,
    /// The topology key; `None` if no node has the label.
    key: Option<&'a Arc<str>>,
    /// How many pods count in each domain.
    domains: HashMap<TextId, i64>,
    emptiest: i64,
    /// 1 if the pod itself will count.
    own: i64,
}

// === impl Spread ===

impl<'a> Spread<'a> {
    pub(super) fn prepare(cluster: &'a Cluster, candidate: &'a Candidate) -> Self {
        let constraints = candidate.spread.iter();
        Self(
            constraints
                .map(|constraint| Counted::prepare(cluster, candidate, constraint))
                .collect(),
        )
    }

    /// Whether nothing is constrained.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn check(&self, node: &Node<'_>, tally: &mut Tally) -> Option<Refusal> {
        self.0.iter().find_map(|counted| counted.check(node, tally))
    }
}

// === impl Counted ===

impl<'a> Counted<'a> {
    fn prepare(cluster: &'a Cluster, candidate: &'a Candidate, constraint: &'a SpreadConstraint) -> Self {
        let key = cluster.shared(&constraint.topology_key);
        let other_keys = candidate
            .spread
            .iter()
            .map(|other| cluster.shared(&other.topology_key));
        let keys: Option<Vec<&Arc<str>>> = other_keys.collect();
        let domain = |node: &Node<'a>| {
            let labels = &node.facts.labels;
            let value = labels.of(key?)?;
            let has_all_keys = keys.as_ref()?.iter().all(|key| labels.of(key).is_some());
            (has_all_keys && is_let_in(node, candidate, constraint)).then(|| TextId::of(value))
        };
        let nodes = cluster.nodes();
        let mut domains: HashMap<TextId, i64> = nodes.filter_map(|node| Some((domain(&node)?, 0))).collect();
        // An empty selector counts nothing, though it matches the pod itself (countPodsMatchSelector).
        let selector = constraint.selector.as_ref();
        if let Some(selector) = selector.filter(|selector| !selector.is_empty()) {
            for (shape, nodes) in cluster.pods_in(&candidate.pod.namespace) {
                if shape.deleting || !selector.matches(&shape.labels) {
                    continue;
                }
                for (node, count) in nodes {
                    if let Some(domain) = domain(&node) {
                        *domains.entry(domain).or_default() += i64::from(count);
                    }
                }
            }
        }
        let too_few = domains.len() < constraint.min_domains;
        let emptiest = if too_few {
            0
        } else {
            domains.values().copied().min().unwrap_or_default()
        };
        let own = selector.is_some_and(|selector| selector.matches(&candidate.pod.labels));
        Self {
            constraint,
            key,
            domains,
            emptiest,
            own: i64::from(own),
        }
    }

    fn check(&self, node: &Node<'_>, tally: &mut Tally) -> Option<Refusal> {
        let Some(domain) = self.key.and_then(|key| node.facts.labels.of(key)) else {
            return refuse(Reason::SpreadLabel, Refusal::Never, tally);
        };
        let there = self.domains.get(&TextId::of(domain)).copied().unwrap_or_default();
        if there + self.own - self.emptiest > self.constraint.max_skew {
            return refuse(Reason::Spread, Refusal::Now, tally);
        }
        None
    }
}

/// Whether the policies let the node be part of a domain.
fn is_let_in(node: &Node<'_>, candidate: &Candidate, constraint: &SpreadConstraint) -> bool {
    let taints = &node.facts.taints;
    (!constraint.honor_node_affinity || candidate.node_affinity.matches(node.name, &node.facts.labels))
        && (!constraint.honor_taints
            || untolerated(taints, &candidate.tolerations, Effect::keeps_out).is_none())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::{mk_candidate, mk_cluster, refusals};

    const FULL: &str = "node(s) didn't match pod topology spread constraints";
    const UNLABELLED: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

    fn mk_node(name: &str, zone: Option<&str>) -> Value {
        let labels = zone.map_or(json!({}), |zone| json!({"zone": zone}));
        json!({"metadata": {"name": name, "labels": labels}, "status": {"allocatable": {"pods": "99"}}})
    }

    fn mk_pods(node: &str, app: &str, count: usize) -> Vec<Value> {
        let mk = |index| {
            json!({
                "metadata": {"name": format!("{node}-{app}-{index}"), "namespace": "ns", "labels": {"app": app}},
                "spec": {"nodeName": node}
            })
        };
        (0..count).map(mk).collect()
    }

    fn mk_constraint(more: &Value) -> Value {
        let mut constraint = json!({
            "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "labelSelector": {"matchLabels": {"app": "x"}}
        });
        for (key, value) in more.as_object().unwrap() {
            constraint[key] = value.clone();
        }
        constraint
    }

    /// Nodes a, b (zones a, b) and u (no zone); two pods `app: x` in a, one in b.
    fn refused(spec: &Value, pods: &[Value]) -> Vec<(String, String)> {
        let nodes = [
            mk_node("a", Some("a")),
            mk_node("b", Some("b")),
            mk_node("u", None),
        ];
        let cluster = mk_cluster(&nodes, pods);
        let candidate = mk_candidate(
            &json!({"namespace": "ns", "labels": {"app": "x", "hash": "1"}}),
            spec,
        );
        refusals(&cluster, &candidate)
    }

    #[test]
    fn the_pod_goes_where_the_skew_allows_it() {
        let pods = [
            mk_pods("a", "x", 2),
            mk_pods("b", "x", 1),
            mk_pods("b", "other", 5),
        ]
        .concat();
        let in_use = json!({"labelSelector": {"matchLabels": {"app": "other"}}});
        for (what, more, refused_nodes) in [
            ("the fuller zone is refused", json!({}), vec![("a", FULL)]),
            ("a larger skew is allowed", json!({"maxSkew": 2}), vec![]),
            (
                "only a hint",
                json!({"whenUnsatisfiable": "ScheduleAnyway"}),
                vec![],
            ),
            (
                "too few domains make the emptiest one empty",
                json!({"minDomains": 3}),
                vec![("a", FULL), ("b", FULL)],
            ),
            ("the pod itself does not count", in_use, vec![("b", FULL)]),
            (
                "no selector counts nothing",
                json!({"labelSelector": null}),
                vec![],
            ),
            (
                "an empty selector counts nothing but the pod",
                json!({"labelSelector": {}}),
                vec![],
            ),
            (
                "no pod has this hash",
                json!({"matchLabelKeys": ["hash"]}),
                vec![],
            ),
            (
                "a key that the pod lacks says nothing",
                json!({"matchLabelKeys": ["no"]}),
                vec![("a", FULL)],
            ),
        ] {
            let hint = more["whenUnsatisfiable"] == "ScheduleAnyway";
            let spec = json!({"topologySpreadConstraints": [mk_constraint(&more)]});
            let mut expected: Vec<(String, String)> = refused_nodes
                .into_iter()
                .map(|(node, why)| (node.into(), why.into()))
                .collect();
            if !hint {
                expected.push(("u".into(), UNLABELLED.into()));
            }
            assert_eq!(refused(&spec, &pods), expected, "{what}");
        }
    }

    #[test]
    fn pods_that_are_going_or_live_elsewhere_do_not_count() {
        let mut pods = mk_pods("a", "x", 1);
        pods[0]["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        let mut elsewhere = mk_pods("a", "x", 1);
        elsewhere[0]["metadata"]["namespace"] = json!("elsewhere");
        pods.append(&mut elsewhere);
        let spec = json!({"topologySpreadConstraints": [mk_constraint(&json!({}))]});
        assert_eq!(refused(&spec, &pods), [("u".into(), UNLABELLED.into())]);
    }

    #[test]
    fn policies_say_which_nodes_are_domains() {
        // Zone b is empty but shut, so whether it counts decides about zone a.
        let mut shut = mk_node("b", Some("b"));
        shut["spec"] = json!({"taints": [{"key": "k", "effect": "NoSchedule"}]});
        let nodes = [mk_node("a", Some("a")), shut];
        let cluster = mk_cluster(&nodes, &mk_pods("a", "x", 1));
        let only_a = json!({"zone": "a"});
        for (what, more, selector, a_is_refused) in [
            ("taints are ignored by default", json!({}), json!({}), true),
            (
                "taints are honoured",
                json!({"nodeTaintsPolicy": "Honor"}),
                json!({}),
                false,
            ),
            (
                "affinity is honoured by default",
                json!({}),
                only_a.clone(),
                false,
            ),
            (
                "affinity is ignored",
                json!({"nodeAffinityPolicy": "Ignore"}),
                only_a,
                true,
            ),
        ] {
            let spec = json!({"topologySpreadConstraints": [mk_constraint(&more)], "nodeSelector": selector});
            let candidate = mk_candidate(&json!({"namespace": "ns", "labels": {"app": "x"}}), &spec);
            let refused = refusals(&cluster, &candidate);
            assert_eq!(
                refused.contains(&("a".into(), FULL.into())),
                a_is_refused,
                "{what}: {refused:?}"
            );
        }
    }
}
