//! The Node object that stands for the lower cluster.

mod capacity;
mod heartbeat;
mod object;
mod publish;
pub mod reach;

pub use capacity::{Capacity, LowerNode, OtherPod, Summary};
pub use heartbeat::Heartbeat;
pub use object::{Desired, Identity, Reachability};
pub use publish::{NodeError, OwnNode, Publisher, check_owner};
