//! What to do in a round: a pure function of what is known.

use std::fmt;

use serde::Serialize;

use tensile_core::promises::Room;
use tensile_placement::Uid;

use crate::pod::{Mark, Pod};
use crate::pods::Pods;
use crate::refused::Refused;
use crate::scene::{Obstacle, Place, Scene, successor};
use crate::strategies::{make_room, spread_violation, unschedulable_below};
use crate::waiting::Waiting;

/// What to do in a round.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Plan {
    /// Pods to move, in this order.
    pub moves: Vec<Move>,
    /// Pods that a strategy would move, and why it does not.
    pub stays: Vec<Stay>,
    /// Pods that wait for room, and the room that is made for them.
    #[serde(skip)]
    pub claims: Vec<Claim>,
}

/// A pod that waits for room, as long as it does.
#[derive(Clone, Debug, PartialEq)]
pub struct Claim {
    /// UID of the pod.
    pub pod: Box<str>,
    /// The room that is made for it; `None` if there is room somewhere, or none that could be made now.
    pub room: Option<Room>,
    /// Whether a pod is evicted for it in this round; else it waits for some that go already.
    pub evicts: bool,
}

/// A pod to move.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Move {
    /// The pod.
    pub pod: PodRef,
    /// The strategy that moves it.
    pub strategy: &'static str,
    /// The virtual node that it leaves.
    pub from: String,
    /// A virtual node that fits it now; the scheduler may choose another.
    pub to: String,
    /// The node of the lower cluster that fits it.
    pub lower_node: String,
    /// Why it is moved.
    pub why: String,
    /// Whether it is moved only as long as its lower pod has no node.
    #[serde(skip)]
    pub unplaced: bool,
    /// Whether nobody makes the pod again but us.
    #[serde(skip)]
    pub bare: bool,
    /// What is promised in the models for the sake of this move.
    #[serde(skip)]
    pub promises: Vec<Uid>,
}

/// A pod that stays.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stay {
    /// The pod.
    pub pod: PodRef,
    /// The strategy that would move it.
    pub strategy: &'static str,
    /// A word for it.
    pub kind: &'static str,
    /// Why it stays.
    pub why: String,
}

/// Names a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PodRef {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

/// Plans a round; what was promised to the moves stays promised in the scene.
#[must_use]
pub fn plan(scene: &mut Scene<'_>, pods: &Pods, refused: &Refused, waiting: &Waiting) -> Plan {
    let mut plan = Plan::default();
    if let Some(args) = &scene.policy.unschedulable_below {
        unschedulable_below::plan(args, scene, pods, refused, &mut plan);
    }
    if let Some(args) = &scene.policy.spread_violation {
        spread_violation::plan(args, scene, pods, &mut plan);
    }
    if let Some(args) = &scene.policy.make_room {
        make_room::plan(args, scene, pods, refused, waiting, &mut plan);
    }
    plan
}

// === impl PodRef ===

impl fmt::Display for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl From<&Pod> for PodRef {
    fn from(pod: &Pod) -> Self {
        Self {
            namespace: pod.key.namespace.to_string(),
            name: pod.key.name.to_string(),
            uid: pod.uid.to_string(),
        }
    }
}

// === impl Plan ===

impl Plan {
    /// Whether the pod is to be moved already.
    #[must_use]
    pub fn moves(&self, pod: &Pod) -> bool {
        self.moves.iter().any(|planned| planned.pod.uid == *pod.uid)
    }

    /// Adds a move to a place that is promised to it.
    pub fn go(&mut self, strategy: &'static str, pod: &Pod, place: Place, why: String) -> &mut Move {
        self.moves.push(Move {
            pod: pod.into(),
            strategy,
            from: pod.node.to_string(),
            to: place.node,
            lower_node: place.lower,
            why,
            unplaced: false,
            bare: pod.marks.contains(&Mark::Bare),
            promises: vec![successor(pod)],
        });
        let last = self.moves.len() - 1;
        &mut self.moves[last]
    }

    /// Adds a pod that stays.
    pub fn stay(&mut self, strategy: &'static str, pod: &Pod, obstacle: &Obstacle) {
        self.stays.push(Stay {
            pod: pod.into(),
            strategy,
            kind: obstacle.kind(),
            why: obstacle.to_string(),
        });
    }
}
