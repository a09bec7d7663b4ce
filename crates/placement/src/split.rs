//! Which share the next pod of an owner belongs to.

use std::collections::BTreeMap;

use tensile_core::split::{Share, Split, Strategy};

/// The values of the split's label that will take the next pod, and why the others will not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shares {
    /// The values; several where the shares leave it to the scheduler.
    pub next: Vec<Box<str>>,
    /// What decided, for people.
    pub why: String,
}

// === impl Shares ===

impl Shares {
    /// Decides for a pod whose owner has `placed` so many pods by value, while only `open` values have room:
    /// 1. the unmet share that the strategy names first, among those with room, by name among equals;
    /// 2. if none of the unmet has room and the split is not strict, what they cannot take goes to the other listed
    ///    values with room, and if there are none to unlisted ones;
    /// 3. if all shares are met and the split is not strict, any value with room will do.
    #[must_use]
    pub fn next(split: &Split, placed: &BTreeMap<Box<str>, u32>, open: &[Box<str>]) -> Self {
        let count = |value: &str| placed.get(value).copied().unwrap_or_default();
        let unmet: Vec<(&Box<str>, &Share)> = split
            .shares
            .iter()
            .filter(|(value, share)| limit(share).is_none_or(|limit| count(value) < limit))
            .collect();
        let told = |next: Vec<Box<str>>, why: &str| Self {
            why: tell(split, placed, open, &next, why),
            next,
        };
        let with_room = unmet.iter().filter(|(value, _)| open.contains(value));
        let ranked: Vec<(Rank, &str)> = with_room
            .map(|(value, share)| (Rank::of(split.strategy, share, count(value)), &***value))
            .collect();
        if let Some(first) = first_of(split.strategy, &ranked) {
            return told(first, "the next share");
        }
        let (listed, unlisted): (Vec<_>, Vec<_>) = open
            .iter()
            .cloned()
            .partition(|value| split.shares.contains_key(value));
        match (split.strict, unmet.is_empty()) {
            (true, _) => told(Vec::new(), "strict, and no unmet share has room"),
            (false, true) => told(open.to_vec(), "all shares are met"),
            (false, false) if listed.is_empty() => told(unlisted, "no share has room"),
            (false, false) => told(listed, "no unmet share has room"),
        }
    }
}

/// What people read: `split: goes to b, the next share: a 1/4 unavailable, b 0/2`.
fn tell(
    split: &Split,
    placed: &BTreeMap<Box<str>, u32>,
    open: &[Box<str>],
    next: &[Box<str>],
    why: &str,
) -> String {
    let shares = split.shares.iter().map(|(value, share)| {
        let there = placed.get(value).copied().unwrap_or_default();
        let limit = limit(share);
        let of = limit.map_or_else(|| "any".to_owned(), |limit| limit.to_string());
        let unavailable = limit.is_none_or(|limit| there < limit) && !open.contains(value);
        format!(
            "{value} {there}/{of}{}",
            if unavailable { " unavailable" } else { "" }
        )
    });
    let shares: Vec<String> = shares.collect();
    let goes = if next.is_empty() {
        "nowhere".to_owned()
    } else {
        next.join(" or ")
    };
    format!("split: goes to {goes}, {why}: {}", shares.join(", "))
}

/// How urgent a share is; the least comes first.
#[derive(Clone, Copy, Debug)]
struct Rank {
    /// Whether its minimum is met.
    minimum_met: bool,
    /// So many pods …
    there: u64,
    /// … of these; never zero.
    of: u64,
}

// === impl Rank ===

impl Rank {
    fn of(strategy: Strategy, share: &Share, there: u32) -> Self {
        let of = match strategy {
            Strategy::Weighted => share.weight,
            Strategy::Fill | Strategy::Balance => share.replicas,
        };
        Self {
            minimum_met: there >= share.min,
            there: there.into(),
            of: of.unwrap_or_default().max(1).into(),
        }
    }

    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let parts = (self.there * other.of).cmp(&(other.there * self.of));
        self.minimum_met.cmp(&other.minimum_met).then(parts)
    }
}

/// How many pods a share takes; `None` for any number.
fn limit(share: &Share) -> Option<u32> {
    share.replicas.or(share.max)
}

/// The value that is first; by name among equals.
fn first_of(strategy: Strategy, ranked: &[(Rank, &str)]) -> Option<Vec<Box<str>>> {
    let (_, first) = match strategy {
        Strategy::Fill => ranked.first(),
        Strategy::Balance | Strategy::Weighted => {
            ranked.iter().min_by(|(left, _), (right, _)| left.cmp(right))
        }
    }?;
    Some(vec![(*first).into()])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(split: &str, placed: &[(&str, u32)], open: &[&str]) -> String {
        let split = Split::parse(split).unwrap();
        let placed = placed
            .iter()
            .map(|(value, count)| ((*value).into(), *count))
            .collect();
        let open: Vec<Box<str>> = open.iter().map(|value| (*value).into()).collect();
        Shares::next(&split, &placed, &open).next.join(",")
    }

    const REPLICAS: &str = r#""shares":{"a":{"replicas":4},"b":{"replicas":2}}}"#;
    const WEIGHTS: &str = r#""shares":{"a":{"weight":2,"max":5},"b":{"weight":1,"min":1}}}"#;

    #[test]
    fn each_strategy_names_the_share_that_is_next() {
        for (strategy, rest, placed, open, expected) in [
            ("Fill", REPLICAS, vec![("a", 1)], vec!["a", "b"], "a"),
            ("Fill", REPLICAS, vec![("a", 4)], vec!["a", "b"], "b"),
            ("Fill", REPLICAS, vec![("a", 1)], vec!["b", "x"], "b"),
            ("Balance", REPLICAS, vec![], vec!["a", "b"], "a"),
            ("Balance", REPLICAS, vec![("a", 1)], vec!["a", "b"], "b"),
            ("Balance", REPLICAS, vec![("a", 2), ("b", 1)], vec!["a", "b"], "a"),
            ("Weighted", WEIGHTS, vec![("a", 0)], vec!["a", "b"], "b"),
            ("Weighted", WEIGHTS, vec![("a", 1), ("b", 1)], vec!["a", "b"], "a"),
            ("Weighted", WEIGHTS, vec![("a", 3), ("b", 1)], vec!["a", "b"], "b"),
            ("Weighted", WEIGHTS, vec![("a", 5), ("b", 9)], vec!["a", "b"], "b"),
        ] {
            let split = format!(r#"{{"key":"clusterID","strategy":"{strategy}",{rest}"#);
            assert_eq!(
                next(&split, &placed, &open),
                expected,
                "{strategy} {placed:?} {open:?}"
            );
        }
    }

    #[test]
    fn what_a_cluster_cannot_take_goes_to_others_unless_the_split_is_strict() {
        let full = vec![("a", 4), ("b", 2)];
        for (placed, open, lax, strict) in [
            (vec![("b", 2)], vec!["b", "x"], "b", ""),
            (vec![("b", 2)], vec!["x"], "x", ""),
            (vec![], vec!["x"], "x", ""),
            (vec![], vec![], "", ""),
            (full.clone(), vec!["a", "b", "x"], "a,b,x", ""),
        ] {
            for (strict, expected) in [(false, lax), (true, strict)] {
                let split = format!(r#"{{"key":"k","strategy":"Balance","strict":{strict},{REPLICAS}"#);
                assert_eq!(
                    next(&split, &placed, &open),
                    expected,
                    "{placed:?} {open:?} {strict}"
                );
            }
        }
    }

    #[test]
    fn weights_come_out_as_wanted_pod_by_pod() {
        let split = r#"{"key":"k","strategy":"Weighted","shares":{"a":{"weight":3},"b":{"weight":1},"c":{"weight":2,"max":1}}}"#;
        let split = Split::parse(split).unwrap();
        let open: Vec<Box<str>> = ["a", "b", "c"].map(Into::into).into();
        let mut placed: BTreeMap<Box<str>, u32> = BTreeMap::new();
        for _ in 0..9 {
            let shares = Shares::next(&split, &placed, &open);
            *placed.entry(shares.next[0].clone()).or_default() += 1;
        }
        assert_eq!(placed.into_values().collect::<Vec<u32>>(), [6, 2, 1]);
    }

    #[test]
    fn says_why() {
        let split = format!(r#"{{"key":"k","strategy":"Fill",{REPLICAS}"#);
        let split = Split::parse(&split).unwrap();
        let placed = BTreeMap::from([("a".into(), 1)]);
        let shares = Shares::next(&split, &placed, &["b".into()]);
        assert_eq!(
            shares.why,
            "split: goes to b, the next share: a 1/4 unavailable, b 0/2"
        );
    }
}
