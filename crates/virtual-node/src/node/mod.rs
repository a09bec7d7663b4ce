//! The Node object that stands for the lower cluster.

mod capacity;
mod heartbeat;
mod hold;
mod object;
mod publish;
pub mod reach;
mod silence;

pub use capacity::{Capacity, LowerNode, OtherPod, Summary};
pub use heartbeat::Heartbeat;
pub use hold::hold;
pub use object::{Desired, Identity, Reachability, UNREACHABLE};
pub use publish::{NodeError, OwnNode, Publisher, check_owner};
pub use silence::{AllDown, Down};
