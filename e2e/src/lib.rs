//! Runs real control planes for live tests, the demo and the benchmarks.
//!
//! ```text
//! Binaries      etcd, kube-apiserver … : from a folder, a cache, or built once from the Go modules
//!    │
//! Cluster       one control plane in a folder of its own, on loopback or in a network namespace
//!    ├─ kwok    simulated nodes, any number and size
//!    └─ real    containerd, kubelet and kube-proxy in a network namespace
//!    │
//! Run           everything that this process started: cleared on drop, by a guard process when this
//!               process dies in any way, or by the next run
//! ```
//!
//! Errors are `anyhow`: a failure of the harness is read by a person, never handled by a program.

pub mod binaries;
pub mod clients;
mod cluster;
mod component;
mod components;
mod control_plane;
pub mod descheduler;
pub mod extender;
mod kubeconfig;
mod kubectl;
mod kwok;
mod leases;
pub mod measure;
mod metrics_server;
mod pki;
mod process;
mod proxy;
mod real;
pub mod rights;
mod run;
mod spec;
mod store;
pub mod support;
pub mod virtual_node;
pub mod webhook;

pub use binaries::Binaries;
pub use cluster::Cluster;
pub use component::Component;
pub use components::Components;
pub use kubectl::Output;
pub use kwok::NodeTemplate;
pub use leases::PortLease;
pub use metrics_server::MetricsServer;
pub use process::Process;
pub use proxy::{Fault, FaultProxy};
pub use real::{BUSYBOX_IMAGE, program_or_report, real_nodes_available, real_nodes_or_report};
pub use run::clear_leftovers;
pub use spec::ClusterSpec;
pub use support::TestResult;
