//! Upper pods that the upper scheduler finds no node for.

use std::collections::HashMap;

use serde_json::Value;
use tensile_runtime::key::Key;
use tensile_runtime::object::{self, Viewed};
use tensile_runtime::watch::Change;

use crate::pod::{Pod, Templates};

/// Pods that no node takes, kept up to date by a watch of unbound pods.
#[derive(Debug, Default)]
pub struct Waiting {
    pods: HashMap<Key, (Pod, u64)>,
    templates: Templates,
}

// === impl Waiting ===

impl Waiting {
    /// Takes over a change.
    pub fn changed(&mut self, change: &Change<Viewed<object::Pods, Value>>) {
        match change {
            Change::Apply(pod) => {
                let key = Key::of(pod);
                match since(&pod.view) {
                    Some(since) => {
                        let pod = Pod::read(&pod.view, &mut self.templates);
                        self.pods.insert(key, (pod, since));
                    }
                    None => drop(self.pods.remove(&key)),
                }
            }
            Change::Delete(pod) => drop(self.pods.remove(&Key::of(pod))),
            Change::Reset(keys) => self.pods.retain(|key, _| keys.contains(key)),
        }
        self.templates.sweep();
    }

    /// The pods, each with the time since when no node takes it, in seconds since the Unix epoch.
    pub fn iter(&self) -> impl Iterator<Item = (&Pod, u64)> {
        self.pods.values().map(|(pod, since)| (pod, *since))
    }
}

/// Since when the scheduler says that no node takes the pod.
fn since(pod: &Value) -> Option<u64> {
    let conditions = pod["status"]["conditions"].as_array()?;
    let scheduled = conditions
        .iter()
        .find(|condition| condition["type"] == "PodScheduled")?;
    let refused = scheduled["status"] == "False" && scheduled["reason"] == "Unschedulable";
    let since = scheduled["lastTransitionTime"]
        .as_str()
        .and_then(crate::clock::seconds);
    refused.then_some(since.unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::mk_replica;

    fn mk_unbound(name: &str, reason: &str) -> Viewed<object::Pods, Value> {
        let mut pod = mk_replica(name, "1", "");
        pod["status"]["conditions"] = json!([{
            "type": "PodScheduled", "status": "False", "reason": reason, "lastTransitionTime": "1970-01-01T00:01:40Z"
        }]);
        serde_json::from_str(&pod.to_string()).unwrap()
    }

    #[test]
    fn only_pods_that_no_node_takes_wait() {
        let mut waiting = Waiting::default();
        waiting.changed(&Change::Apply(mk_unbound("p", "Unschedulable")));
        waiting.changed(&Change::Apply(mk_unbound("q", "SchedulingGated")));
        let names = |waiting: &Waiting| {
            let names = waiting.iter().map(|(pod, since)| format!("{} {since}", pod.key));
            names.collect::<Vec<_>>()
        };
        assert_eq!(names(&waiting), ["ns/p 100"]);
        waiting.changed(&Change::Apply(mk_unbound("p", "SchedulingGated")));
        assert!(names(&waiting).is_empty());
        waiting.changed(&Change::Apply(mk_unbound("p", "Unschedulable")));
        waiting.changed(&Change::Delete(mk_unbound("p", "Unschedulable")));
        assert!(names(&waiting).is_empty());
        waiting.changed(&Change::Apply(mk_unbound("p", "Unschedulable")));
        waiting.changed(&Change::Reset([Key::new("ns", "q")].into()));
        assert!(names(&waiting).is_empty());
    }
}
