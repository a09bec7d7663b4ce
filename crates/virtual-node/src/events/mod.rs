//! Events of lower pods, shown on the upper pods.
//!
//! The lower API server leaves out what every healthy pod causes, so that a busy cluster costs little here. What is
//! left waits in the [`Index`], newest state only, until its turn in the queue; the pod it is about is looked up then.
//! A pod has a budget of writes, and what is over it is dropped: the next repeat carries the count.

mod index;
mod work;

pub use index::{Index, LowerEvent};
pub use work::Worker;

/// What the lower API server is asked for: pods, and not the routine that
/// [`is_told`](tensile_core::translate::event::is_told) leaves out anyway.
pub const SELECTOR: &str = "involvedObject.kind=Pod,reason!=Created,reason!=Killing,reason!=Pulled,\
                            reason!=Pulling,reason!=Scheduled,reason!=Started";
