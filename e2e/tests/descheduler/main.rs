//! Pods that their lower cluster cannot run are moved to where they fit, and nothing else is.

mod bare;
mod fleet;
mod owners;
mod packing;
mod room;
mod spread;
mod stuck;
