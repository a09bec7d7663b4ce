//! `topologySpreadConstraints` over labels of virtual nodes.
//!
//! A pod breaks a constraint if it could not be placed where it is once more, by kube-scheduler's own rule. Then one such
//! pod goes to where it can be placed, and the rest is looked at as it will be afterwards.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;
use tensile_core::labels::Labels;
use tensile_placement::Candidate;

use super::{Args, Like, cost, is_settled, move_one, sort_by_cost};
use crate::plan::Plan;
use crate::pod::Pod;
use crate::scene::{Obstacle, Scene};

/// What a template has if its pods are to be spread.
const CONSTRAINTS: &str = "\"topologySpreadConstraints\"";

/// Plans for all pods that are to be spread.
pub(super) fn plan(args: &Args, scene: &mut Scene<'_>, likes: &[Like<'_>], plan: &mut Plan) {
    let mut spread: Vec<(&Like<'_>, Candidate)> = likes
        .iter()
        .filter(|like| like.first().template.contains(CONSTRAINTS))
        .filter_map(|like| Some((like, Candidate::new(&like.first().unplaced()).ok()?)))
        .filter(|(_, candidate)| !candidate.spread.is_empty())
        .collect();
    if spread.is_empty() {
        return;
    }
    // One constraint can count pods that are not alike; the cheapest of them go first.
    spread.sort_by_cached_key(|(like, _)| like.pods.iter().map(|pod| cost(pod)).min());
    let mut labels = Labelled::default();
    for (like, candidate) in spread {
        let counting = likes.iter().filter(|other| labels.count(&candidate, other));
        if is_settled(
            args,
            scene.now,
            counting.flat_map(|other| other.pods.iter().copied()),
        ) {
            by_node(like).into_values().for_each(|mut pods| {
                sort_by_cost(&mut pods);
                thin_out(scene, &candidate, &pods, plan);
            });
        }
    }
}

/// The labels of the pods that share a template, read once.
#[derive(Default)]
struct Labelled(HashMap<*const u8, Labels>);

// === impl Labelled ===

impl Labelled {
    /// Whether such pods count for a constraint of the candidate.
    fn count(&mut self, candidate: &Candidate, like: &Like<'_>) -> bool {
        let pod = like.first();
        if *pod.key.namespace != *candidate.pod.namespace {
            return false;
        }
        let labels = &*self
            .0
            .entry(pod.template.as_ptr())
            .or_insert_with(|| read_labels(pod));
        let mut selectors = candidate
            .spread
            .iter()
            .filter_map(|constraint| constraint.selector.as_ref());
        selectors.any(|selector| selector.matches(labels))
    }
}

fn read_labels(pod: &Pod) -> Labels {
    let template: Value = serde_json::from_str(&pod.template).unwrap_or_default();
    let labels = template["metadata"]["labels"].as_object().into_iter().flatten();
    labels
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

fn by_node<'a>(like: &Like<'a>) -> BTreeMap<&'a str, Vec<&'a Pod>> {
    let mut by_node: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
    for &pod in &like.pods {
        by_node.entry(&pod.node).or_default().push(pod);
    }
    by_node
}

/// Moves pods off their node until the rest breaks no constraint, as far as they fit elsewhere.
fn thin_out(scene: &mut Scene<'_>, candidate: &Candidate, pods: &[&Pod], plan: &mut Plan) {
    for &pod in pods {
        if plan.moves(pod) {
            continue;
        }
        if !scene.breaks_spread(pod, candidate) || !matches!(scene.is_source(&pod.node), Ok(true)) {
            return;
        }
        let why = "topologySpreadConstraints: too many such pods are here".to_owned();
        match move_one(scene, pod, why, plan, |scene| scene.move_elsewhere(pod)) {
            Ok(_) => scene.leave(pod),
            // The others are like it.
            Err(Obstacle::Nowhere(_)) => return,
            Err(_) => {}
        }
    }
}
