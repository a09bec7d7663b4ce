//! How long a share waits for nodes that the scheduler does not name, though the pod would fit there.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use tensile_placement::Uid;

/// How long. A virtual node shows new room after a second at most, and the scheduler, which asks again after a backoff
/// of a second, sees it within the next. What lasts longer is meant: the node's figures are fixed, or the scheduler's
/// own rules keep the pod off.
const PATIENCE: Duration = Duration::from_secs(5);
/// Nodes that were not missed for so long are waited for anew: three times the scheduler's longest default backoff.
const FORGOTTEN: Duration = Duration::from_secs(30);

/// The shares, by owner of the pods and value of the label, whose nodes are missed.
#[derive(Debug, Default)]
pub(crate) struct Patience(HashMap<(Uid, Box<str>), Silence>);

#[derive(Debug)]
struct Silence {
    /// When they were missed first.
    since: Instant,
    /// When they were missed last.
    last: Instant,
}

// === impl Patience ===

impl Patience {
    /// The scheduler names nodes of these values.
    pub(crate) fn heard(&mut self, owner: Uid, values: &BTreeSet<Box<str>>) {
        for value in values {
            self.0.remove(&(owner, value.clone()));
        }
    }

    /// The scheduler names no nodes of these values, though they have room.
    pub(crate) fn missed(&mut self, owner: Uid, values: &BTreeSet<Box<str>>, now: Instant) {
        self.0
            .retain(|_, silence| now.duration_since(silence.last) < FORGOTTEN);
        for value in values {
            let new = Silence {
                since: now,
                last: now,
            };
            self.0.entry((owner, value.clone())).or_insert(new).last = now;
        }
    }

    /// Whether they have been missed for too long.
    pub(crate) fn is_over(&self, owner: Uid, value: &str, now: Instant) -> bool {
        let silence = self.0.get(&(owner, value.into()));
        silence.is_some_and(|silence| now.duration_since(silence.since) >= PATIENCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_missed_for_long_is_waited_for_anew() {
        let (mut patience, start) = (Patience::default(), Instant::now());
        let owner = Uid::from("o");
        let value = BTreeSet::from(["a".into()]);
        for (seconds, over) in [(0, false), (6, true), (30, true), (61, false)] {
            let now = start + Duration::from_secs(seconds);
            patience.missed(owner, &value, now);
            assert_eq!(patience.is_over(owner, "a", now), over, "{seconds} s");
        }
        assert!(!patience.is_over("other".into(), "a", start + PATIENCE));
    }
}
