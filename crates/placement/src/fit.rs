//! Whether, where and why not a pod fits into a lower cluster.

use std::sync::Arc;

use serde::Serialize;
use tensile_core::labels::Selector;

use crate::candidate::{Candidate, Unknown};
use crate::cluster::Cluster;
use crate::filters::Filters;
use crate::node::{Node, Turn};
use crate::reason::{Reason, Refusal, Tally};
use crate::score::Stranding;

/// The answer in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Verdict {
    /// Some node can run the pod now.
    Fits,
    /// No node can now, but one may when other pods go.
    FullNow,
    /// No node could, even if it were empty.
    Never,
    /// Nothing known speaks against it, but something that cannot be judged here decides.
    Unknown,
}

/// What a cluster, or a pool of its nodes, says to a pod.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fit {
    /// Nodes asked.
    pub nodes: u32,
    /// Nodes that can run the pod now.
    pub fitting: u32,
    /// Nodes that could not even if they were empty.
    pub never: u32,
    /// Of those that fit the one that strands the least; among equals a fixed one, by a hash of the names.
    pub best: Option<Best>,
    /// Why the others do not fit.
    pub tally: Tally,
    /// What cannot be judged here.
    pub unknown: Vec<Unknown>,
}

/// A node that fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Best {
    /// Its name.
    pub node: Arc<str>,
    /// What placing the pod there would strand.
    pub stranding: Stranding,
    pub(crate) turn: Turn,
}

// === impl Fit ===

impl Fit {
    /// Asks the nodes of `cluster` that `pool` selects (`None`: all of them).
    #[must_use]
    pub fn of(cluster: &Cluster, candidate: &Candidate, pool: Option<&Selector>) -> Self {
        Self::by(
            Filters::prepare(cluster, candidate).as_ref(),
            cluster,
            candidate,
            pool,
        )
    }

    /// As [`Fit::of`], with the filters for this pod and cluster, or what keeps it off every node.
    pub(crate) fn by(
        filters: Result<&Filters<'_>, &(Reason, Refusal)>,
        cluster: &Cluster,
        candidate: &Candidate,
        pool: Option<&Selector>,
    ) -> Self {
        match filters {
            Ok(filters) => Self {
                unknown: filters.unknown(cluster),
                ..Self::among(cluster.nodes(), filters, pool)
            },
            Err((reason, refusal)) => {
                let mut fit = Self {
                    unknown: candidate.unknown.clone(),
                    ..Self::default()
                };
                let nodes = cluster.nodes().filter(|node| is_in(pool, node));
                nodes.for_each(|_| fit.count(Some(*refusal)));
                fit.tally.add(reason.clone(), fit.nodes);
                fit
            }
        }
    }

    /// What those of `nodes` that `pool` selects say, without what cannot be judged.
    pub(crate) fn among<'a>(
        nodes: impl Iterator<Item = Node<'a>>,
        filters: &Filters<'_>,
        pool: Option<&Selector>,
    ) -> Self {
        let mut fit = Self::default();
        let mut best: Option<(Stranding, Node<'a>)> = None;
        for node in nodes.filter(|node| is_in(pool, node)) {
            let refusal = filters.refusal(&node, &mut fit.tally);
            fit.count(refusal);
            if refusal.is_none() {
                let stranding = Stranding::of(&node, &filters.candidate().pod.request);
                let rank = |stranding, node: &Node<'a>| (stranding, node.turn, node.name);
                if best.is_none_or(|(least, best)| rank(stranding, &node) < rank(least, &best)) {
                    best = Some((stranding, node));
                }
            }
        }
        fit.best = best.map(|(stranding, node)| Best {
            node: node.name.clone(),
            stranding,
            turn: node.turn,
        });
        fit
    }

    /// What all nodes say, of whom `pieces` have asked some each.
    pub(crate) fn sum(pieces: &[Self], unknown: Vec<Unknown>) -> Self {
        let mut sum = Self {
            unknown,
            ..Self::default()
        };
        for piece in pieces {
            sum.nodes += piece.nodes;
            sum.fitting += piece.fitting;
            sum.never += piece.never;
            sum.tally.extend(&piece.tally);
        }
        let best = pieces.iter().filter_map(|piece| piece.best.as_ref());
        sum.best = best.min_by_key(|best| best.rank()).cloned();
        sum
    }

    /// The answer in one word.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self.fitting {
            0 if self.never == self.nodes => Verdict::Never,
            0 => Verdict::FullNow,
            _ if self.unknown.is_empty() => Verdict::Fits,
            _ => Verdict::Unknown,
        }
    }

    /// What a person reads: `0/120 nodes fit: 80 Insufficient cpu, 40 node(s) were unschedulable`.
    #[must_use]
    pub fn summary(&self) -> String {
        let mut text = format!("{}/{} nodes fit", self.fitting, self.nodes);
        if self.fitting < self.nodes {
            text += &format!(": {}", self.tally);
        }
        for Unknown(what) in &self.unknown {
            text += &format!("; unknown: {what}");
        }
        text
    }

    fn count(&mut self, refusal: Option<Refusal>) {
        self.nodes += 1;
        self.fitting += u32::from(refusal.is_none());
        self.never += u32::from(refusal == Some(Refusal::Never));
    }
}

// === impl Best ===

impl Best {
    /// The least is best.
    fn rank(&self) -> (Stranding, Turn, &Arc<str>) {
        (self.stranding, self.turn, &self.node)
    }
}

fn is_in(pool: Option<&Selector>, node: &Node<'_>) -> bool {
    pool.is_none_or(|pool| pool.matches(&node.facts.labels))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{mk_candidate, mk_cluster};

    fn mk_node(name: &str, cpu: &str) -> Value {
        json!({
            "metadata": {"name": name, "labels": {"name": name}},
            "status": {"allocatable": {"cpu": cpu, "memory": "8Gi", "pods": "9"}}
        })
    }

    fn mk_asking(cpu: &str, more: &Value) -> Candidate {
        let mut spec = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]});
        for (key, value) in more.as_object().unwrap() {
            spec[key] = value.clone();
        }
        mk_candidate(&json!({"namespace": "ns"}), &spec)
    }

    #[test]
    fn full_now_is_told_apart_from_never_and_unknown() {
        let mut cluster = mk_cluster(&[mk_node("a", "4"), mk_node("b", "2")], &[]);
        cluster.reserve("o".into(), &mk_asking("3", &json!({})), "a");
        let claims = json!({"resourceClaims": [{"name": "gpu"}]});
        for (cpu, more, verdict, summary) in [
            ("2", json!({}), Verdict::Fits, "1/2 nodes fit: 1 Insufficient cpu"),
            (
                "3",
                json!({}),
                Verdict::FullNow,
                "0/2 nodes fit: 2 Insufficient cpu",
            ),
            (
                "5",
                json!({}),
                Verdict::Never,
                "0/2 nodes fit: 2 Insufficient cpu",
            ),
            ("1", json!({}), Verdict::Fits, "2/2 nodes fit"),
            (
                "1",
                claims.clone(),
                Verdict::Unknown,
                "2/2 nodes fit; unknown: spec.resourceClaims",
            ),
            (
                "5",
                claims,
                Verdict::Never,
                "0/2 nodes fit: 2 Insufficient cpu; unknown: spec.resourceClaims",
            ),
            (
                "1",
                json!({"schedulerName": "batch", "volumes": [{"name": "v", "iscsi": {}}]}),
                Verdict::Unknown,
                "2/2 nodes fit; unknown: volume of type iscsi; unknown: scheduler batch",
            ),
        ] {
            let fit = Fit::of(&cluster, &mk_asking(cpu, &more), None);
            assert_eq!(
                (fit.verdict(), fit.summary().as_str()),
                (verdict, summary),
                "{cpu} {more}"
            );
        }
    }

    #[test]
    fn a_cluster_without_nodes_never_fits() {
        let fit = Fit::of(&Cluster::default(), &mk_asking("1", &json!({})), None);
        assert_eq!(
            (fit.verdict(), fit.summary().as_str()),
            (Verdict::Never, "0/0 nodes fit")
        );
    }

    #[test]
    fn only_nodes_of_the_pool_are_asked() {
        let cluster = mk_cluster(&[mk_node("a", "4"), mk_node("b", "2")], &[]);
        let pool: Selector = "name=b".parse().unwrap();
        let fit = Fit::of(&cluster, &mk_asking("1", &json!({})), Some(&pool));
        assert_eq!((fit.nodes, &*fit.best.unwrap().node), (1, "b"));
    }

    #[test]
    fn the_tightest_node_is_best_and_a_fixed_one_among_equals() {
        for (nodes, best) in [
            ([("a", "8"), ("b", "2")], "b"),
            ([("b", "4"), ("c", "4")], "c"),
            ([("c", "4"), ("b", "4")], "c"),
        ] {
            let nodes = nodes.map(|(name, cpu)| mk_node(name, cpu));
            let fit = Fit::of(&mk_cluster(&nodes, &[]), &mk_asking("1", &json!({})), None);
            assert_eq!(&*fit.best.unwrap().node, best);
        }
    }
}
