//! Node selector and required node affinity.

use super::refuse;
use crate::candidate::Candidate;
use crate::node::Node;
use crate::reason::{Reason, Refusal, Tally};

pub(super) fn check(candidate: &Candidate, node: &Node<'_>, tally: &mut Tally) -> Option<Refusal> {
    if candidate.node_affinity.matches(node.name, &node.facts.labels) {
        return None;
    }
    refuse(Reason::NodeAffinity, Refusal::Never, tally)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::{Verdict, check};

    #[test]
    fn selector_and_affinity_must_both_match() {
        let node = json!({"metadata": {"name": "n", "labels": {"zone": "a", "disk": "ssd"}}});
        let required = |term| json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}});
        let zone = |value| {
            required(json!({"matchExpressions": [{"key": "zone", "operator": "In", "values": [value]}]}))
        };
        let name = |value| {
            required(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [value]}]}))
        };
        let refused = Verdict::Never("node(s) didn't match Pod's node affinity/selector");
        for (spec, verdict) in [
            (json!({}), Verdict::Fits),
            (json!({"nodeSelector": {"disk": "ssd"}}), Verdict::Fits),
            (json!({"nodeSelector": {"disk": "hdd"}}), refused.clone()),
            (json!({"affinity": zone("a")}), Verdict::Fits),
            (json!({"affinity": zone("b")}), refused.clone()),
            (
                json!({"affinity": zone("a"), "nodeSelector": {"disk": "hdd"}}),
                refused.clone(),
            ),
            (json!({"affinity": name("n")}), Verdict::Fits),
            (json!({"affinity": name("m")}), refused),
        ] {
            assert_eq!(check(super::check, &spec, &node, &[]), verdict, "{spec}");
        }
    }
}
