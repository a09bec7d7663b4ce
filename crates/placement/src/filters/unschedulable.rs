//! A cordoned node takes only pods that tolerate that.

use tensile_core::names;
use tensile_core::taints::{Effect, Taint};

use super::refuse;
use crate::candidate::Candidate;
use crate::node::Node;
use crate::reason::{Reason, Refusal, Tally};

pub(super) fn check(candidate: &Candidate, node: &Node<'_>, tally: &mut Tally) -> Option<Refusal> {
    if !node.facts.unschedulable {
        return None;
    }
    let taint = Taint {
        key: names::TAINT_UNSCHEDULABLE.into(),
        value: "".into(),
        effect: Effect::NoSchedule,
    };
    if candidate
        .tolerations
        .iter()
        .any(|toleration| toleration.tolerates(&taint))
    {
        return None;
    }
    refuse(Reason::Unschedulable, Refusal::Never, tally)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::{Verdict, check};

    #[test]
    fn a_cordoned_node_takes_only_pods_that_tolerate_it() {
        let cordoned = json!({"spec": {"unschedulable": true}});
        let refused = Verdict::Never("node(s) were unschedulable");
        let key = "node.kubernetes.io/unschedulable";
        for (spec, node, verdict) in [
            (json!({}), json!({}), Verdict::Fits),
            (json!({}), cordoned.clone(), refused.clone()),
            (
                json!({"tolerations": [{"operator": "Exists"}]}),
                cordoned.clone(),
                Verdict::Fits,
            ),
            (
                json!({"tolerations": [{"key": key, "operator": "Exists"}]}),
                cordoned.clone(),
                Verdict::Fits,
            ),
            (
                json!({"tolerations": [{"key": key, "operator": "Exists", "effect": "NoExecute"}]}),
                cordoned,
                refused,
            ),
        ] {
            assert_eq!(check(super::check, &spec, &node, &[]), verdict, "{spec}");
        }
    }
}
