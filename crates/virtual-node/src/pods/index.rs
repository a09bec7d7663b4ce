//! All pods of one virtual node, both sides of each.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use tensile_core::refs::Reference;
use tensile_core::status::Sent;
use tensile_runtime::key::Key;

use super::{Deletion, LowerSide, UpperPod, UpperSide};

/// Both sides of one namespace and name. At least one is there.
#[derive(Clone, Debug, Default)]
pub struct Entry {
    /// The upper pod, while it exists.
    pub upper: Option<UpperSide>,
    /// The lower pod, while it exists.
    pub lower: Option<LowerSide>,
    /// UID of the upper pod whose lower pod was seen or made by us; tells "gone" from "not there yet".
    pub placed: Option<Box<str>>,
    /// Grace period in seconds with which the upper pod that is gone was deleted.
    pub last_grace: Option<i64>,
    /// Since when the lower cluster is silent, in RFC 3339, once that is to be shown.
    pub silent_since: Option<Arc<str>>,
    /// When the watch showed the change of the lower pod that is not carried up yet.
    pub changed_at: Option<Instant>,
    /// Why the last attempt failed, until one succeeds.
    pub trouble: Option<Box<Trouble>>,
}

/// A failed attempt at a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What failed.
    pub error: String,
    /// When.
    pub at: Timestamp,
}

/// Pods by namespace and name.
#[derive(Debug, Default)]
pub struct Index {
    // Boxed: the empty places of a map, up to half of it, are then pointers.
    entries: HashMap<Key, Box<Entry>>,
    lists: Lists,
}

/// What pods refer to, each list once: pods of one owner all refer to the same.
#[derive(Debug, Default)]
struct Lists {
    all: HashSet<Arc<[Reference]>>,
    /// Number of lists at which those are looked for that no pod has any more.
    full: usize,
}

/// Which references a pod gained or lost.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct References {
    /// What it referred to before.
    pub before: Option<Arc<[Reference]>>,
    /// What it refers to now.
    pub after: Option<Arc<[Reference]>>,
}

// === impl Entry ===

impl Entry {
    /// What the upper pod refers to, if it is to be run.
    fn references(&self) -> Option<Arc<[Reference]>> {
        let upper = self
            .upper
            .as_ref()
            .filter(|upper| upper.not_offloaded.is_none())?;
        Some(upper.references.clone())
    }

    /// Whether the lower pod was made for the upper pod that is there now.
    #[must_use]
    pub fn belongs(&self) -> bool {
        matches!((&self.upper, &self.lower), (Some(upper), Some(lower)) if upper.uid == lower.origin_uid)
    }
}

// === impl Lists ===

impl Lists {
    /// The list that equals `list`.
    fn one(&mut self, list: Arc<[Reference]>) -> Arc<[Reference]> {
        if let Some(known) = self.all.get(&list) {
            return known.clone();
        }
        if self.all.len() >= self.full {
            self.all.retain(|list| Arc::strong_count(list) > 1);
            self.full = self.all.len() * 2 + 1;
        }
        self.all.insert(list.clone());
        list
    }
}

// === impl Index ===

impl Index {
    /// The entry under `key`.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Entry> {
        self.entries.get(key).map(|entry| &**entry)
    }

    /// All keys.
    pub fn keys(&self) -> impl Iterator<Item = &Key> {
        self.entries.keys()
    }

    /// Keys in a namespace.
    pub fn keys_in<'a>(&'a self, namespace: &'a str) -> impl Iterator<Item = &'a Key> {
        self.entries
            .keys()
            .filter(move |key| *key.namespace == *namespace)
    }

    /// Keys and entries.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Entry)> {
        self.entries.iter().map(|(key, entry)| (key, &**entry))
    }

    /// Number of entries.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes an upper pod as its watch shows it. `None` when it is older than what we know.
    pub fn apply_upper(&mut self, key: &Key, pod: UpperPod) -> Option<References> {
        let entry = self.entries.entry(key.clone()).or_default();
        let mut new = UpperSide::new(pod, entry.upper.as_ref());
        new.references = self.lists.one(new.references);
        let before = entry.references();
        if let Some(old) = entry.upper.as_mut().filter(|old| old.uid == new.uid) {
            if new.version < old.version {
                return None;
            }
            (new.sent, new.sent_at) = (old.sent.take(), old.sent_at);
            new.shown = match &new.sent {
                Some(sent) => sent.one(new.shown),
                None => new.shown,
            };
            new.deleted = old.deleted;
        }
        entry.upper = Some(new);
        let after = entry.references();
        Some(References { before, after })
    }

    /// The upper pod with `uid` is gone.
    pub fn delete_upper(&mut self, key: &Key, uid: Option<&str>) -> References {
        let Some(entry) = self.entries.get_mut(key) else {
            return References::default();
        };
        let known = entry
            .upper
            .as_ref()
            .is_some_and(|upper| uid.is_none_or(|uid| *upper.uid == *uid));
        if !known {
            return References::default();
        }
        let before = entry.references();
        entry.last_grace = entry
            .upper
            .take()
            .and_then(|upper| upper.deletion)
            .map(|deletion| deletion.grace);
        self.forget_if_empty(key);
        References { before, after: None }
    }

    /// Takes a lower pod as its watch shows it.
    pub fn apply_lower(&mut self, key: &Key, lower: LowerSide) {
        let entry = self.entries.entry(key.clone()).or_default();
        entry.placed = Some(lower.origin_uid.clone());
        entry.lower = Some(lower);
    }

    /// Takes a lower pod as the server returned it for the upper pod with `upper_uid`, unless the watch has shown
    /// one already, which this returns: then it knows better, also that it is gone again.
    pub fn adopt(&mut self, key: &Key, upper_uid: &str, lower: LowerSide) -> bool {
        let seen = self.get(key).and_then(|entry| entry.placed.as_deref()) == Some(upper_uid);
        if !seen {
            self.apply_lower(key, lower);
        }
        seen
    }

    /// The lower pod with `uid` is gone.
    pub fn delete_lower(&mut self, key: &Key, uid: Option<&str>) {
        let Some(entry) = self.entries.get_mut(key) else {
            return;
        };
        if entry
            .lower
            .as_ref()
            .is_some_and(|lower| uid.is_none_or(|uid| *lower.uid == *uid))
        {
            entry.lower = None;
        }
        self.forget_if_empty(key);
    }

    /// Upper keys that are not in `live`.
    #[must_use]
    pub fn upper_not_in(&self, live: &HashSet<Key>) -> Vec<Key> {
        self.keys_not_in(|key| live.contains(key), |entry| entry.upper.is_some())
    }

    /// Keys with a lower pod that is not live any more.
    #[must_use]
    pub fn lower_not_in(&self, is_live: impl Fn(&Key) -> bool) -> Vec<Key> {
        self.keys_not_in(is_live, |entry| entry.lower.is_some())
    }

    fn keys_not_in(&self, is_live: impl Fn(&Key) -> bool, there: impl Fn(&Entry) -> bool) -> Vec<Key> {
        let gone = self
            .entries
            .iter()
            .filter(|(key, entry)| there(entry) && !is_live(key));
        gone.map(|(key, _)| key.clone()).collect()
    }

    /// The lower pod now carries out the body with this hash, so the body need not be kept.
    pub fn carried_out(&mut self, key: &Key, uid: &str, body_hash: u64) {
        if let Some(upper) = self.upper_mut(key, uid)
            && upper.body_hash == body_hash
        {
            upper.body = None;
        }
    }

    /// Remembers a status that was sent and for which the server returned a pod of this version. Returns whether the
    /// watch has shown that already.
    pub fn status_sent(&mut self, key: &Key, uid: &str, sent: Sent, version: u64) -> bool {
        let Some(upper) = self.upper_mut(key, uid) else {
            return true;
        };
        let is_known = upper.version >= version;
        if version >= upper.version {
            upper.version = version;
            upper.shown = sent.returned().clone();
        }
        upper.sent = Some(sent);
        upper.sent_at = Some(Timestamp::now());
        is_known
    }

    /// The watch has just shown a change of the lower pod.
    pub fn lower_changed(&mut self, key: &Key, now: Instant) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.changed_at.get_or_insert(now);
        }
    }

    /// What the lower pod shows is carried up, or needs no write. Returns when the first change of it was seen.
    pub fn carried_up(&mut self, key: &Key) -> Option<Instant> {
        self.entries.get_mut(key)?.changed_at.take()
    }

    /// Remembers how the last attempt ended.
    pub fn attempted(&mut self, key: &Key, failure: Option<String>) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.trouble = failure.map(|error| {
                Box::new(Trouble {
                    error,
                    at: Timestamp::now(),
                })
            });
        }
    }

    /// The lower pod was asked to end, so that it is not asked again before the watch shows it.
    pub fn lower_deleting(&mut self, key: &Key, uid: &str, grace: i64) {
        let lower = self.entries.get_mut(key).and_then(|entry| entry.lower.as_mut());
        if let Some(lower) = lower.filter(|lower| *lower.uid == *uid) {
            lower.deletion.get_or_insert(Deletion { grace });
        }
    }

    /// The upper pod was deleted with this grace period; with one of 0, what is left of it are finalizers of others.
    pub fn upper_deleting(&mut self, key: &Key, uid: &str, grace: i64) {
        if let Some(upper) = self.upper_mut(key, uid) {
            upper.deletion = Some(Deletion { grace });
            upper.deleted |= grace == 0;
        }
    }

    /// Pods whose lower cluster's silence is not shown yet.
    #[must_use]
    pub fn not_silent(&self) -> Vec<Key> {
        let paired = self
            .entries
            .iter()
            .filter(|(_, entry)| entry.silent_since.is_none() && entry.belongs());
        paired.map(|(key, _)| key.clone()).collect()
    }

    /// The lower cluster is silent: what it said last of this pod is in doubt.
    pub fn set_silent(&mut self, key: &Key, since: &Arc<str>) {
        if let Some(entry) = self.entries.get_mut(key) {
            entry.silent_since = Some(since.clone());
        }
    }

    /// The lower cluster speaks again. Returns the pods that were in doubt.
    pub fn end_silence(&mut self) -> Vec<Key> {
        let doubted = self
            .entries
            .iter_mut()
            .filter_map(|(key, entry)| entry.silent_since.take().map(|_| key.clone()));
        doubted.collect()
    }

    fn upper_mut(&mut self, key: &Key, uid: &str) -> Option<&mut UpperSide> {
        self.entries
            .get_mut(key)?
            .upper
            .as_mut()
            .filter(|upper| *upper.uid == *uid)
    }

    fn forget_if_empty(&mut self, key: &Key) {
        if self
            .entries
            .get(key)
            .is_some_and(|entry| entry.upper.is_none() && entry.lower.is_none())
        {
            self.entries.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use tensile_core::refs::RefKind;

    use super::*;

    fn mk_list(name: &str) -> Arc<[Reference]> {
        let (kind, name) = (RefKind::ConfigMap, name.to_owned());
        let optional = false;
        Arc::new([Reference { kind, name, optional }])
    }

    #[test]
    fn equal_lists_are_held_once_and_as_long_as_somebody_has_them() {
        let mut lists = Lists::default();
        let first = lists.one(mk_list("a"));
        assert!(Arc::ptr_eq(&first, &lists.one(mk_list("a"))));
        for number in 0..100 {
            lists.one(mk_list(&number.to_string()));
        }
        assert!(lists.all.len() < 10, "{} lists of nobody", lists.all.len());
        assert!(Arc::ptr_eq(&first, &lists.one(mk_list("a"))));
    }
}
