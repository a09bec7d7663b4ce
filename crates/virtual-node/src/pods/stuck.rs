//! Lower pods whose node died while they were ending: no kubelet confirms that, so they stay for ever. Only who runs the
//! clusters can know that a dead node will not come back with the containers, hence a flag, and off by default.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::{Deletion, LowerSide};

/// What becomes of a lower pod that is ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Somebody sees to it, or nobody may.
    Wait,
    /// Look again after this time.
    After(Duration),
    /// Remove it without its kubelet.
    Force,
}

/// What becomes of `lower` at `now`, if it may be overdue for `patience` on a dead node.
#[must_use]
pub fn ending(lower: &LowerSide, node_is_dead: bool, patience: Option<Duration>, now: Timestamp) -> Ending {
    let (Some(patience), Some(Deletion { .. }), Some(ends_at)) = (patience, lower.deletion, lower.ends_at)
    else {
        return Ending::Wait;
    };
    // A pod without a node is the API server's to end, and not our business.
    if lower.node.is_none() {
        return Ending::Wait;
    }
    let overdue = now.duration_since(ends_at);
    let left = SignedDuration::try_from(patience).unwrap_or(SignedDuration::MAX) - overdue;
    match Duration::try_from(left) {
        Ok(left) if !left.is_zero() => Ending::After(left),
        // A node that is back has its kubelet end the pod; one that dies later shows it in the pod's status.
        _ if node_is_dead => Ending::Force,
        _ => Ending::Wait,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn mk_lower(extra: &Value) -> LowerSide {
        let mut pod = json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "l1",
                         "deletionTimestamp": "2026-01-01T00:00:30Z", "deletionGracePeriodSeconds": 30},
            "spec": {"nodeName": "dead"},
        });
        json_patch::merge(&mut pod, extra);
        LowerSide::new(serde_json::from_str(&pod.to_string()).unwrap())
    }

    #[test]
    fn only_an_overdue_pod_of_a_dead_node_is_forced_and_only_if_asked_for() {
        let minute = Some(Duration::from_secs(60));
        let not_deleted = json!({"metadata": {"deletionTimestamp": null}});
        let unbound = json!({"spec": {"nodeName": null}});
        for (extra, dead, patience, at, expected) in [
            (json!({}), true, minute, "00:01:30", Ending::Force),
            (json!({}), true, minute, "00:05:00", Ending::Force),
            (
                json!({}),
                true,
                minute,
                "00:01:00",
                Ending::After(Duration::from_secs(30)),
            ),
            (
                json!({}),
                true,
                minute,
                "00:00:10",
                Ending::After(Duration::from_secs(80)),
            ),
            (json!({}), false, minute, "00:05:00", Ending::Wait),
            (json!({}), true, None, "00:05:00", Ending::Wait),
            (not_deleted, true, minute, "00:05:00", Ending::Wait),
            (unbound, true, minute, "00:05:00", Ending::Wait),
        ] {
            let now = format!("2026-01-01T{at}Z").parse().unwrap();
            assert_eq!(
                ending(&mk_lower(&extra), dead, patience, now),
                expected,
                "{extra} at {at}"
            );
        }
    }
}
