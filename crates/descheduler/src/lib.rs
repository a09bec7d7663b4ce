//! Moves pods that their lower cluster cannot run to where they fit, and makes room where it is only scattered.
//!
//! ```text
//! all clusters ── watches ──▶ World, model of the upper cluster, pods, refusals
//!                                          │  snapshot
//!                       strategies ──▶ plan (pure) ──▶ evictor ──▶ notes, Eviction API
//!                                          └──▶ report, events, metrics
//! ```
//!
//! A pod is moved by evicting it in the upper cluster: its owner makes a new one, the webhook keeps that off the old
//! virtual node for a while, and the scheduler places it. So [`plan`] evicts only what fits elsewhere *now*; it judges
//! by the code that the extender judges by, counts places that are already promised, and promises those that it
//! plans with. Where nothing fits, nothing is evicted.

pub mod args;
pub mod avoid;
mod bare;
mod budgets;
pub mod clock;
pub mod evict;
pub mod feed;
pub mod limits;
pub mod metrics;
mod notes;
pub mod plan;
pub mod pod;
pub mod pods;
pub mod policy;
pub mod promises;
pub mod refused;
pub mod report;
pub mod round;
mod run;
pub mod scene;
pub mod strategies;
#[cfg(test)]
mod testing;
pub mod waiting;

pub use args::Args;
pub use run::{RunError, run};
