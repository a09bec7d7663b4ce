//! Moves pods that their lower cluster cannot run.
//!
//! A virtual node promises the sum of its cluster's free capacity, and the upper scheduler believes it. So a pod can
//! be bound to a cluster of which no single node fits it, by size, by a taint or because a node was cordoned since.
//! The lower scheduler then says Unschedulable, and nobody above would ever look at the pod again.

use std::collections::HashMap;

use tensile_core::view::Phase;

use crate::plan::Plan;
use crate::pod::Pod;
use crate::pods::Pods;
use crate::refused::{Refusal, Refused};
use crate::scene::{Obstacle, Place, Scene};

mod args;
mod due;

pub use args::Args;

/// Its name in policies, events and metrics.
pub const NAME: &str = "UnschedulableBelow";

/// Adds to `plan` what this strategy would do. The most important pods come first, then those that wait longest.
pub fn plan(args: &Args, scene: &mut Scene<'_>, pods: &Pods, refused: &Refused, plan: &mut Plan) {
    let refusals = refusals(scene, refused);
    let refusal = |pod: &Pod| refusals.get(&*pod.uid).copied();
    let waiting = pods.iter().filter(|pod| {
        pod.phase == Phase::Pending && !pod.deleting && args.namespaces.admit(&pod.key.namespace)
    });
    let mut due: Vec<(&Pod, due::Due)> = waiting
        .filter_map(|pod| Some((pod, due::due(args, pod, refusal(pod), scene.now)?)))
        .collect();
    due.sort_by(|(left, one), (right, other)| {
        let order = (right.priority, one.since()).cmp(&(left.priority, other.since()));
        order.then_with(|| left.key.cmp(&right.key))
    });
    for (pod, due) in due {
        match scene.is_source(&pod.node) {
            Ok(false) => {}
            Ok(true) => match place(scene, pod) {
                Ok(place) => {
                    let unplaced = matches!(due, due::Due::Unschedulable { .. });
                    plan.go(NAME, pod, place, due.to_string()).unplaced = unplaced;
                }
                Err(obstacle) => plan.stay(NAME, pod, &obstacle),
            },
            Err(doubt) => plan.stay(NAME, pod, &doubt),
        }
    }
}

/// What lower clusters said, by the UID of the upper pod.
fn refusals<'a>(scene: &Scene<'_>, refused: &'a Refused) -> HashMap<&'a str, &'a Refusal> {
    let clusters = scene.world.clusters();
    clusters.flat_map(|(id, _)| refused.of(id)).collect()
}

fn place(scene: &mut Scene<'_>, pod: &Pod) -> Result<Place, Obstacle> {
    scene.may_move(pod)?;
    scene.check_limits(pod, 1)?;
    let place = scene.move_elsewhere(pod)?;
    scene.spend(pod);
    Ok(place)
}

#[cfg(test)]
mod tests;
