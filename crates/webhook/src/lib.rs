//! Mutating webhook that stashes scheduling constraints so that they act in the lower cluster.
//!
//! ```text
//! AdmissionReview ── review ──▶ pod ── mutate ──▶ RFC 6902 operations ── review ──▶ answer
//!                                        ▲
//!                namespaces, avoidance ──┘ (watched)
//! ```
//!
//! [`mutate`](mutate::mutate) is pure; the division of constraints itself lives in
//! [`tensile_core::stash`], beside the code that un-stashes them.

pub mod args;
mod avoid;
pub mod certs;
pub mod http;
pub mod known;
pub mod loose;
pub mod memo;
pub mod metrics;
pub mod mutate;
pub mod patch;
pub mod pod;
pub mod review;
mod run;
pub mod tolerations;

pub use args::Args;
pub use run::{RunError, run};
