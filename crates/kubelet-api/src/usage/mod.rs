//! CPU and memory of a node and its pods, as slim data. [`crate::render`] turns it into what callers read.

mod ledger;

pub use ledger::{Figure, Ledger, Sum};

/// One measurement of a container, a pod or a node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Sample {
    /// When it was taken, in milliseconds since 1970.
    pub time_ms: i64,
    /// CPU time used since the start, in nanoseconds of one core. Never goes back.
    pub cpu_core_nanos: u64,
    /// CPU in use, in billionths of a core; `None` when there is no rate yet.
    pub cpu_nano_cores: Option<u64>,
    /// Memory that cannot be reclaimed under pressure, in bytes.
    pub working_set_bytes: u64,
}

/// One container's measurement.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ContainerUsage {
    /// The container's name.
    pub name: String,
    /// Its start, in milliseconds since 1970, when known.
    pub started_ms: Option<i64>,
    /// What was measured.
    pub sample: Sample,
}

/// One pod's measurements.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PodUsage {
    /// Namespace in the node's cluster.
    pub namespace: String,
    /// Name in the node's cluster.
    pub name: String,
    /// UID in the node's cluster.
    pub uid: String,
    /// The pod's start, in milliseconds since 1970, when known.
    pub started_ms: Option<i64>,
    /// Containers that have a measurement.
    pub containers: Vec<ContainerUsage>,
}

/// A node's measurements.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NodeUsage {
    /// The node's start, in milliseconds since 1970, when known.
    pub started_ms: Option<i64>,
    /// The node as a whole. metrics-server ignores a node without it.
    pub node: Option<Sample>,
    /// Its pods.
    pub pods: Vec<PodUsage>,
}

// === impl Sample ===

impl Sample {
    /// Both together, at the time of the newer.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            time_ms: self.time_ms.max(other.time_ms),
            cpu_core_nanos: self.cpu_core_nanos.saturating_add(other.cpu_core_nanos),
            cpu_nano_cores: match (self.cpu_nano_cores, other.cpu_nano_cores) {
                (Some(a), Some(b)) => Some(a.saturating_add(b)),
                (one, other) => one.or(other),
            },
            working_set_bytes: self.working_set_bytes.saturating_add(other.working_set_bytes),
        }
    }
}

// === impl PodUsage ===

impl PodUsage {
    /// The sum of the containers, at the time of the newest. `None` without containers.
    #[must_use]
    pub fn total(&self) -> Option<Sample> {
        let samples = self.containers.iter().map(|container| container.sample);
        samples.reduce(|a, b| a.plus(&b))
    }
}
