//! Pod status on its way from the lower pod to the upper one.
//!
//! [`desired`] says what of the upper status is ours and what it should be; [`patch`] says what to send so that it
//! becomes so. Everything else of the upper status belongs to the upper cluster and is never sent: the conditions
//! PodScheduled, DisruptionTarget and those of readiness gates, qosClass, and what the upper scheduler and claim
//! controllers write.
//!
//! Without a lower pod there is a [`Problem`] to tell. A pod whose lower pod went while nobody looked on is made again
//! ([`interrupted`], [`go_on`]) where it [may start again](may_start_again), else it has [`vanished`].

mod conditions;
mod desired;
mod fingerprint;
mod gate;
mod patch;
mod problem;
mod restarts;

pub use desired::{Upper, desired, interrupted, is_terminal, terminal, vanished};
pub use fingerprint::Fingerprint;
pub use gate::{Gate, gates};
pub use patch::{Patch, Sent, patch};
pub use problem::Problem;
pub use restarts::{Restarts, go_on, may_start_again};

/// Status members that the upper cluster writes, or that never change.
const UPPERS: [&str; 6] = [
    "qosClass",
    "nominatedNodeName",
    "resourceClaimStatuses",
    "extendedResourceClaimStatus",
    "nodeAllocatableResourceClaimStatuses",
    "volumeHealth",
];

/// Members that are taken away above when they are gone below. The others stay as they are: a pod keeps a phase and
/// its last container states.
const REMOVABLE: [&str; 7] = [
    "reason",
    "message",
    "podIP",
    "podIPs",
    "resize",
    "resources",
    "allocatedResources",
];

/// Conditions that are taken away above when they are gone below.
const REMOVABLE_CONDITIONS: [&str; 3] = [
    "PodResizePending",
    "PodResizeInProgress",
    "AllContainersRestarting",
];

/// Lists of container statuses.
const CONTAINER_STATUSES: [&str; 3] = [
    "initContainerStatuses",
    "containerStatuses",
    "ephemeralContainerStatuses",
];

#[cfg(test)]
mod tests;
