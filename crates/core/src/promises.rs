//! Promises: rooms in lower clusters that are kept free for pods that wait.
//!
//! The descheduler writes them before it evicts pods to make room for another one, and the extender counts them as if the
//! pod were there already, for everybody but the pod itself. They live in one ConfigMap of the system namespace,
//! named [`CONFIG_MAP`], with one entry of `data` per pod:
//!
//! ```yaml
//! data:
//!   2f6c1d0e-3c0b-4f0e-9d55-0f8a6c1b7e21: '{"node":"va","lowerNode":"a7","requests":{"cpu":"3"},"priority":0,"end":1795460000}'
//! ```
//!
//! The key is the UID of the upper pod.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::entries::{self, EntryError};
use crate::resources::Resources;

/// Name of the ConfigMap.
pub const CONFIG_MAP: &str = "tensile-promises";

/// Most entries. One takes at most 2 * 253 bytes of names and some hundred more, so that all of them stay far below the
/// 1 MiB that the API server takes in a ConfigMap, even where pods ask for dozens of extended resources.
pub const MAX_ENTRIES: usize = 128;

/// How an entry looks, for people.
const EXAMPLE: &str =
    r#"{"node": "va", "lowerNode": "a7", "requests": {"cpu": "3"}, "priority": 0, "end": 1795460000}"#;

/// Room on a node of a lower cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Room {
    /// The virtual node.
    pub node: String,
    /// The node of the lower cluster.
    pub lower_node: String,
    /// What the pod will ask for there.
    pub requests: Resources,
    /// The pod's priority: who is more important need not wait for it.
    #[serde(default)]
    pub priority: i64,
}

/// Room that is promised to a pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// Where, and how much.
    #[serde(flatten)]
    pub room: Room,
    /// When the promise ends, in seconds since the Unix epoch.
    pub end: u64,
}

/// All promises, by UID of the pod that waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Promises(BTreeMap<String, Promise>);

// === impl Promises ===

impl Promises {
    /// Reads the `data` of the ConfigMap. An entry that cannot be read is left out and reported; it does not
    /// hide the others.
    #[must_use]
    pub fn decode(data: &BTreeMap<String, String>) -> (Self, Vec<EntryError>) {
        let (entries, errors) = entries::decode(CONFIG_MAP, EXAMPLE, data);
        (Self(entries), errors)
    }

    /// The `data` of the ConfigMap.
    #[must_use]
    pub fn encode(&self) -> BTreeMap<String, String> {
        let text = |promise| serde_json::to_value(promise).unwrap_or_default().to_string();
        self.0
            .iter()
            .map(|(pod, promise)| (pod.clone(), text(promise)))
            .collect()
    }

    /// What is promised under this UID, whether or not it has ended.
    #[must_use]
    pub fn get(&self, pod: &str) -> Option<&Promise> {
        self.0.get(pod)
    }

    /// Promises room instead of what was promised under the UID before. Says whether there was place for the entry.
    pub fn put(&mut self, pod: &str, promise: Promise) -> bool {
        let fits = self.0.len() < MAX_ENTRIES || self.0.contains_key(pod);
        if fits {
            self.0.insert(pod.to_owned(), promise);
        }
        fits
    }

    /// The promises that hold at `now`, with the UIDs of their pods, in order of these.
    pub fn in_force(&self, now: u64) -> impl Iterator<Item = (&str, &Promise)> {
        let all = self.0.iter().map(|(pod, promise)| (pod.as_str(), promise));
        all.filter(move |(_, promise)| promise.end > now)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> FromIterator<(&'a str, Promise)> for Promises {
    fn from_iter<I: IntoIterator<Item = (&'a str, Promise)>>(promises: I) -> Self {
        let mut all = Self::default();
        for (pod, promise) in promises {
            all.put(pod, promise);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_promise(lower: &str, end: u64) -> Promise {
        let requests = json!({"cpu": "2500m", "memory": "1Gi", "pods": "1", "example.com/gpu": "2"});
        Promise {
            room: Room {
                node: "va".to_owned(),
                lower_node: lower.to_owned(),
                requests: serde_json::from_value(requests).unwrap(),
                priority: -1,
            },
            end,
        }
    }

    #[test]
    fn reads_what_it_wrote_and_what_people_write() {
        let promises: Promises = [("p", mk_promise("a1", 10)), ("q", mk_promise("a2", 20))]
            .into_iter()
            .collect();
        let data = promises.encode();
        let (read, errors) = Promises::decode(&data);
        assert_eq!((read, errors.len()), (promises, 0));
        let entry: serde_json::Value = serde_json::from_str(&data["p"]).unwrap();
        assert_eq!(
            (
                &entry["node"],
                &entry["lowerNode"],
                &entry["end"],
                &entry["requests"]["cpu"]
            ),
            (&json!("va"), &json!("a1"), &json!(10), &json!("2500m"))
        );
        let (read, errors) = Promises::decode(&[("x".to_owned(), EXAMPLE.to_owned())].into());
        assert!(errors.is_empty());
        assert_eq!(read.get("x").unwrap().room.requests.milli_cpu, 3000);
    }

    #[test]
    fn a_broken_entry_is_named_and_hides_no_other() {
        let good = serde_json::to_string(&mk_promise("a1", 10)).unwrap();
        let data = [
            ("good", &*good),
            ("no end", r#"{"node": "va", "lowerNode": "a1", "requests": {}}"#),
            ("no json", "soon"),
            ("past", &good.replace("10}", "-1}")),
        ];
        let data = data.map(|(key, text)| (key.to_owned(), text.to_owned())).into();
        let (read, errors) = Promises::decode(&data);
        assert_eq!(read.encode().into_keys().collect::<Vec<_>>(), ["good"]);
        let named: Vec<_> = errors.iter().map(|error| error.key.as_str()).collect();
        assert_eq!(named, ["no end", "no json", "past"]);
        let text = errors[0].to_string();
        assert!(
            text.starts_with("ConfigMap tensile-promises, data[no end]: "),
            "{text}"
        );
    }

    #[test]
    fn a_promise_holds_until_its_end_and_a_later_one_takes_its_place() {
        let mut promises: Promises = [("p", mk_promise("a1", 10)), ("q", mk_promise("a2", 20))]
            .into_iter()
            .collect();
        let pods = |promises: &Promises, now| {
            let pods = promises.in_force(now).map(|(pod, _)| pod.to_owned());
            pods.collect::<Vec<_>>()
        };
        assert_eq!(pods(&promises, 9), ["p", "q"]);
        assert_eq!(pods(&promises, 10), ["q"]);
        assert!(promises.put("p", mk_promise("a3", 30)));
        assert_eq!(promises.get("p"), Some(&mk_promise("a3", 30)));
    }

    #[test]
    fn there_is_place_for_so_many() {
        let mut promises = Promises::default();
        for index in 0..MAX_ENTRIES {
            assert!(promises.put(&index.to_string(), mk_promise("a1", 10)));
        }
        assert!(!promises.put("one more", mk_promise("a1", 10)));
        assert!(promises.put("0", mk_promise("a2", 10)), "not one more");
    }
}
