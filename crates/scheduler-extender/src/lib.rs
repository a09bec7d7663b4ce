//! Answers kube-scheduler from exact snapshots of all lower clusters.
//!
//! ```text
//! lower clusters ── watches ──▶ placement::Cluster ─┐
//! upper nodes, bound pods ───── watches ────────────┴▶ World ◀── verbs ◀── wire ◀── kube-scheduler
//! ```
//!
//! The [`verbs`] are functions of a request and the [`World`](world::World); promises made by bind are derived
//! again from the upper pods after a restart.

pub mod lowering;
#[cfg(test)]
mod testing;
pub mod verbs;
pub mod wire;
pub mod world;
