//! Upper pods and the lower pods that stand for them.
//!
//! ```text
//! upper pods (spec.nodeName = ours) ──▶ ┌───────┐
//!                                       │ Index │ ──▶ decide(entry) ──▶ Step ──▶ Worker ──▶ both API servers
//! lower pods (origin-cluster = ours) ─▶ └───────┘
//! ```
//!
//! An entry holds both sides of one namespace and name, because an API server has at most one object under a
//! name; whether the two belong together is told by UID. [`decide`] is pure and looks at nothing but the
//! entry; a [`Step`] is one request, after which the entry is looked at again.

mod again;
mod body;
mod decide;
mod index;
mod predecessor;
mod side;
mod silence;
mod stuck;
#[cfg(test)]
mod tests;
mod translation;
mod work;

pub use body::Body;
pub use decide::{Step, decide};
pub use index::{Entry, Index, References, Trouble};
pub use side::{Deletion, LowerPod, LowerSide, UpperPod, UpperSide};
pub use silence::follow as follow_silence;
pub use stuck::{Ending, ending};
pub use work::Worker;

pub(crate) use side::version;
