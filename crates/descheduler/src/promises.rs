//! Room that is kept free for pods that wait, told to the extender: else the pods that were moved, or any others, take what
//! was made for somebody else.

use tensile_core::promises::{Promise, Promises};

use crate::plan::Claim;

/// How long a promise holds, in seconds: for the grace periods of those that go, and the scheduler's next attempt. It
/// also is how long room stays unused if the pod is deleted and nobody takes the promise back.
const LIFE: u64 = 120;

/// What is promised after a round: room is claimed by pods that pods are evicted for, and kept until its end by those that
/// still wait. A pod that no longer waits is placed or gone. A promise is renewed only in the last half of its life, so
/// that rounds that change nothing write nothing.
#[must_use]
pub fn renewed(before: &Promises, claims: &[Claim], now: u64) -> Promises {
    let after = claims.iter().filter_map(|claim| {
        let known = before.get(&claim.pod).filter(|promise| promise.end > now);
        // Whoever was never promised room only waits for pods that others have sent away: that is no reason to keep
        // anybody out.
        let room = claim.room.as_ref().filter(|_| claim.evicts || known.is_some());
        let promise = match (room, known) {
            (Some(room), Some(known)) if *room == known.room && known.end > now + LIFE / 2 => known.clone(),
            (Some(room), _) => Promise {
                room: room.clone(),
                end: now + LIFE,
            },
            (None, known) => known?.clone(),
        };
        Some((&*claim.pod, promise))
    });
    after.collect()
}

#[cfg(test)]
mod tests {
    use tensile_core::promises::Room;

    use super::*;

    const NOW: u64 = 10_000;

    fn mk_room(lower: &str) -> Room {
        Room {
            node: "va".to_owned(),
            lower_node: lower.to_owned(),
            requests: serde_json::from_str(r#"{"cpu": "3"}"#).unwrap(),
            priority: 0,
        }
    }

    fn mk_claim(pod: &str, lower: Option<&str>, evicts: bool) -> Claim {
        Claim {
            pod: pod.into(),
            room: lower.map(mk_room),
            evicts,
        }
    }

    /// Promises as `pod lower end`, the end as seconds from now on.
    fn mk_promises(promises: &[(&str, &str, u64)]) -> Promises {
        let promise = |(pod, lower, left): &(&'static str, &str, u64)| {
            let (room, end) = (mk_room(lower), NOW + left);
            (*pod, Promise { room, end })
        };
        let owned: Vec<(&'static str, &str, u64)> = promises
            .iter()
            .map(|(pod, lower, left)| (if *pod == "p" { "p" } else { "q" }, *lower, *left))
            .collect();
        owned.iter().map(promise).collect()
    }

    #[test]
    fn promises_follow_the_claims() {
        for (what, before, claims, after) in [
            (
                "made",
                vec![],
                vec![mk_claim("p", Some("a1"), true)],
                vec![("p", "a1", LIFE)],
            ),
            (
                "only waits",
                vec![],
                vec![mk_claim("p", Some("a1"), false)],
                vec![],
            ),
            ("no room", vec![], vec![mk_claim("p", None, false)], vec![]),
            (
                "fresh",
                vec![("p", "a1", LIFE / 2 + 1)],
                vec![mk_claim("p", Some("a1"), true)],
                vec![("p", "a1", LIFE / 2 + 1)],
            ),
            (
                "renewed, though it only waits",
                vec![("p", "a1", LIFE / 2)],
                vec![mk_claim("p", Some("a1"), false)],
                vec![("p", "a1", LIFE)],
            ),
            (
                "elsewhere",
                vec![("p", "a1", LIFE)],
                vec![mk_claim("p", Some("a2"), true)],
                vec![("p", "a2", LIFE)],
            ),
            (
                "there is room by now, or none at all",
                vec![("p", "a1", 1)],
                vec![mk_claim("p", None, false)],
                vec![("p", "a1", 1)],
            ),
            (
                "ended",
                vec![("p", "a1", 0)],
                vec![mk_claim("p", None, false)],
                vec![],
            ),
            (
                "placed or gone, others not",
                vec![("p", "a1", 50), ("q", "a2", 50)],
                vec![mk_claim("q", None, false)],
                vec![("q", "a2", 50)],
            ),
        ] {
            let (before, after) = (mk_promises(&before), mk_promises(&after));
            assert_eq!(renewed(&before, &claims, NOW), after, "{what}");
        }
    }
}
