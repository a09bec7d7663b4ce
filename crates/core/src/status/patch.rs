//! What to send so that the upper status becomes the desired one: a strategic merge patch for `pods/status`.

use serde_json::{Map, Value, json};

use super::fingerprint::Part;
use super::{Fingerprint, REMOVABLE, REMOVABLE_CONDITIONS};

/// Members that are sent together, because the API server refuses a status where they disagree.
const PAIRS: [[&str; 2]; 2] = [["podIP", "podIPs"], ["hostIP", "hostIPs"]];
/// Lists that a strategic merge patch would merge by address.
const ADDRESS_LISTS: [&str; 2] = ["podIPs", "hostIPs"];
/// Members of a condition that a merge would keep when the new condition lacks them.
const CONDITION_OPTIONALS: [&str; 4] = ["reason", "message", "lastProbeTime", "observedGeneration"];
/// Directive of strategic merge patches.
const DIRECTIVE: &str = "$patch";

/// What we last sent, and what the server made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    wanted: Fingerprint,
    returned: Fingerprint,
}

/// A patch to send with the content type `application/strategic-merge-patch+json`.
#[derive(Clone, Debug, PartialEq)]
pub struct Patch {
    /// The body. It carries `metadata.uid`, so that the server refuses it for a namesake (409).
    pub body: Value,
    wanted: Fingerprint,
}

// === impl Sent ===

impl Sent {
    /// What the server returned.
    #[must_use]
    pub fn returned(&self) -> &Fingerprint {
        &self.returned
    }

    /// The fingerprint that equals `shown`: what the server returned, if the pod shows just that. It is then held once.
    #[must_use]
    pub fn one(&self, shown: Fingerprint) -> Fingerprint {
        if shown == self.returned {
            self.returned.clone()
        } else {
            shown
        }
    }
}

// === impl Patch ===

impl Patch {
    /// What to remember once the server has answered with the pod status `returned`.
    #[must_use]
    pub fn sent(self, returned: &Value) -> Sent {
        Sent {
            wanted: self.wanted,
            returned: Fingerprint::of(returned),
        }
    }
}

/// The smallest patch that brings the upper pod with `uid` to `desired`, or `None` when there is nothing to do.
///
/// A part is written when it differs from what was last sent; or when what the upper pod shows (`current`) is
/// neither what we want nor what the server returned for our last patch, which means that somebody else changed it.
/// So a server that prunes a member causes one write, not a loop.
///
/// `current` must not be older than what the server returned for `sent`: take it from that answer until the watch
/// shows a newer resourceVersion.
#[must_use]
pub fn patch(uid: &str, desired: &Value, sent: Option<&Sent>, current: &Fingerprint) -> Option<Patch> {
    let wanted = Fingerprint::of(desired);
    let differs = |part: Part<'_>| {
        let (want, shown) = (wanted.get(part), current.get(part));
        match sent {
            None => shown != want,
            Some(sent) if sent.wanted.get(part) != want => true,
            Some(sent) => shown != want && shown != sent.returned.get(part),
        }
    };
    let is_shown = |name: &str| current.get(Part::Member(name)).is_some();
    let mut status = members(desired, differs, is_shown);
    let conditions = conditions(desired, differs);
    if !conditions.is_empty() {
        status.insert("conditions".to_owned(), Value::Array(conditions));
    }
    if status.is_empty() {
        return None;
    }
    let body = json!({"metadata": {"uid": uid}, "status": status});
    Some(Patch { body, wanted })
}

/// The members to write, conditions aside.
fn members(
    desired: &Value,
    differs: impl Fn(Part<'_>) -> bool,
    is_shown: impl Fn(&str) -> bool,
) -> Map<String, Value> {
    let present = desired.as_object().into_iter().flatten();
    let present = present
        .filter(|(name, _)| name.as_str() != "conditions")
        .map(|(name, _)| name.as_str());
    let absent = REMOVABLE.into_iter().filter(|name| desired.get(name).is_none());
    let mut changed: Vec<&str> = present
        .chain(absent)
        .filter(|name| differs(Part::Member(name)))
        .collect();
    for pair in PAIRS {
        if pair.iter().any(|name| changed.contains(name)) {
            changed.retain(|name| !pair.contains(name));
            changed.extend(pair);
        }
    }
    let replacement = |name: &str| match desired.get(name) {
        None => Value::Null,
        Some(Value::Array(list)) if ADDRESS_LISTS.contains(&name) => replaced_list(list),
        Some(Value::Object(object)) if is_shown(name) => replaced_object(object),
        Some(value) => value.clone(),
    };
    changed
        .into_iter()
        .map(|name| (name.to_owned(), replacement(name)))
        .collect()
}

/// A list that takes the place of the one it would be merged with.
fn replaced_list(list: &[Value]) -> Value {
    let directive = json!({DIRECTIVE: "replace"});
    std::iter::once(directive).chain(list.iter().cloned()).collect()
}

/// An object that takes the place of the one it would be merged with. Only where there is one: the server drops a
/// member with this directive that it does not have yet.
fn replaced_object(object: &Map<String, Value>) -> Value {
    let mut object = object.clone();
    object.insert(DIRECTIVE.to_owned(), json!("replace"));
    Value::Object(object)
}

/// The conditions to write. The server merges them by type, and each of them member by member.
fn conditions(desired: &Value, differs: impl Fn(Part<'_>) -> bool) -> Vec<Value> {
    let present: Vec<_> = desired["conditions"].as_array().into_iter().flatten().collect();
    let is_present = |name: &str| present.iter().any(|condition| condition["type"] == name);
    let written = present.iter().filter(|condition| {
        condition["type"]
            .as_str()
            .is_some_and(|name| differs(Part::Condition(name)))
    });
    let written = written.map(|condition| {
        let mut condition = (*condition).clone();
        for key in CONDITION_OPTIONALS {
            if condition.get(key).is_none() {
                condition[key] = Value::Null;
            }
        }
        condition
    });
    let removed = REMOVABLE_CONDITIONS
        .into_iter()
        .filter(|name| !is_present(name) && differs(Part::Condition(name)));
    let removed = removed.map(|name| json!({"type": name, DIRECTIVE: "delete"}));
    written.chain(removed).collect()
}
