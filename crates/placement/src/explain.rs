//! Why a pod is placed where it is, or nowhere: for people and for tools.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use tensile_core::labels::Selector;
use tensile_core::resources::Resources;

use crate::candidate::{Candidate, Unknown};
use crate::cluster::Cluster;
use crate::filters::Filters;
use crate::fit::{Fit, Verdict};
use crate::node::Node;
use crate::reason::{Reason, Tally};

/// What one cluster, or a pool of its nodes, says to a pod.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explanation {
    /// The answer in one word.
    pub verdict: Verdict,
    /// Nodes asked.
    pub nodes: u32,
    /// Nodes that can run the pod now.
    pub fitting: u32,
    /// Nodes that could not even if they were empty.
    pub never: u32,
    /// How many nodes were refused for which reason. A node that lacks two resources counts for both.
    pub reasons: BTreeMap<String, u32>,
    /// What cannot be judged.
    pub unknown: Vec<Unknown>,
    /// The node that would be taken.
    pub best: Option<Fragment>,
    /// Of the nodes that lack nothing but resources the one that lacks the least.
    pub closest: Option<Shortage>,
    /// How many pods were promised a place that they have not taken yet; their requests are counted as used.
    pub reservations: usize,
}

/// What is free on a node.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Fragment {
    /// The node.
    pub node: String,
    /// What is free there.
    pub free: Resources,
}

/// What a node lacks for a pod.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Shortage {
    /// The node.
    pub node: String,
    /// By how much its free resources fall short; what it has enough of is zero.
    pub lacking: Resources,
}

// === impl Explanation ===

impl Explanation {
    /// Asks the nodes of `cluster` that `pool` selects (`None`: all of them).
    #[must_use]
    pub fn of(cluster: &Cluster, candidate: &Candidate, pool: Option<&Selector>) -> Self {
        let fit = Fit::of(cluster, candidate, pool);
        let best = fit.best.as_ref().and_then(|best| cluster.node(&best.node));
        Self {
            verdict: fit.verdict(),
            nodes: fit.nodes,
            fitting: fit.fitting,
            never: fit.never,
            reasons: fit.tally.by_text(),
            best: best.map(|node| Fragment::of(&node)),
            closest: closest(cluster, candidate, pool),
            reservations: cluster.reservations().len(),
            unknown: fit.unknown,
        }
    }
}

/// Several lines of text.
impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:?}: {} of {} nodes fit",
            self.verdict, self.fitting, self.nodes
        )?;
        for (reason, nodes) in &self.reasons {
            writeln!(f, "  {nodes} {reason}")?;
        }
        for Unknown(what) in &self.unknown {
            writeln!(f, "  unknown: {what}")?;
        }
        if let Some(Fragment { node, free }) = &self.best {
            writeln!(f, "  best: {node}, free: {}", listed(free))?;
        }
        if let Some(Shortage { node, lacking }) = &self.closest {
            writeln!(f, "  closest: {node}, lacking: {}", listed(lacking))?;
        }
        writeln!(f, "  reservations counted: {}", self.reservations)
    }
}

// === impl Fragment ===

impl Fragment {
    pub(crate) fn of(node: &Node<'_>) -> Self {
        let mut free = node.free();
        free.clamp_to_zero();
        Self {
            node: node.name.to_string(),
            free,
        }
    }
}

/// `cpu 500m, memory 1Gi`: what is not zero.
pub(crate) fn listed(resources: &Resources) -> String {
    let amounts = resources.to_json();
    let amounts = amounts
        .iter()
        .filter_map(|(name, amount)| Some((name, amount.as_str()?)));
    let texts: Vec<String> = amounts
        .filter(|(_, amount)| *amount != "0")
        .map(|(name, amount)| format!("{name} {amount}"))
        .collect();
    if texts.is_empty() {
        "nothing".to_owned()
    } else {
        texts.join(", ")
    }
}

fn closest(cluster: &Cluster, candidate: &Candidate, pool: Option<&Selector>) -> Option<Shortage> {
    let filters = Filters::prepare(cluster, candidate).ok()?;
    let lacks_resources = |node: &Node<'_>| {
        let mut tally = Tally::default();
        let refused = filters.refusal(node, &mut tally).is_some();
        refused
            && tally
                .iter()
                .all(|(reason, _)| matches!(reason, Reason::Insufficient(_)))
    };
    let nodes = cluster
        .nodes()
        .filter(|node| pool.is_none_or(|pool| pool.matches(&node.facts.labels)));
    let shortage = |node: Node<'_>| {
        let lacking = shortage(&node, &candidate.pod.request);
        (
            weight(&lacking, &candidate.pod.request),
            Shortage {
                node: node.name.to_string(),
                lacking,
            },
        )
    };
    let shortages = nodes.filter(lacks_resources).map(shortage);
    let nearest =
        shortages.min_by(|(less, left), (more, right)| less.cmp(more).then(left.node.cmp(&right.node)));
    nearest.map(|(_, shortage)| shortage)
}

/// By how much the request exceeds what is free.
fn shortage(node: &Node<'_>, request: &Resources) -> Resources {
    let mut missing = request.clone();
    missing.sub(&node.free());
    let mut shortage = Resources::default();
    for lane in request.lacking(node.used, &node.facts.allocatable) {
        shortage.set(&lane, missing.get(&lane));
    }
    shortage
}

/// Sum of the shares of the request that are missing, in thousandths.
fn weight(lacking: &Resources, request: &Resources) -> i128 {
    let share = |(lane, units): (_, i64)| i128::from(units) * 1000 / i128::from(request.get(&lane).max(1));
    lacking.iter().map(share).sum()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{mk_candidate, mk_cluster};

    fn mk_node(name: &str, cpu: &str, memory: &str) -> Value {
        json!({
            "metadata": {"name": name},
            "status": {"allocatable": {"cpu": cpu, "memory": memory, "pods": "9"}}
        })
    }

    fn mk_asking(cpu: &str) -> Candidate {
        let requests = json!({"cpu": cpu, "memory": "1Gi"});
        mk_candidate(
            &json!({}),
            &json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}),
        )
    }

    #[test]
    fn says_what_fits_what_does_not_and_what_would() {
        let mut cordoned = mk_node("cordoned", "9", "9Gi");
        cordoned["spec"] = json!({"unschedulable": true});
        let nodes = [
            mk_node("small", "1", "4Gi"),
            mk_node("tiny", "500m", "512Mi"),
            cordoned,
        ];
        let mut cluster = mk_cluster(&nodes, &[]);
        cluster.reserve("o".into(), &mk_asking("100m"), "small");
        let explanation = Explanation::of(&cluster, &mk_asking("1"), None);
        let expected = json!({
            "verdict": "FullNow",
            "nodes": 3,
            "fitting": 0,
            "never": 2,
            "reasons": {"Insufficient cpu": 2, "Insufficient memory": 1, "node(s) were unschedulable": 1},
            "unknown": [],
            "best": null,
            "closest": {
                "node": "small",
                "lacking": {"cpu": "100m", "memory": "0", "ephemeral-storage": "0", "pods": "0"}
            },
            "reservations": 1
        });
        assert_eq!(serde_json::to_value(&explanation).unwrap(), expected);
        let text = "FullNow: 0 of 3 nodes fit\n  2 Insufficient cpu\n  1 Insufficient memory\n  \
                    1 node(s) were unschedulable\n  closest: small, lacking: cpu 100m\n  reservations counted: 1\n";
        assert_eq!(explanation.to_string(), text);
    }

    #[test]
    fn names_the_best_node_with_its_fragment() {
        let cluster = mk_cluster(&[mk_node("small", "1", "1Gi"), mk_node("large", "8", "8Gi")], &[]);
        let explanation = Explanation::of(&cluster, &mk_asking("1"), None);
        assert_eq!(explanation.best.as_ref().unwrap().node, "small");
        let text = explanation.to_string();
        assert!(
            text.contains("best: small, free: cpu 1, memory 1Gi, pods 9"),
            "{text}"
        );
    }
}
