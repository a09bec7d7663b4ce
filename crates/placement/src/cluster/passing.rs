//! Questions about single nodes, for those who move pods.

use std::collections::HashMap;
use std::sync::Arc;

use super::Cluster;
use crate::candidate::Candidate;
use crate::filters::{self, Filters};
use crate::pod::Uid;
use crate::reason::Tally;

impl Cluster {
    /// Names of the nodes that let `candidate` pass now. What cannot be judged here does not count against a node.
    #[must_use]
    pub fn passing(&self, candidate: &Candidate) -> Vec<Arc<str>> {
        let Ok(filters) = Filters::prepare(self, candidate) else {
            return Vec::new();
        };
        let passes = |tally: &mut Tally, node| filters.refusal(&node, tally).is_none();
        let nodes = self.nodes().filter(|node| passes(&mut Tally::default(), *node));
        nodes.map(|node| node.name.clone()).collect()
    }

    /// Whether the node would let `candidate` pass if these upper pods were not in the cluster, promises included.
    /// What cannot be judged here counts against it.
    pub fn passes_without(&mut self, origins: &[Uid], candidate: &Candidate, node: &str) -> bool {
        let held: Vec<_> = origins
            .iter()
            .filter_map(|origin| self.held_for(*origin))
            .collect();
        let state = self.state();
        held.iter().for_each(|placed| self.give_back(placed));
        let passes = self.passes(candidate, node);
        held.iter().for_each(|placed| self.hold(placed));
        self.changes.rewind(state);
        passes
    }

    /// Whether `candidate` on this node would break one of its topology spread constraints, as the cluster is now.
    #[must_use]
    pub fn breaks_spread(&self, candidate: &Candidate, node: &str) -> bool {
        self.node(node)
            .is_some_and(|node| filters::breaks_spread(self, candidate, &node))
    }

    fn passes(&self, candidate: &Candidate, node: &str) -> bool {
        let (Ok(filters), Some(node)) = (Filters::prepare(self, candidate), self.node(node)) else {
            return false;
        };
        filters.unknown(self).is_empty() && filters.refusal(&node, &mut Tally::default()).is_none()
    }

    /// The upper pods whose lower pods are on each node, in order. Promises are left out.
    #[must_use]
    pub fn origins(&self) -> HashMap<Arc<str>, Vec<Uid>> {
        let mut origins: HashMap<Arc<str>, Vec<Uid>> = HashMap::new();
        for (origin, key) in &self.settled {
            let placed = self.pods.get(key).and_then(|entry| entry.placed.as_ref());
            if let Some(node) = placed.and_then(|placed| self.nodes[placed.node as usize].known()) {
                origins.entry(node.name.clone()).or_default().push(*origin);
            }
        }
        origins.values_mut().for_each(|origins| origins.sort_unstable());
        origins
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::cluster::Cluster;
    use crate::pod::Uid;
    use crate::testing::{mk_candidate, mk_cluster};

    fn mk_spec(cpu: &str) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
    }

    /// `a` and `b` have two CPUs, on `a` runs the pod of the origin `o` with one and a half.
    fn mk_pair() -> Cluster {
        let node = |name: &str| json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": "2", "pods": "9"}}});
        let mut spec = mk_spec("1500m");
        spec["nodeName"] = json!("a");
        let labels = json!({"tensile.dev/origin-uid": "o"});
        let pod = json!({"metadata": {"namespace": "ns", "name": "p", "labels": labels}, "spec": spec});
        mk_cluster(&[node("a"), node("b")], &[pod])
    }

    #[test]
    fn the_nodes_that_let_a_pod_pass_are_named() {
        let cluster = mk_pair();
        for (cpu, wanted) in [("500m", vec!["a", "b"]), ("1", vec!["b"]), ("3", vec![])] {
            let mut passing = cluster.passing(&mk_candidate(&json!({}), &mk_spec(cpu)));
            passing.sort();
            assert_eq!(
                passing.iter().map(|name| &**name).collect::<Vec<_>>(),
                wanted,
                "{cpu}"
            );
        }
        let claimant = crate::testing::mk_claimant(&["missing"]);
        assert!(cluster.passing(&claimant).is_empty());
    }

    #[test]
    fn a_node_passes_once_the_pods_in_the_way_are_gone() {
        let mut cluster = mk_pair();
        let asking = mk_candidate(&json!({}), &mk_spec("2"));
        let origin = Uid::from("o");
        assert!(!cluster.passes_without(&[], &asking, "a"));
        assert!(cluster.passes_without(&[origin], &asking, "a"));
        assert!(
            !cluster.passes_without(&[], &asking, "a"),
            "only for the question"
        );
        assert!(!cluster.passes_without(&[origin], &asking, "missing"));
        let mut spec = mk_spec("2");
        spec["resourceClaims"] = json!([{"name": "gpu"}]);
        assert!(!cluster.passes_without(&[origin], &mk_candidate(&json!({}), &spec), "a"));
    }

    #[test]
    fn a_node_whose_domain_is_too_far_ahead_breaks_the_spread_whatever_else_it_lacks() {
        let node = |name: &str| json!({"metadata": {"name": name, "labels": {"zone": name}}, "status": {"allocatable": {}}});
        let pod =
            |name: &str| json!({"metadata": {"namespace": "ns", "name": name}, "spec": {"nodeName": "a"}});
        let cluster = mk_cluster(
            &[
                node("a"),
                node("b"),
                json!({"metadata": {"name": "bare"}, "status": {}}),
            ],
            &[pod("p"), pod("q")],
        );
        for (skew, wanted) in [(1, [true, false, false]), (3, [false, false, false])] {
            let constraint = json!({
                "maxSkew": skew, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchExpressions": [{"key": "none", "operator": "DoesNotExist"}]}
            });
            let mut spec = mk_spec("1");
            spec["topologySpreadConstraints"] = json!([constraint]);
            let candidate = mk_candidate(&json!({"namespace": "ns"}), &spec);
            let found = ["a", "b", "bare"].map(|node| cluster.breaks_spread(&candidate, node));
            assert_eq!(found, wanted, "{skew}");
            assert!(!cluster.breaks_spread(&candidate, "missing"));
        }
    }

    #[test]
    fn upper_pods_are_found_by_node() {
        let origins = mk_pair().origins();
        assert_eq!(origins.len(), 1);
        assert_eq!(origins["a"], [Uid::from("o")]);
    }
}
