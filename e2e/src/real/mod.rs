//! Real nodes: a lower cluster with containerd, kubelet and kube-proxy in a network namespace of its own.

mod availability;
mod fabric;
mod images;
mod node;
mod shell;

pub(crate) use availability::missing;
pub use availability::{program_or_report, real_nodes_available, real_nodes_or_report};
pub use images::BUSYBOX_IMAGE;

pub(crate) use fabric::{Attachment, Fabric};
pub(crate) use node::RealNode;
