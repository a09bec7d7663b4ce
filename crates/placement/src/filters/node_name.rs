//! A pod that names its node goes there or nowhere.

use super::refuse;
use crate::candidate::Candidate;
use crate::node::Node;
use crate::reason::{Reason, Refusal, Tally};

pub(super) fn check(candidate: &Candidate, node: &Node<'_>, tally: &mut Tally) -> Option<Refusal> {
    let wanted = candidate.pod.node_name.as_deref()?;
    if wanted == &**node.name {
        None
    } else {
        refuse(Reason::NodeName, Refusal::Never, tally)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::testing::{Verdict, check};

    #[test]
    fn only_the_named_node_will_do() {
        let node = json!({"metadata": {"name": "a"}});
        for (spec, verdict) in [
            (json!({}), Verdict::Fits),
            (json!({"nodeName": ""}), Verdict::Fits),
            (json!({"nodeName": "a"}), Verdict::Fits),
            (
                json!({"nodeName": "b"}),
                Verdict::Never("node(s) didn't match the requested node name"),
            ),
        ] {
            assert_eq!(check(super::check, &spec, &node, &[]), verdict, "{spec}");
        }
    }
}
