//! What is there on both sides, and how far that is from what should be. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

/// A pod, as far as this looks at it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) name: String,
    pub(crate) uid: String,
    /// Of a lower pod: the UID of the upper one that it was made for.
    pub(crate) origin: String,
    pub(crate) ready: bool,
    pub(crate) restarts: u64,
    pub(crate) owned: bool,
}

/// Both sides at one time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Picture {
    pub(crate) above: Vec<Seen>,
    pub(crate) below: Vec<Seen>,
}

/// What should be there.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    /// Names of pods without owner.
    pub(crate) names: BTreeSet<String>,
    /// Number of pods with an owner.
    pub(crate) owned: usize,
}

/// How far a picture is from what should be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Gaps {
    /// Pods that should be there and are not, above or below.
    pub(crate) lost: usize,
    /// Upper pods with more than one lower pod.
    pub(crate) doubled: usize,
    /// Pods that should not be there, above or below.
    pub(crate) left_over: usize,
    /// Pods that do not show that they run.
    pub(crate) not_ready: usize,
}

// === impl Seen ===

impl Seen {
    pub(crate) fn of(pod: &Value) -> Self {
        let text = |pointer: &str| {
            pod.pointer(pointer)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        let list = |pointer: &str| {
            pod.pointer(pointer)
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default()
        };
        let is_ready = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
        let restarts = list("/status/containerStatuses");
        Self {
            name: text("/metadata/name"),
            uid: text("/metadata/uid"),
            origin: text("/metadata/labels/tensile.dev~1origin-uid"),
            ready: pod["status"]["phase"] == "Running" && list("/status/conditions").iter().any(is_ready),
            restarts: restarts
                .iter()
                .filter_map(|container| container["restartCount"].as_u64())
                .sum(),
            owned: !list("/metadata/ownerReferences").is_empty(),
        }
    }
}

// === impl Picture ===

impl Picture {
    /// How far this is from what should be.
    pub(crate) fn gaps(&self, wanted: &Wanted) -> Gaps {
        let mut copies: HashMap<&str, usize> = HashMap::new();
        for pod in &self.below {
            *copies.entry(&pod.origin).or_default() += 1;
        }
        let mut gaps = Gaps::default();
        let (mut names, mut owned) = (BTreeSet::new(), 0);
        for pod in &self.above {
            if pod.owned {
                owned += 1;
            } else if wanted.names.contains(&pod.name) {
                names.insert(&pod.name);
            } else {
                gaps.left_over += 1;
            }
            match copies.remove(&*pod.uid) {
                None => gaps.lost += 1,
                Some(1) => {}
                Some(_) => gaps.doubled += 1,
            }
            gaps.not_ready += usize::from(!pod.ready);
        }
        gaps.lost += wanted.names.len() - names.len() + wanted.owned.saturating_sub(owned);
        gaps.left_over += owned.saturating_sub(wanted.owned) + copies.values().sum::<usize>();
        gaps
    }

    /// The lower pod of each upper pod.
    pub(crate) fn pairs(&self) -> BTreeMap<String, String> {
        let pair = |pod: &Seen| (pod.origin.clone(), pod.uid.clone());
        self.below.iter().map(pair).collect()
    }

    /// Containers that were started again: restarts that the pods count, and pods that were there before and are
    /// another one now.
    pub(crate) fn restarts(&self, before: &BTreeMap<String, String>) -> u64 {
        let now = self.pairs();
        let other = before
            .iter()
            .filter(|(origin, uid)| now.get(*origin).is_some_and(|now| now != *uid));
        let counted: u64 = self.above.iter().chain(&self.below).map(|pod| pod.restarts).sum();
        counted + other.map(|_| 1).sum::<u64>()
    }
}

/// How often pods were made more often than there were upper pods of that name.
pub(crate) fn made_twice(made: &BTreeMap<String, usize>, asked: &BTreeMap<String, usize>) -> usize {
    let excess = made
        .iter()
        .map(|(name, times)| times.saturating_sub(asked.get(name).copied().unwrap_or(1)));
    excess.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_above(name: &str, uid: &str) -> Seen {
        Seen {
            name: name.to_owned(),
            uid: uid.to_owned(),
            ready: true,
            ..Seen::default()
        }
    }

    fn mk_below(origin: &str, uid: &str) -> Seen {
        Seen {
            origin: origin.to_owned(),
            ..mk_above("x", uid)
        }
    }

    fn mk_wanted(names: &[&str], owned: usize) -> Wanted {
        Wanted {
            names: names.iter().map(|&name| name.to_owned()).collect(),
            owned,
        }
    }

    #[test]
    fn every_difference_is_one_gap() {
        let owned = Seen {
            owned: true,
            ..mk_above("rs-1", "3")
        };
        let whole = Picture {
            above: vec![mk_above("a", "1"), mk_above("b", "2"), owned],
            below: vec![mk_below("1", "l1"), mk_below("2", "l2"), mk_below("3", "l3")],
        };
        let wanted = mk_wanted(&["a", "b"], 1);
        assert_eq!(whole.gaps(&wanted), Gaps::default());
        let changed = |change: &dyn Fn(&mut Picture)| {
            let mut picture = whole.clone();
            change(&mut picture);
            let gaps = picture.gaps(&wanted);
            [gaps.lost, gaps.doubled, gaps.left_over, gaps.not_ready]
        };
        assert_eq!(changed(&|picture| drop(picture.below.pop())), [1, 0, 0, 0]);
        assert_eq!(
            changed(&|picture| picture.below.push(mk_below("1", "l4"))),
            [0, 1, 0, 0]
        );
        assert_eq!(
            changed(&|picture| picture.below.push(mk_below("4", "l4"))),
            [0, 0, 1, 0]
        );
        assert_eq!(changed(&|picture| picture.above[0].ready = false), [0, 0, 0, 1]);
        assert_eq!(changed(&|picture| drop(picture.above.remove(0))), [1, 0, 1, 0]);
        assert_eq!(
            changed(&|picture| picture.above[0].name = "c".to_owned()),
            [1, 0, 1, 0]
        );
        assert_eq!(changed(&|picture| drop(picture.above.pop())), [1, 0, 1, 0]);
    }

    #[test]
    fn a_lower_pod_that_is_another_one_now_was_started_again() {
        let before = Picture {
            above: vec![mk_above("a", "1")],
            below: vec![mk_below("1", "l1")],
        };
        let mut after = before.clone();
        assert_eq!(after.restarts(&before.pairs()), 0);
        after.below[0].uid = "l2".to_owned();
        assert_eq!(after.restarts(&before.pairs()), 1);
        after.above[0].restarts = 2;
        assert_eq!(after.restarts(&before.pairs()), 3);
    }

    #[test]
    fn a_name_may_be_made_as_often_as_it_was_asked_for() {
        let count = |pairs: &[(&str, usize)]| -> BTreeMap<String, usize> {
            pairs
                .iter()
                .map(|&(name, times)| (name.to_owned(), times))
                .collect()
        };
        let made = count(&[("a", 2), ("b", 1), ("rs-x", 2)]);
        assert_eq!(made_twice(&made, &count(&[("a", 2), ("b", 1)])), 1);
    }
}
