//! Answers kube-scheduler from exact snapshots of all lower clusters.
//!
//! ```text
//! lower clusters ── watches ──▶ placement::Cluster ─┐
//! upper nodes, bound pods ───── watches ────────────┴▶ World ◀── verbs ◀── wire ◀── kube-scheduler
//! ```
//!
//! The [`verbs`] are functions of a request and the [`World`](world::World); promises made by bind are derived
//! again from the upper pods after a restart.

pub mod args;
pub mod binding;
pub mod directory;
pub mod http;
pub mod kinds;
pub mod lower;
pub mod lowering;
pub mod metrics;
pub mod pages;
mod run;
pub mod shared;
#[cfg(test)]
mod testing;
pub mod upper;
pub mod verbs;
pub mod wire;
pub mod world;

pub use args::Args;
pub use run::{RunError, run};
