//! The effective request must fit into what is free.

use crate::candidate::Candidate;
use crate::node::Node;
use crate::reason::{Reason, Refusal, Tally};

pub(super) fn check(candidate: &Candidate, node: &Node<'_>, tally: &mut Tally) -> Option<Refusal> {
    let request = &candidate.pod.request;
    let allocatable = &node.facts.allocatable;
    if request.fits_beside(node.used, allocatable) {
        return None;
    }
    let mut refusal = None;
    for lane in request.lacking(node.used, allocatable) {
        let never = request.get(&lane) > allocatable.get(&lane);
        refusal = refusal.max(Some(if never { Refusal::Never } else { Refusal::Now }));
        tally.note(Reason::Insufficient(lane));
    }
    refusal
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use crate::testing::{Verdict, check, mk_pod};

    fn mk_spec(requests: &Value) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": requests}}]})
    }

    #[test]
    fn the_request_must_fit_beside_what_is_used() {
        let node = json!({"status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "3", "example.com/x": "1"}}});
        let used = [
            mk_pod("a", mk_spec(&json!({"cpu": "3"}))),
            mk_pod("b", mk_spec(&json!({"example.com/x": "1"}))),
        ];
        for (requests, verdict) in [
            (json!({}), Verdict::Fits),
            (json!({"cpu": "1", "memory": "8Gi"}), Verdict::Fits),
            (json!({"cpu": "1001m"}), Verdict::Now("Insufficient cpu")),
            (json!({"cpu": "5"}), Verdict::Never("Insufficient cpu")),
            (
                json!({"cpu": "2", "memory": "7Gi", "example.com/x": "1"}),
                Verdict::Now("Insufficient cpu"),
            ),
            (
                json!({"example.com/x": "1"}),
                Verdict::Now("Insufficient example.com/x"),
            ),
            (
                json!({"example.com/y": "1"}),
                Verdict::Never("Insufficient example.com/y"),
            ),
            (
                json!({"ephemeral-storage": "1"}),
                Verdict::Never("Insufficient ephemeral-storage"),
            ),
        ] {
            assert_eq!(
                check(super::check, &mk_spec(&requests), &node, &used),
                verdict,
                "{requests}"
            );
        }
    }

    #[test]
    fn a_node_has_room_for_only_so_many_pods() {
        let node = json!({"status": {"allocatable": {"pods": "1"}}});
        let pods = [mk_pod("a", json!({}))];
        assert_eq!(check(super::check, &json!({}), &node, &[]), Verdict::Fits);
        assert_eq!(
            check(super::check, &json!({}), &node, &pods),
            Verdict::Now("Too many pods")
        );
        assert_eq!(
            check(super::check, &json!({}), &json!({}), &[]),
            Verdict::Never("Too many pods")
        );
    }
}
