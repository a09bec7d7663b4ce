//! Moves pods whose share or spread over clusters no longer holds.
//!
//! Both are decided when a pod is placed, and by nobody afterwards: a cluster was full or away at the time, or has come
//! since. Two rules are looked at: the shares of `tensile.dev/split`, and `topologySpreadConstraints` that must hold over
//! labels of virtual nodes. In both cases only surplus moves, only to where something is missing, and only what fits
//! there now. Pods that are being placed anyway are waited for: nothing is decided while a pod that counts is younger
//! than the threshold or on its way out.

use std::cmp::Reverse;
use std::collections::HashMap;

use tensile_core::view::Phase;

use crate::plan::Plan;
use crate::pod::Pod;
use crate::pods::Pods;
use crate::scene::{Obstacle, Place, Scene};

mod args;
mod shares;
mod topology;

pub use args::Args;

/// Its name in policies, events and metrics.
pub const NAME: &str = "SpreadViolation";

/// Pods of one namespace that cannot be told apart by what decides on their place.
struct Like<'a> {
    pods: Vec<&'a Pod>,
}

/// Adds to `plan` what this strategy would do.
pub fn plan(args: &Args, scene: &mut Scene<'_>, pods: &Pods, plan: &mut Plan) {
    let likes = likes(args, pods);
    shares::plan(args, scene, &likes, plan);
    topology::plan(args, scene, &likes, plan);
}

/// The pods that count, alike ones together, in the order of the first name of each.
fn likes<'a>(args: &Args, pods: &'a Pods) -> Vec<Like<'a>> {
    let counting = pods
        .iter()
        .filter(|pod| !pod.phase.is_terminal() && args.namespaces.admit(&pod.key.namespace));
    let mut likes: HashMap<(&str, *const u8), Like<'a>> = HashMap::new();
    for pod in counting {
        // Replicas share their template.
        let like = likes.entry((&*pod.key.namespace, pod.template.as_ptr()));
        like.or_insert_with(|| Like { pods: Vec::new() }).pods.push(pod);
    }
    let mut likes: Vec<Like<'a>> = likes.into_values().collect();
    likes.iter_mut().for_each(Like::begin_with_first);
    likes.sort_by(|one, other| one.first().key.cmp(&other.first().key));
    likes
}

// === impl Like ===

impl<'a> Like<'a> {
    /// Puts the first by name in front. The others stay in no order: whoever needs one sorts by more than the name.
    fn begin_with_first(&mut self) {
        let first = (0..self.pods.len()).min_by_key(|index| &self.pods[*index].key);
        self.pods.swap(0, first.unwrap_or_default());
    }

    fn first(&self) -> &'a Pod {
        self.pods[0]
    }
}

/// Whether none of the pods is on its way, in or out.
fn is_settled<'a>(args: &Args, now: u64, pods: impl IntoIterator<Item = &'a Pod>) -> bool {
    let mut pods = pods.into_iter();
    pods.all(|pod| !pod.deleting && pod.age(now) >= args.threshold_seconds)
}

/// What moving the pod disturbs. As with kube-scheduler's victims and the ReplicaSet controller's choice it is least for
/// less important pods, then for those that do not run yet, then for the cheapest to restart, then for the youngest.
fn cost(pod: &Pod) -> (i64, bool, i64, Reverse<u64>) {
    let runs = pod.phase != Phase::Pending;
    (pod.priority, runs, pod.restart_cost, Reverse(pod.created))
}

/// Sorts pods so that those come first whose move disturbs least.
fn sort_by_cost(pods: &mut [&Pod]) {
    pods.sort_by(|one, other| (cost(one), &one.key).cmp(&(cost(other), &other.key)));
}

/// Plans to move one pod to the place that `find` promises it, or says why it stays.
fn move_one(
    scene: &mut Scene<'_>,
    pod: &Pod,
    why: String,
    plan: &mut Plan,
    find: impl FnOnce(&mut Scene<'_>) -> Result<Place, Obstacle>,
) -> Result<Place, Obstacle> {
    let place = place(scene, pod, find);
    match &place {
        Ok(place) => {
            plan.go(NAME, pod, place.clone(), why);
        }
        Err(obstacle) => plan.stay(NAME, pod, obstacle),
    }
    place
}

fn place(
    scene: &mut Scene<'_>,
    pod: &Pod,
    find: impl FnOnce(&mut Scene<'_>) -> Result<Place, Obstacle>,
) -> Result<Place, Obstacle> {
    scene.may_move(pod)?;
    scene.check_limits(pod, 1)?;
    let place = find(scene)?;
    scene.spend(pod);
    Ok(place)
}

#[cfg(test)]
mod tests;
