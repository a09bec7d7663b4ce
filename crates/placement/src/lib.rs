//! Model of the lower clusters and the question whether a pod fits, shared by extender and descheduler: pure.
//!
//! ```text
//! nodes ─┐                                   pod as it will be below
//! pods ──┼─ apply / delete / retain ─▶ Cluster ◀── Candidate
//! … ─────┘                              │
//!                        Fit: verdict, best node, reasons
//! ```
//!
//! A sum of free capacity lies: ten CPUs free in ten fragments hold no pod of two CPUs. So a [`Cluster`] keeps
//! every node and pod, and [`Fit`] asks each node what kube-scheduler would ask it. What cannot be judged is
//! called unknown, never fitting. Clusters know nothing of each other.

mod candidate;
mod changes;
mod cluster;
mod explain;
mod filters;
mod fit;
mod fits;
mod fragments;
mod intern;
mod labels;
mod node;
mod pod;
mod reason;
#[cfg(feature = "testing")]
pub mod scale;
mod score;
mod split;
mod standing;
pub mod storage;
mod terms;
#[cfg(test)]
mod testing;

pub use candidate::{Candidate, CandidateError, SpreadConstraint, Unknown};
pub use cluster::{Cluster, Hints};
pub use explain::{Explanation, Fragment, Shortage};
pub use fit::{Best, Fit, Verdict};
pub use fragments::Fragments;
pub use labels::SharedLabels;
pub use node::{Node, NodeFacts};
pub use pod::{HostPort, Pod, PodKey, Shape, Uid};
pub use reason::{Reason, Refusal, Tally};
pub use score::Stranding;
pub use split::Shares;
pub use terms::AffinityTerm;
