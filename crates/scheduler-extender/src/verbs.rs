//! What the scheduler asks: one file a verb, each a function of the request and what is known.

mod bind;
mod filter;
mod preempt;
mod prioritize;

pub use bind::{BindError, bind};
pub use filter::{filter, retry};
pub use preempt::preempt;
pub use prioritize::prioritize;
