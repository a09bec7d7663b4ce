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

mod avoid;
pub mod mutate;
pub mod patch;
pub mod pod;
pub mod review;
pub mod tolerations;
