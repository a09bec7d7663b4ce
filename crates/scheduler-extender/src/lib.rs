//! Answers kube-scheduler from exact snapshots of all lower clusters.
//!
//! ```text
//! all clusters ── watches ──▶ World ◀── verbs ◀── wire ◀── kube-scheduler
//! ```
//!
//! The [`verbs`] are functions of a request and the [`World`](tensile_world::World); promises made by bind are
//! derived again from the upper pods after a restart.

pub mod args;
pub mod asked;
pub mod binding;
pub mod http;
pub mod metrics;
pub mod pages;
mod run;
#[cfg(test)]
mod testing;
pub mod verbs;
pub mod wire;

pub use args::Args;
pub use run::{RunError, run};
