//! A virtual kubelet: shows a lower cluster as a Node of the upper cluster and runs the pods bound to it there.
//!
//! ```text
//!            upper cluster                                        lower cluster
//!  pods with spec.nodeName = ours ─▶ ┌────────────────┐ ─▶ pods, ConfigMaps, Secrets, namespaces
//!  ConfigMaps, Secrets (metadata) ─▶ │ indices, queues│ ◀─ their status, as metadata or as it came
//!  status, deletion, events       ◀─ │ and workers    │ ◀─ nodes and pods of others, for the capacity
//!  Node, Lease                    ◀─ └────────────────┘
//! ```
//!
//! [`pods`] decides about pods, [`objects`] about what they need, [`node`] about the Node; [`engine`] runs
//! them while the lease of the lower cluster is held.

pub mod api;
pub mod args;
pub mod certificate;
pub mod claims;
pub mod context;
pub mod debug;
pub mod engine;
pub mod events;
pub mod kubelet;
pub mod lag;
pub mod leaving;
pub mod lower;
pub mod metrics;
pub mod namespaces;
pub mod node;
pub mod objects;
pub mod origin;
pub mod pods;
pub mod pools;
pub mod ports;
pub mod process;
pub mod registries;
pub mod run;
pub mod shared;
pub mod supervisor;
pub mod tokens;
pub mod usage;
pub mod watches;

pub use args::Args;
pub use run::run;
