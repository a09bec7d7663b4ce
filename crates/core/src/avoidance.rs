//! Avoidance: which virtual nodes the pods of an owner should not go to for a while.
//!
//! The descheduler writes it after it has moved a pod, webhook and extender read it. It lives in one ConfigMap
//! of the system namespace, named [`CONFIG_MAP`], with one entry of `data` per owner, so that entries can be
//! patched without touching each other:
//!
//! ```yaml
//! data:
//!   2f6c1d0e-3c0b-4f0e-9d55-0f8a6c1b7e21: '{"virtual-node-a": 1795460000}'
//! ```
//!
//! The key is the UID of the owner (the pod's controlling ownerReference), the value a JSON object from
//! the virtual node's name to the end of the avoidance in seconds since the Unix epoch.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::entries::{self, EntryError};
use crate::names;
use crate::owners::controller;

/// Name of the ConfigMap.
pub const CONFIG_MAP: &str = "tensile-avoidance";

/// All entries, by owner UID and virtual node. Ends are in seconds since the Unix epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Avoidance(BTreeMap<String, BTreeMap<String, u64>>);

/// What a pod and those that replace it have in common, which their avoidance is kept under: the UID of the owner that
/// controls the pod; of a pod without one that was moved before, that of the first pod of its name.
#[must_use]
pub fn lineage(metadata: &Value) -> Option<&str> {
    match controller(metadata) {
        Some(owner) => owner["uid"].as_str(),
        None => metadata["annotations"][names::MOVED_FROM].as_str(),
    }
}

// === impl Avoidance ===

impl Avoidance {
    /// Reads the `data` of the ConfigMap. An entry that cannot be read is left out and reported; it does not
    /// hide the others.
    #[must_use]
    pub fn decode(data: &BTreeMap<String, String>) -> (Self, Vec<EntryError>) {
        let (entries, errors) = entries::decode(CONFIG_MAP, r#"{"node": 1795460000}"#, data);
        (Self(entries), errors)
    }

    /// The `data` of the ConfigMap.
    #[must_use]
    pub fn encode(&self) -> BTreeMap<String, String> {
        let text = |nodes: &BTreeMap<String, u64>| {
            nodes
                .iter()
                .map(|(node, end)| (node.clone(), Value::from(*end)))
                .collect::<Value>()
                .to_string()
        };
        self.0
            .iter()
            .map(|(owner, nodes)| (owner.clone(), text(nodes)))
            .collect()
    }

    /// The virtual nodes that pods of `owner` avoid at `now`, in order.
    pub fn nodes(&self, owner: &str, now: u64) -> impl Iterator<Item = &str> {
        let nodes = self.0.get(owner).into_iter().flatten();
        nodes
            .filter(move |(_, end)| **end > now)
            .map(|(node, _)| node.as_str())
    }

    /// When the pods of `owner` stop to avoid `node`; `None` if they do not avoid it at `now`.
    #[must_use]
    pub fn end(&self, owner: &str, node: &str, now: u64) -> Option<u64> {
        let end = *self.0.get(owner)?.get(node)?;
        (end > now).then_some(end)
    }

    /// Lets the pods of `owner` avoid `node` until `end`, or longer if that was said before.
    pub fn avoid(&mut self, owner: &str, node: &str, end: u64) {
        let nodes = self.0.entry(owner.to_owned()).or_default();
        let known = nodes.entry(node.to_owned()).or_default();
        *known = end.max(*known);
    }

    /// Removes what has ended at `now`; returns whether there was any.
    pub fn expire(&mut self, now: u64) -> bool {
        let before = self.len();
        self.0.retain(|_, nodes| {
            nodes.retain(|_, end| *end > now);
            !nodes.is_empty()
        });
        self.len() != before
    }

    /// Number of (owner, node) pairs.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.values().map(BTreeMap::len).sum()
    }

    /// Whether there is no entry.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_avoidance() -> Avoidance {
        let mut avoidance = Avoidance::default();
        avoidance.avoid("owner", "b", 20);
        avoidance.avoid("owner", "a", 10);
        avoidance.avoid("other", "c", 10);
        avoidance
    }

    fn nodes(avoidance: &Avoidance, owner: &str, now: u64) -> Vec<String> {
        avoidance.nodes(owner, now).map(str::to_owned).collect()
    }

    #[test]
    fn an_entry_holds_until_its_end() {
        let avoidance = mk_avoidance();
        assert_eq!(nodes(&avoidance, "owner", 9), ["a", "b"]);
        assert_eq!(nodes(&avoidance, "owner", 10), ["b"]);
        assert!(nodes(&avoidance, "owner", 20).is_empty());
        assert!(nodes(&avoidance, "nobody", 0).is_empty());
        assert_eq!(avoidance.end("owner", "b", 19), Some(20));
        assert_eq!(avoidance.end("owner", "b", 20), None);
        assert_eq!(avoidance.end("owner", "c", 0), None);
    }

    #[test]
    fn a_second_move_prolongs_and_never_shortens() {
        let mut avoidance = mk_avoidance();
        avoidance.avoid("owner", "a", 30);
        avoidance.avoid("owner", "a", 5);
        assert_eq!(nodes(&avoidance, "owner", 29), ["a"]);
    }

    #[test]
    fn what_has_ended_is_removed() {
        let mut avoidance = mk_avoidance();
        assert!(!avoidance.expire(9));
        assert_eq!(avoidance.len(), 3);
        assert!(avoidance.expire(10));
        assert_eq!(
            avoidance.encode(),
            BTreeMap::from([("owner".to_owned(), r#"{"b":20}"#.to_owned())])
        );
        assert!(avoidance.expire(20));
        assert!(avoidance.is_empty());
    }

    #[test]
    fn reads_what_it_wrote() {
        let (read, errors) = Avoidance::decode(&mk_avoidance().encode());
        assert_eq!(read, mk_avoidance());
        assert!(errors.is_empty());
    }

    #[test]
    fn pods_belong_together_by_their_controller_or_the_first_of_their_name() {
        let annotations = json!({"tensile.dev/moved-from": "first"});
        let owners = |controller: bool| json!([{"uid": "x"}, {"uid": "o", "controller": controller}]);
        for (metadata, wanted) in [
            (
                json!({"ownerReferences": owners(true), "annotations": annotations}),
                Some("o"),
            ),
            (
                json!({"ownerReferences": owners(false), "annotations": annotations}),
                Some("first"),
            ),
            (
                json!({"ownerReferences": null, "annotations": annotations}),
                Some("first"),
            ),
            (json!({}), None),
        ] {
            assert_eq!(lineage(&metadata), wanted, "{metadata}");
        }
    }

    #[test]
    fn a_broken_entry_is_named_and_hides_no_other() {
        let mut data = mk_avoidance().encode();
        for (owner, text) in [
            ("x", "nonsense"),
            ("y", r#"{"a": "soon"}"#),
            ("z", r#"{"a": -1}"#),
        ] {
            data.insert(owner.to_owned(), text.to_owned());
        }
        let (read, errors) = Avoidance::decode(&data);
        assert_eq!(read, mk_avoidance());
        let owners: Vec<_> = errors.iter().map(|error| error.key.as_str()).collect();
        assert_eq!(owners, ["x", "y", "z"]);
        assert!(errors[0].to_string().contains("data[x]"), "{}", errors[0]);
    }
}
