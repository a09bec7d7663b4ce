//! Events that wait to be shown, and what each pod may still cost.

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;

use tensile_core::translate::event::{self, Budget};
use tensile_runtime::key::Key;
use tensile_runtime::object::{Events, Viewed};

/// A lower event as its watch delivers it.
pub type LowerEvent = Viewed<Events, Value>;

/// Events that wait at a time; further ones are dropped. Some 2 KB each.
const CAPACITY: usize = 1024;
/// Budgets that are kept before those of pods that rest are forgotten.
const BUDGETS: usize = 1024;

/// Events by lower namespace and name.
#[derive(Debug, Default)]
pub struct Index {
    waiting: HashMap<Key, Value>,
    budgets: HashMap<Box<str>, Budget>,
}

// === impl Index ===

impl Index {
    /// Takes an event as its watch shows it; returns whether it is to be worked on.
    pub fn apply(&mut self, key: &Key, event: LowerEvent) -> bool {
        let is_known = self.waiting.contains_key(key);
        if !event::is_told(&event.view) || (!is_known && self.waiting.len() >= CAPACITY) {
            return false;
        }
        self.waiting.insert(key.clone(), event.view);
        true
    }

    /// The event under `key`, if it still waits.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Value> {
        self.waiting.get(key)
    }

    /// The event was shown, or is not to be shown; unless it changed meanwhile.
    pub fn done(&mut self, key: &Key, event: &Value) {
        if self.waiting.get(key) == Some(event) {
            self.waiting.remove(key);
        }
    }

    /// Whether the pod with this UID may cost one more write at `now`, since any fixed moment.
    pub fn may_cost(&mut self, pod_uid: &str, now: Duration) -> bool {
        if self.budgets.len() >= BUDGETS {
            self.budgets.retain(|_, budget| !budget.is_full(now));
        }
        self.budgets.entry(pod_uid.into()).or_default().take(now)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_event(name: &str, reason: &str, count: u32) -> LowerEvent {
        let event = json!({
            "metadata": {"name": name, "namespace": "ns"}, "involvedObject": {"kind": "Pod"},
            "type": "Normal", "reason": reason, "count": count,
        });
        serde_json::from_str(&event.to_string()).unwrap()
    }

    #[test]
    fn an_event_waits_in_its_newest_state() {
        let (mut index, key) = (Index::default(), Key::new("ns", "e"));
        assert!(!index.apply(&key, mk_event("e", "Started", 1)), "routine");
        assert!(index.apply(&key, mk_event("e", "BackOff", 1)));
        let first = index.get(&key).unwrap().clone();
        assert!(index.apply(&key, mk_event("e", "BackOff", 2)));
        index.done(&key, &first);
        assert_eq!(index.get(&key).unwrap()["count"], 2, "it changed meanwhile");
        let second = index.get(&key).unwrap().clone();
        index.done(&key, &second);
        assert!(index.get(&key).is_none());
    }

    #[test]
    fn a_storm_is_cut_off() {
        let mut index = Index::default();
        let taken = (0..2 * CAPACITY).filter(|n| {
            let name = n.to_string();
            index.apply(&Key::new("ns", &name), mk_event(&name, "BackOff", 1))
        });
        assert_eq!(taken.count(), CAPACITY);
    }
}
