//! The pure heart of Tensile: names, annotation codecs, resource models and translations.
//!
//! Nothing here waits, reads a clock, an environment or a file, or knows an API client, so that every
//! decision that Tensile takes can be tested with a table. Objects that cross clusters are
//! [`serde_json::Value`]s: known paths are edited, unknown fields survive.

pub mod affinity;
pub mod avoidance;
pub mod entries;
pub mod hash;
pub mod labels;
pub mod names;
pub mod owners;
pub mod promises;
pub mod quantity;
mod read;
pub mod refs;
pub mod resources;
pub mod split;
pub mod stash;
pub mod status;
pub mod taints;
pub mod translate;
pub mod view;
