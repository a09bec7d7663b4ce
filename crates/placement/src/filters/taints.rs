//! Taints that keep pods out must be tolerated.

use tensile_core::taints::{Effect, untolerated};

use super::refuse;
use crate::candidate::Candidate;
use crate::node::Node;
use crate::reason::{Reason, Refusal, Tally};

pub(super) fn check(candidate: &Candidate, node: &Node<'_>, tally: &mut Tally) -> Option<Refusal> {
    let taint = untolerated(&node.facts.taints, &candidate.tolerations, Effect::keeps_out)?;
    refuse(
        Reason::Taint(taint.key.clone(), taint.value.clone()),
        Refusal::Never,
        tally,
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::{Verdict, check};

    #[test]
    fn taints_that_keep_out_must_be_tolerated() {
        let refused = Verdict::Never("node(s) had untolerated taint {k: v}");
        for (effect, tolerations, verdict) in [
            ("NoSchedule", json!([]), refused.clone()),
            ("NoExecute", json!([]), refused.clone()),
            ("PreferNoSchedule", json!([]), Verdict::Fits),
            ("NoSchedule", json!([{"key": "k", "value": "v"}]), Verdict::Fits),
            ("NoSchedule", json!([{"key": "k", "value": "w"}]), refused.clone()),
            (
                "NoSchedule",
                json!([{"key": "k", "value": "v", "effect": "NoExecute"}]),
                refused,
            ),
            (
                "NoExecute",
                json!([{"key": "k", "operator": "Exists", "tolerationSeconds": 5}]),
                Verdict::Fits,
            ),
        ] {
            let node = json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": effect}]}});
            let spec = json!({"tolerations": tolerations});
            assert_eq!(check(super::check, &spec, &node, &[]), verdict, "{effect} {spec}");
        }
    }
}
