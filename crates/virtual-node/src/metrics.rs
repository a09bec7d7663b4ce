//! Counters of one virtual node process.

use prometheus::{IntCounter, Registry};

/// Counters; clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Status patches that the upper cluster took.
    pub status_writes: IntCounter,
    /// Attempts at pods that failed and are tried again.
    pub pod_retries: IntCounter,
    /// Attempts at objects that pods need that failed and are tried again.
    pub object_retries: IntCounter,
    /// Writes of the Node object, heartbeats aside.
    pub node_writes: IntCounter,
}

// === impl Metrics ===

impl Metrics {
    /// Registers the counters.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let counter = |name: &str, help: &str| -> prometheus::Result<IntCounter> {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok(counter)
        };
        Ok(Self {
            status_writes: counter(
                "tensile_pod_status_writes_total",
                "Pod statuses written to the upper cluster.",
            )?,
            pod_retries: counter(
                "tensile_pod_retries_total",
                "Attempts at pods that failed and are tried again.",
            )?,
            object_retries: counter(
                "tensile_object_retries_total",
                "Attempts at ConfigMaps, Secrets and namespaces that failed and are tried again.",
            )?,
            node_writes: counter(
                "tensile_node_writes_total",
                "Writes of the Node object, lease renewals aside.",
            )?,
        })
    }
}
