//! PersistentVolumeClaims: what the lower cluster provisions or binds, and what stands for it above.
//!
//! ```text
//! upper claim, selected node ours ──▶ upper PersistentVolume (tied to the virtual node) ──▶ upper claim Bound
//! upper claim, used by a pod ───────▶ lower claim ──▶ bound by the lower cluster
//! upper claim grows ────────────────▶ lower claim grows ──▶ its capacity comes back
//! upper volume Released, Delete ────▶ lower claim deleted ──▶ upper volume deleted
//! ```
//!
//! Claims change rarely, so a claim is looked at live, on both sides, whenever the metadata of one of its objects
//! changes; nothing of it is kept. [`decide`] is pure and sees all of it. A lower claim outlives its pods, and its
//! upper claim unless the upper volume is ours and says Delete: data is never given up by guess.

mod decide;
mod index;
mod work;

pub use decide::{Situation, Step, decide};
pub use index::Index;
pub use work::Worker;
