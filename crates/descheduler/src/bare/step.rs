//! What to do about a recorded pod.

use serde_json::Value;

use super::Record;

/// Condition and reason by which the Eviction API marks a pod before it deletes it, since Kubernetes 1.26
/// (`v1.DisruptionTarget`, `policy.EvictionByEvictionAPI`).
const DISRUPTION_TARGET: &str = "DisruptionTarget";
const BY_EVICTION: &str = "EvictionByEvictionAPI";

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Look again.
    Wait,
    /// Make the pod again.
    Restore,
    /// Remove the record.
    Forget,
}

/// Decides by the pod that has the name now. `is_old` says that no request of whoever wrote the record can be on its
/// way any more.
pub(super) fn next(record: &Record, pod: Option<&Value>, is_old: bool) -> Step {
    let Some(pod) = pod else { return Step::Restore };
    let metadata = &pod["metadata"];
    if metadata["uid"] != *record.uid {
        // Its successor, or a pod of somebody who was faster.
        return Step::Forget;
    }
    if metadata["deletionTimestamp"].is_string() {
        // Whoever deletes it otherwise wants it to be gone.
        return if is_evicted(pod) { Step::Wait } else { Step::Forget };
    }
    if metadata["resourceVersion"] != *record.resource_version && !is_evicted(pod) || is_old {
        return Step::Forget;
    }
    Step::Wait
}

/// Whether the Eviction API has taken the pod: it marks the pod, and then deletes it.
fn is_evicted(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition["type"] == DISRUPTION_TARGET && condition["reason"] == BY_EVICTION)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_pod_that_has_the_name_decides() {
        let metadata = json!({"namespace": "ns", "name": "p", "uid": "u", "resourceVersion": "7"});
        let record = Record::of(json!({"metadata": metadata, "spec": {}}), "u").unwrap();
        let mk = |uid: &str, version: &str, deleting: bool, evicted: bool| {
            let deleted = deleting.then_some("2026-01-01T00:00:00Z");
            let conditions = if evicted {
                json!([{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}])
            } else {
                json!([{"type": "Ready"}])
            };
            let metadata = json!({"uid": uid, "resourceVersion": version, "deletionTimestamp": deleted});
            json!({"metadata": metadata, "status": {"conditions": conditions}})
        };
        for (what, pod, is_old, wanted) in [
            ("gone", None, false, Step::Restore),
            ("gone long ago", None, true, Step::Restore),
            (
                "another has the name",
                Some(mk("v", "9", false, false)),
                false,
                Step::Forget,
            ),
            (
                "as it was read",
                Some(mk("u", "7", false, false)),
                false,
                Step::Wait,
            ),
            (
                "as it was read long ago",
                Some(mk("u", "7", false, false)),
                true,
                Step::Forget,
            ),
            (
                "changed since",
                Some(mk("u", "8", false, false)),
                false,
                Step::Forget,
            ),
            (
                "about to be deleted",
                Some(mk("u", "8", false, true)),
                false,
                Step::Wait,
            ),
            (
                "marked, and nothing came of it",
                Some(mk("u", "8", false, true)),
                true,
                Step::Forget,
            ),
            ("going", Some(mk("u", "9", true, true)), false, Step::Wait),
            ("going slowly", Some(mk("u", "9", true, true)), true, Step::Wait),
            (
                "deleted by somebody else",
                Some(mk("u", "8", true, false)),
                false,
                Step::Forget,
            ),
        ] {
            assert_eq!(next(&record, pod.as_ref(), is_old), wanted, "{what}");
        }
    }
}
