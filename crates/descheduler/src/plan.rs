//! What to do in a round: a pure function of what is known.

use std::fmt;

use serde::Serialize;

use crate::pod::Pod;
use crate::pods::Pods;
use crate::refused::Refused;
use crate::scene::{Obstacle, Place, Scene};
use crate::strategies::unschedulable_below;

/// What to do in a round.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Plan {
    /// Pods to move, in this order.
    pub moves: Vec<Move>,
    /// Pods that a strategy would move, and why it does not.
    pub stays: Vec<Stay>,
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
pub fn plan(scene: &mut Scene<'_>, pods: &Pods, refused: &Refused) -> Plan {
    let mut plan = Plan::default();
    if let Some(args) = &scene.policy.unschedulable_below {
        unschedulable_below::plan(args, scene, pods, refused, &mut plan);
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
    /// Adds a move or the reason against it.
    pub fn decide(
        &mut self,
        strategy: &'static str,
        pod: &Pod,
        why: impl FnOnce() -> String,
        place: Result<Place, Obstacle>,
    ) {
        match place {
            Ok(Place { node, lower }) => self.moves.push(Move {
                pod: pod.into(),
                strategy,
                from: pod.node.to_string(),
                to: node,
                lower_node: lower,
                why: why(),
            }),
            Err(obstacle) => self.stays.push(Stay {
                pod: pod.into(),
                strategy,
                kind: obstacle.kind(),
                why: obstacle.to_string(),
            }),
        }
    }
}
