//! What extender and descheduler know of all clusters, kept up to date by watches.
//!
//! ```text
//! kubeconfigs ── Directory, Secrets ──▶ lower::Feed, one a cluster ── watches ──▶ placement::Cluster ─┐
//! upper nodes, bound pods ──── upper::Feed ─── watches ──────────────────────────────────────┴▶ World
//! ```
//!
//! The [`World`] is plain data behind one lock ([`Shared`]): which virtual nodes there are, the model of the
//! cluster behind each of them, and the places that are promised to upper pods. Promises follow from the pods
//! that can be listed, so that they survive a restart. A [`Lowering`] gives a pod the form that it will have
//! below, and [`World::answer`] says whether it fits there. A cluster whose model cannot be trusted is in
//! *doubt*, and disturbs no other.

pub mod directory;
mod kinds;
pub mod lower;
mod lowering;
mod parallel;
mod patience;
pub mod secrets;
mod shared;
pub mod source;
mod splits;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod told;
pub mod upper;
mod world;

pub use lowering::Lowering;
pub use shared::Shared;
pub use world::{Answer, LowerCluster, Settings, Sharing, Strategy, UnknownPolicy, VirtualNode, World, uid};
