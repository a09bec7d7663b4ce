//! The shares of `tensile.dev/split`: where an owner has more pods than it should, and where fewer.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;
use tensile_core::names;
use tensile_core::split::Split;
use tensile_placement::Shares;

use super::{Args, Like, is_settled, move_one, sort_by_cost};
use crate::plan::Plan;
use crate::pod::Pod;
use crate::scene::{Obstacle, Scene};

/// Pods by value of the split's label.
type Counts = BTreeMap<Box<str>, u32>;

/// What differs from the shares.
#[derive(Debug, Default, PartialEq)]
struct Imbalance {
    /// How many pods are too many.
    surplus: Counts,
    /// How many are missing.
    missing: Counts,
}

/// The pods of an owner that are shared out, and how.
struct Shared<'a> {
    split: Split,
    pods: Vec<&'a Pod>,
}

/// Plans for every owner whose pods are shared out.
pub(super) fn plan(args: &Args, scene: &mut Scene<'_>, likes: &[Like<'_>], plan: &mut Plan) {
    for mut shared in shared(likes) {
        if is_settled(args, scene.now, shared.pods.iter().copied()) {
            sort_by_cost(&mut shared.pods);
            shared.plan(scene, plan);
        }
    }
}

/// The owners whose pods are shared out, in the order of their pods' names. Pods whose annotation cannot be read are left
/// where they are: the scheduler extender tells their user.
fn shared<'a>(likes: &[Like<'a>]) -> Vec<Shared<'a>> {
    let mut known: HashMap<&str, usize> = HashMap::new();
    let mut owners: Vec<Shared<'a>> = Vec::new();
    for like in likes {
        let Some(split) = split_of(like.first()) else {
            continue;
        };
        let mut pods = like.pods.clone();
        pods.sort_by(|one, other| one.key.cmp(&other.key));
        for pod in pods {
            let Some(owner) = pod.owner.as_deref() else {
                continue;
            };
            let index = *known.entry(owner).or_insert_with(|| {
                owners.push(Shared {
                    split: split.clone(),
                    pods: Vec::new(),
                });
                owners.len() - 1
            });
            let owner = &mut owners[index];
            // While the annotation of the owner's pods changes, the youngest pod has the new one.
            if owner.pods.iter().all(|known| known.created < pod.created) {
                owner.split = split.clone();
            }
            owner.pods.push(pod);
        }
    }
    owners
}

fn split_of(pod: &Pod) -> Option<Split> {
    if !pod.template.contains(names::SPLIT) {
        return None;
    }
    let template: Value = serde_json::from_str(&pod.template).ok()?;
    Split::parse(template["metadata"]["annotations"][names::SPLIT].as_str()?).ok()
}

// === impl Shared ===

impl Shared<'_> {
    /// Moves surplus to where pods are missing, as far as they fit there.
    fn plan(&self, scene: &mut Scene<'_>, plan: &mut Plan) {
        let values: Vec<Box<str>> = self.pods.iter().map(|pod| self.value(scene, &pod.node)).collect();
        let placed = counts(&values);
        let mut imbalance = Imbalance::of(&self.split, &placed);
        for (pod, value) in self.pods.iter().zip(&values) {
            if imbalance.missing.is_empty() {
                return;
            }
            if !imbalance.surplus.contains_key(value) || plan.moves(pod) {
                continue;
            }
            if !matches!(scene.is_source(&pod.node), Ok(true)) {
                continue;
            }
            let missing = imbalance.missing.clone();
            let key = &*self.split.key;
            let why = self.why(value, &placed, &imbalance);
            let place = move_one(scene, pod, why, plan, |scene| {
                scene.move_among(pod, |node| {
                    node.labels
                        .get(key)
                        .is_some_and(|value| missing.contains_key(&**value))
                })
            });
            match place {
                Ok(place) => imbalance.moved(value, &self.value(scene, &place.node)),
                // The others of the owner would hear the same.
                Err(Obstacle::Nowhere(_)) => return,
                Err(_) => {}
            }
        }
    }

    /// What the split tells the node by; nothing if it has no such label.
    fn value(&self, scene: &Scene<'_>, node: &str) -> Box<str> {
        let node = scene.world.virtual_node(node);
        let value = node.and_then(|node| node.labels.get(&*self.split.key));
        value.map(String::as_str).unwrap_or_default().into()
    }

    fn why(&self, value: &str, placed: &Counts, imbalance: &Imbalance) -> String {
        let there = placed.get(value).copied().unwrap_or_default();
        let surplus = imbalance.surplus.get(value).copied().unwrap_or_default();
        let missing = imbalance
            .missing
            .iter()
            .map(|(value, count)| format!("{count} in {value}"));
        let missing: Vec<String> = missing.collect();
        format!(
            "split by {}: {surplus} of {there} pods in {value} are too many, missing are {}",
            self.split.key,
            missing.join(", ")
        )
    }
}

// === impl Imbalance ===

impl Imbalance {
    /// What differs where so many pods are placed.
    fn of(split: &Split, placed: &Counts) -> Self {
        let wanted = wanted(split, placed.values().sum());
        let beyond = |one: &Counts, other: &Counts| -> Counts {
            let more = one.iter().map(|(value, count)| {
                let other = other.get(value).copied().unwrap_or_default();
                (value.clone(), count.saturating_sub(other))
            });
            more.filter(|(_, count)| *count > 0).collect()
        };
        Self {
            surplus: beyond(placed, &wanted),
            missing: beyond(&wanted, placed),
        }
    }

    /// Notes that a pod goes.
    fn moved(&mut self, from: &str, to: &str) {
        for (counts, value) in [(&mut self.surplus, from), (&mut self.missing, to)] {
            if let Some(count) = counts.get_mut(value) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(value);
                }
            }
        }
    }
}

/// Where so many pods would be, had each been placed while every cluster had room. Those beyond all shares may be
/// anywhere, and are in none.
fn wanted(split: &Split, pods: u32) -> Counts {
    let all: Vec<Box<str>> = split.shares.keys().cloned().collect();
    let most = |share: &tensile_core::split::Share| share.replicas.or(share.max);
    let in_all = split
        .shares
        .values()
        .map(most)
        .try_fold(0_u32, |sum, most| Some(sum.saturating_add(most?)));
    let mut wanted = Counts::new();
    for _ in 0..in_all.map_or(pods, |in_all| in_all.min(pods)) {
        if let Some(next) = Shares::next(split, &wanted, &all).next.into_iter().next() {
            *wanted.entry(next).or_default() += 1;
        }
    }
    wanted
}

fn counts(values: &[Box<str>]) -> Counts {
    let mut counts = Counts::new();
    for value in values {
        *counts.entry(value.clone()).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_counts(counts: &[(&str, u32)]) -> Counts {
        counts
            .iter()
            .map(|(value, count)| ((*value).into(), *count))
            .collect()
    }

    #[test]
    fn surplus_and_what_is_missing_follow_from_the_shares() {
        const REPLICAS: &str = r#"{"a":{"replicas":4},"b":{"replicas":2}}"#;
        const WEIGHTS: &str = r#"{"a":{"weight":2,"max":3},"b":{"weight":1,"min":1}}"#;
        for (what, strategy, shares, placed, surplus, missing) in [
            (
                "as it should be",
                "Balance",
                REPLICAS,
                vec![("a", 4), ("b", 2)],
                vec![],
                vec![],
            ),
            (
                "all in one",
                "Balance",
                REPLICAS,
                vec![("a", 6)],
                vec![("a", 2)],
                vec![("b", 2)],
            ),
            (
                "one filled first",
                "Fill",
                REPLICAS,
                vec![("a", 3), ("b", 2)],
                vec![("b", 1)],
                vec![("a", 1)],
            ),
            (
                "where no share is",
                "Fill",
                REPLICAS,
                vec![("a", 4), ("x", 1), ("", 1)],
                vec![("", 1), ("x", 1)],
                vec![("b", 2)],
            ),
            (
                "beyond all shares anywhere",
                "Balance",
                REPLICAS,
                vec![("a", 4), ("b", 2), ("x", 3)],
                vec![("x", 3)],
                vec![],
            ),
            (
                "a minimum first",
                "Weighted",
                WEIGHTS,
                vec![("a", 1)],
                vec![("a", 1)],
                vec![("b", 1)],
            ),
            (
                "never above a maximum",
                "Weighted",
                WEIGHTS,
                vec![("a", 4), ("b", 5)],
                vec![("a", 1)],
                vec![("b", 1)],
            ),
        ] {
            let text = format!(r#"{{"key":"clusterID","strategy":"{strategy}","shares":{shares}}}"#);
            let imbalance = Imbalance::of(&Split::parse(&text).unwrap(), &mk_counts(&placed));
            let wanted = Imbalance {
                surplus: mk_counts(&surplus),
                missing: mk_counts(&missing),
            };
            assert_eq!(imbalance, wanted, "{what}");
        }
    }

    #[test]
    fn a_move_takes_from_the_one_and_gives_to_the_other() {
        let mut imbalance = Imbalance {
            surplus: mk_counts(&[("a", 2)]),
            missing: mk_counts(&[("b", 1), ("c", 1)]),
        };
        imbalance.moved("a", "b");
        imbalance.moved("a", "elsewhere");
        assert_eq!(imbalance.surplus, mk_counts(&[]));
        assert_eq!(imbalance.missing, mk_counts(&[("c", 1)]));
    }
}
