//! What lower clusters said to our pods that they cannot place.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;
use tensile_core::names;
use tensile_runtime::key::Key;
use tensile_runtime::object::{Pods, Viewed};
use tensile_runtime::watch::Change;

/// All refusals, by lower cluster. Only lower pods of ours that wait for a node are looked at.
#[derive(Debug, Default)]
pub struct Refused(BTreeMap<String, HashMap<Key, Refusal>>);

/// A lower scheduler's word on a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// UID of the upper pod.
    pub origin: Box<str>,
    /// Since when no node fits, in seconds since the Unix epoch.
    pub since: u64,
    /// What the scheduler says.
    pub message: Box<str>,
}

/// What is looked at of a lower pod that waits for a node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Unplaced {
    status: Status,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    conditions: Vec<Condition>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    r#type: String,
    status: String,
    reason: String,
    message: String,
    last_transition_time: Option<String>,
}

// === impl Refused ===

impl Refused {
    /// Takes over a change of a lower pod. Says whether a pod was refused that was not before.
    pub fn changed(&mut self, cluster: &str, change: Change<Viewed<Pods, Unplaced>>) -> bool {
        let refusals = self.0.entry(cluster.to_owned()).or_default();
        match change {
            Change::Apply(pod) => match refusal(&pod) {
                Some(refusal) => refusals.insert(Key::of(&pod), refusal).is_none(),
                None => {
                    refusals.remove(&Key::of(&pod));
                    false
                }
            },
            Change::Delete(pod) => {
                refusals.remove(&Key::of(&pod));
                false
            }
            Change::Reset(keys) => {
                refusals.retain(|key, _| keys.contains(key));
                false
            }
        }
    }

    /// Forgets a cluster that has left.
    pub fn delete_cluster(&mut self, cluster: &str) {
        self.0.remove(cluster);
    }

    /// The refusals of a cluster by the UID of the upper pod.
    #[must_use]
    pub fn of(&self, cluster: &str) -> HashMap<&str, &Refusal> {
        let refusals = self.0.get(cluster).into_iter().flat_map(HashMap::values);
        refusals.map(|refusal| (&*refusal.origin, refusal)).collect()
    }

    /// When the first refusal that is younger than `threshold` seconds at `now` will be that old.
    #[must_use]
    pub fn next_due(&self, threshold: u64, now: u64) -> Option<u64> {
        let refusals = self.0.values().flat_map(HashMap::values);
        let due = refusals.map(|refusal| refusal.since.saturating_add(threshold));
        due.filter(|due| *due > now).min()
    }
}

fn refusal(pod: &Viewed<Pods, Unplaced>) -> Option<Refusal> {
    let origin = pod.metadata.labels.as_ref()?.get(names::ORIGIN_UID)?;
    let scheduled = |condition: &&Condition| condition.r#type == "PodScheduled";
    let condition = pod.view.status.conditions.iter().find(scheduled)?;
    (condition.status == "False" && condition.reason == "Unschedulable").then(|| Refusal {
        origin: origin.as_str().into(),
        // A time that is missing or cannot be read is no reason to move early.
        since: condition
            .last_transition_time
            .as_deref()
            .and_then(crate::clock::seconds)
            .unwrap_or(u64::MAX),
        message: condition.message.as_str().into(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn mk_waiting(name: &str, reason: &str) -> Viewed<Pods, Unplaced> {
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": reason, "message": "0/1 nodes are available",
            "lastTransitionTime": "1970-01-01T00:01:40Z"
        });
        mk_lower(name, &json!([condition]))
    }

    fn mk_lower(name: &str, conditions: &Value) -> Viewed<Pods, Unplaced> {
        let labels = json!({"tensile.dev/origin-uid": name});
        let metadata = json!({"namespace": "ns", "name": name, "labels": labels});
        let pod = json!({"metadata": metadata, "status": {"conditions": conditions}});
        serde_json::from_str(&pod.to_string()).unwrap()
    }

    #[test]
    fn refusals_follow_the_watch() {
        let mut refused = Refused::default();
        assert!(refused.changed("a", Change::Apply(mk_waiting("p", "Unschedulable"))));
        assert!(
            !refused.changed("a", Change::Apply(mk_waiting("p", "Unschedulable"))),
            "known"
        );
        for reason in ["SchedulingGated", ""] {
            assert!(!refused.changed("a", Change::Apply(mk_waiting("q", reason))));
        }
        assert!(!refused.changed("a", Change::Apply(mk_lower("r", &json!([])))));
        let wanted = Refusal {
            origin: "p".into(),
            since: 100,
            message: "0/1 nodes are available".into(),
        };
        assert_eq!(refused.of("a"), HashMap::from([("p", &wanted)]));
        assert!(refused.of("b").is_empty());
        refused.changed("a", Change::Reset([Key::new("ns", "other")].into()));
        assert!(refused.of("a").is_empty());
        refused.changed("a", Change::Apply(mk_waiting("p", "Unschedulable")));
        refused.changed("a", Change::Delete(mk_waiting("p", "Unschedulable")));
        assert!(refused.of("a").is_empty());
        refused.changed("a", Change::Apply(mk_waiting("p", "Unschedulable")));
        refused.delete_cluster("a");
        assert!(refused.of("a").is_empty());
    }

    #[test]
    fn the_next_pod_to_become_due_is_known() {
        let mut refused = Refused::default();
        assert_eq!(refused.next_due(60, 0), None);
        refused.changed("a", Change::Apply(mk_waiting("p", "Unschedulable")));
        assert_eq!(refused.next_due(60, 100), Some(160));
        assert_eq!(refused.next_due(60, 160), None, "it is due");
    }
}
