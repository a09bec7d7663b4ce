//! Figures of one lower cluster and of each of its virtual nodes.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

use tensile_runtime::queue::Depth;
use tensile_runtime::requests::Requests;
use tensile_runtime::watch::Metrics as WatchMetrics;

use crate::api::ApiError;
use crate::kubelet::Current;

/// Bounds in seconds of how long statuses and watches take: the goal for statuses is 20 ms for most and 100 ms for
/// nearly all, and a minute is an outage.
const LATENCY_BUCKETS: [f64; 12] = [
    0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0, 15.0, 60.0,
];

/// Figures of a virtual node; clones share them.
#[derive(Clone, Debug)]
pub struct Metrics {
    /// Status patches that the upper cluster took.
    pub status_writes: IntCounter,
    /// Time from the sight of a lower change until the upper cluster took the status.
    pub status_latency: Histogram,
    /// Time from the answer to a write of ours until the watch showed it, by watch.
    pub watch_lag: HistogramVec,
    /// Attempts at pods that failed and are tried again, by kind of failure.
    pub pod_retries: IntCounterVec,
    /// Attempts at objects that pods need that failed and are tried again, by kind of failure.
    pub object_retries: IntCounterVec,
    /// Writes of the Node object, heartbeats aside.
    pub node_writes: IntCounter,
}

/// Figures of a lower cluster; clones share them.
#[derive(Clone, Debug)]
pub struct ClusterMetrics {
    /// Whether this process runs the cluster's virtual nodes.
    pub leading: IntGauge,
    /// Whether the cluster answers this process, while it runs them.
    pub reachable: IntGauge,
    /// Those of its watches, and of the watches of the upper cluster that its virtual nodes need.
    pub watches: WatchMetrics,
    /// Requests to the upper cluster for it, and to it.
    pub requests: [Requests; 2],
}

/// Sizes of the queues and indices of a virtual node, read when somebody asks.
pub struct Sizes {
    current: Current,
    queues: IntGaugeVec,
    entries: IntGaugeVec,
}

// === impl Metrics ===

impl Metrics {
    /// Registers the figures.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let latency =
            |name: &str, help: &str| HistogramOpts::new(name, help).buckets(LATENCY_BUCKETS.to_vec());
        Ok(Self {
            status_writes: added(
                registry,
                IntCounter::new(
                    "tensile_pod_status_writes_total",
                    "Pod statuses written to the upper cluster.",
                )?,
            )?,
            status_latency: added(
                registry,
                Histogram::with_opts(latency(
                    "tensile_status_latency_seconds",
                    "Time from the sight of a change of a lower pod until the upper cluster took its status.",
                ))?,
            )?,
            watch_lag: added(
                registry,
                HistogramVec::new(
                    latency(
                        "tensile_watch_lag_seconds",
                        "Time from the answer to a write of ours until the watch showed it; one write at a time is measured.",
                    ),
                    &["watch"],
                )?,
            )?,
            pod_retries: added(
                registry,
                retries(
                    "tensile_pod_retries_total",
                    "Attempts at pods that failed and are tried again.",
                )?,
            )?,
            object_retries: added(
                registry,
                retries(
                    "tensile_object_retries_total",
                    "Attempts at ConfigMaps, Secrets and namespaces that failed and are tried again.",
                )?,
            )?,
            node_writes: added(
                registry,
                IntCounter::new(
                    "tensile_node_writes_total",
                    "Writes of the Node object, lease renewals aside.",
                )?,
            )?,
        })
    }
}

/// Every reason is there from the start: a rate of a series that begins with its first failure does not show it.
fn retries(name: &str, help: &str) -> prometheus::Result<IntCounterVec> {
    let retries = IntCounterVec::new(Opts::new(name, help), &["reason"])?;
    for reason in ApiError::KINDS {
        retries.with_label_values(&[reason]);
    }
    Ok(retries)
}

fn added<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> prometheus::Result<C> {
    registry.register(Box::new(collector.clone()))?;
    Ok(collector)
}

// === impl ClusterMetrics ===

impl ClusterMetrics {
    /// Registers the figures.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let gauge = |name: &str, help: &str| added(registry, IntGauge::new(name, help)?);
        Ok(Self {
            leading: gauge(
                "tensile_cluster_leading",
                "1 while this process holds the lease of the lower cluster and runs its virtual nodes.",
            )?,
            reachable: gauge(
                "tensile_cluster_reachable",
                "1 while the lower cluster answers; 0 also where another process holds its lease.",
            )?,
            watches: WatchMetrics::new(registry)?,
            requests: Requests::register(registry)?,
        })
    }

    /// This process runs the cluster's virtual nodes no more.
    pub fn ended(&self) {
        self.leading.set(0);
        self.reachable.set(0);
    }
}

// === impl Sizes ===

impl Sizes {
    /// For the indices that are `current`.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn register(registry: &Registry, current: Current) -> prometheus::Result<()> {
        let queues = Opts::new(
            "tensile_queue_depth",
            "Keys that wait or are worked on, by queue and lane.",
        );
        let entries = Opts::new("tensile_index_entries", "What is kept in memory, by index.");
        registry.register(Box::new(Self {
            current,
            queues: IntGaugeVec::new(queues, &["queue", "lane"])?,
            entries: IntGaugeVec::new(entries, &["index"])?,
        }))
    }

    fn set(&self, queue: &str, depth: Depth) {
        for (lane, size) in [
            ("fresh", depth.fresh),
            ("retry", depth.retry),
            ("running", depth.running),
        ] {
            let gauge = self.queues.with_label_values(&[queue, lane]);
            gauge.set(i64::try_from(size).unwrap_or(i64::MAX));
        }
    }
}

impl Collector for Sizes {
    fn desc(&self) -> Vec<&Desc> {
        [self.queues.desc(), self.entries.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.queues.reset();
        self.entries.reset();
        let shared = self.current.lock().clone();
        if let Some(shared) = shared {
            self.set("pods", shared.pods.depth());
            self.set("objects", shared.objects.depth());
            self.set("events", shared.events.depth());
            let state = shared.lock();
            for (index, size) in [("pods", state.pods.len()), ("objects", state.objects.len())] {
                let gauge = self.entries.with_label_values(&[index]);
                gauge.set(i64::try_from(size).unwrap_or(i64::MAX));
            }
        }
        [self.queues.collect(), self.entries.collect()].concat()
    }
}

#[cfg(test)]
mod tests {
    use prometheus::TextEncoder;

    use super::*;

    #[test]
    fn sizes_are_shown_while_the_virtual_node_runs() {
        let (registry, current) = (Registry::new(), Current::default());
        Sizes::register(&registry, current.clone()).unwrap();
        let text = || TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        assert_eq!(text(), "");
        let shared = crate::shared::tests::mk_shared();
        shared.pods.push(tensile_runtime::key::Key::new("ns", "p"));
        *current.lock() = Some(shared);
        let shown = text();
        for line in [
            "tensile_queue_depth{lane=\"fresh\",queue=\"pods\"} 1",
            "tensile_queue_depth{lane=\"retry\",queue=\"objects\"} 0",
            "tensile_index_entries{index=\"pods\"} 0",
        ] {
            assert!(shown.contains(line), "{shown}");
        }
        *current.lock() = None;
        assert_eq!(text(), "");
    }
}
