//! Where the pods of owners are that share them out among clusters (`tensile.dev/split`).

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use serde_json::Value;
use tensile_core::names;
use tensile_core::owners::controller;
use tensile_core::split::Split;
use tensile_placement::Uid;

use crate::world::uid;

/// How long a pod counts where filter let it go without being seen there: the scheduler binds within its timeouts of
/// some seconds, or asks again.
const ASSUMED: Duration = Duration::from_secs(30);

/// The pods that have a split.
#[derive(Debug, Default)]
pub(crate) struct Splits {
    /// By UID of their owner, then by their own.
    owners: HashMap<Uid, HashMap<Uid, Member>>,
    /// The owner of each of them.
    owner_of: HashMap<Uid, Uid>,
    /// Pods that were let go, the oldest first: those that are gone before they are bound are heard of by nobody.
    assumed: VecDeque<(Instant, Uid)>,
}

#[derive(Debug)]
struct Member {
    /// The virtual node.
    node: String,
    /// When filter let it go there; `None` once it is bound.
    since: Option<Instant>,
}

// === impl Splits ===

impl Splits {
    /// Takes in a pod that is bound to a virtual node, or was let go there at `since`.
    pub(crate) fn put(&mut self, pod: &Value, node: &str, since: Option<Instant>) {
        let (Some(owner), true) = (owner(pod), annotation(pod).is_some()) else {
            return;
        };
        let pod = uid(pod);
        self.remove(pod);
        if let Some(since) = since {
            self.forget_unbound(since);
            self.assumed.push_back((since, pod));
        }
        let node = node.to_owned();
        self.owner_of.insert(pod, owner);
        self.owners
            .entry(owner)
            .or_default()
            .insert(pod, Member { node, since });
    }

    /// Forgets a pod.
    pub(crate) fn remove(&mut self, pod: Uid) {
        let Some(owner) = self.owner_of.remove(&pod) else {
            return;
        };
        if let Entry::Occupied(mut members) = self.owners.entry(owner) {
            members.get_mut().remove(&pod);
            if members.get().is_empty() {
                members.remove();
            }
        }
    }

    /// Forgets pods that were let go too long ago to count.
    fn forget_unbound(&mut self, now: Instant) {
        let is_old = |(since, _): &(Instant, Uid)| now.duration_since(*since) >= ASSUMED;
        while let Some((since, pod)) = self.assumed.front().copied().filter(is_old) {
            self.assumed.pop_front();
            let members = self.owner_of.get(&pod).and_then(|owner| self.owners.get(owner));
            let member = members.and_then(|members| members.get(&pod));
            if member.is_some_and(|member| member.since == Some(since)) {
                self.remove(pod);
            }
        }
    }

    /// How many other pods of the owner of `pod` are where, by what `value_of` says of their nodes.
    pub(crate) fn counts(
        &self,
        pod: &Value,
        now: Instant,
        value_of: impl Fn(&str) -> Option<Box<str>>,
    ) -> BTreeMap<Box<str>, u32> {
        let own = uid(pod);
        let holds = |(uid, member): &(&Uid, &Member)| {
            let counts = |since| now.duration_since(since) < ASSUMED;
            **uid != own && member.since.is_none_or(counts)
        };
        let members = owner(pod).and_then(|owner| self.owners.get(&owner));
        let members = members.into_iter().flatten().filter(holds);
        let mut counted = BTreeMap::new();
        for value in members.filter_map(|(_, member)| value_of(&member.node)) {
            *counted.entry(value).or_default() += 1;
        }
        counted
    }
}

/// The split that the pod asks for, if it has an owner whose pods can be shared out.
///
/// # Errors
/// What is wrong with the annotation.
pub(crate) fn split_of(pod: &Value) -> Option<Result<Split, String>> {
    owner(pod)?;
    let split = Split::parse(annotation(pod)?);
    Some(split.map_err(|error| format!("annotation {}: {error}", names::SPLIT)))
}

fn annotation(pod: &Value) -> Option<&str> {
    pod["metadata"]["annotations"][names::SPLIT].as_str()
}

/// UID of the owner that controls the pod.
pub(crate) fn owner(pod: &Value) -> Option<Uid> {
    let owner = controller(&pod["metadata"])?;
    owner["uid"].as_str().map(Uid::from)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_pod(uid: &str, owner: &str) -> Value {
        json!({"metadata": {
            "uid": uid,
            "annotations": {"tensile.dev/split": r#"{"key":"k","strategy":"Fill","shares":{"a":{"replicas":1}}}"#},
            "ownerReferences": [{"uid": "other"}, {"uid": owner, "controller": true}],
        }})
    }

    #[test]
    fn other_pods_of_the_same_owner_count_where_they_are_or_were_just_let_go() {
        let now = Instant::now();
        let mut splits = Splits::default();
        splits.put(&mk_pod("1", "o"), "va", None);
        splits.put(&mk_pod("2", "o"), "va", Some(now));
        splits.put(&mk_pod("3", "o"), "vb", None);
        splits.put(&mk_pod("4", "other"), "va", None);
        splits.put(&json!({"metadata": {"uid": "5"}}), "va", None);
        let counts = |splits: &Splits, pod: &str, now| {
            let counts = splits.counts(&mk_pod(pod, "o"), now, |node| Some(node.into()));
            counts
                .iter()
                .map(|(node, count)| format!("{node}={count} "))
                .collect::<String>()
        };
        assert_eq!(counts(&splits, "9", now), "va=2 vb=1 ");
        assert_eq!(counts(&splits, "3", now), "va=2 ", "without itself");
        assert_eq!(
            counts(&splits, "9", now + ASSUMED),
            "va=1 vb=1 ",
            "it was never bound"
        );
        splits.put(&mk_pod("2", "o"), "vb", None);
        splits.remove("3".into());
        assert_eq!(counts(&splits, "9", now + ASSUMED), "va=1 vb=1 ");
    }

    #[test]
    fn pods_that_are_never_bound_are_forgotten() {
        let now = Instant::now();
        let mut splits = Splits::default();
        splits.put(&mk_pod("1", "o"), "va", Some(now));
        splits.put(&mk_pod("2", "o"), "va", Some(now));
        splits.put(&mk_pod("2", "o"), "va", None);
        splits.put(&mk_pod("3", "p"), "va", Some(now));
        splits.put(&mk_pod("4", "p"), "va", Some(now + ASSUMED));
        assert_eq!(splits.owner_of.len(), 2, "the bound one and the last one");
        splits.remove("2".into());
        assert_eq!((splits.owners.len(), splits.assumed.len()), (1, 1));
    }

    #[test]
    fn pods_without_owner_are_not_shared_out_and_errors_name_the_annotation() {
        let mut pod = mk_pod("1", "o");
        assert!(split_of(&pod).unwrap().is_ok());
        pod["metadata"]["annotations"]["tensile.dev/split"] = json!("{}");
        let error = split_of(&pod).unwrap().unwrap_err();
        assert!(
            error.starts_with("annotation tensile.dev/split: missing field `key`"),
            "{error}"
        );
        pod["metadata"]["ownerReferences"] = json!([]);
        assert!(split_of(&pod).is_none());
    }
}
