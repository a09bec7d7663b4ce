//! Usage as kubelets tell it, read back: the counterpart of [`crate::render`]. Pure.
//!
//! A provider whose pods run on other kubelets reads their `/metrics/resource` or `/stats/summary` here, and makes
//! the figures its own with [`crate::usage::Ledger`].

mod exposition;
pub mod relabel;
pub mod resource;
pub mod summary;

use crate::usage::Figure;

/// One container as its kubelet shows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ContainerReading {
    /// The pod's namespace on that kubelet.
    pub namespace: String,
    /// The pod's name there.
    pub pod: String,
    /// The container's name.
    pub container: String,
    /// Its start, in milliseconds since 1970, when known.
    pub started_ms: Option<i64>,
    /// What was measured.
    pub figure: Figure,
}

/// What one kubelet shows of its node and containers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Reading {
    /// The node as a whole.
    pub node: Option<Figure>,
    /// Containers that have both CPU and memory.
    pub containers: Vec<ContainerReading>,
}
