//! Figures of the extender.

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, IntGaugeVec, Opts, Registry};
use tensile_world::Shared;

/// What the scheduler asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Which nodes will do.
    Filter,
    /// Which are preferred.
    Prioritize,
    /// Where victims help.
    Preempt,
    /// Bind the pod.
    Bind,
}

/// Metrics of the verbs. Clones share the figures.
#[derive(Clone, Debug)]
pub struct Metrics {
    duration: HistogramVec,
    errors: IntCounterVec,
}

/// Says at each scrape how often lower schedulers kept the promises, over all clusters that are known.
struct HintCollector {
    shared: Shared,
    hints: IntGaugeVec,
}

// === impl Verb ===

impl Verb {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Filter, Self::Prioritize, Self::Preempt, Self::Bind];

    /// Its name in paths and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Prioritize => "prioritize",
            Self::Preempt => "preempt",
            Self::Bind => "bind",
        }
    }
}

// === impl Metrics ===

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        // From 50 µs, a small cluster, to 3 s, beyond the scheduler's patience (httpTimeout 2 s).
        let buckets = prometheus::exponential_buckets(5e-5, 3.0, 11)?;
        let duration = HistogramOpts::new(
            "tensile_extender_duration_seconds",
            "Time to answer the scheduler.",
        );
        let errors = Opts::new(
            "tensile_extender_errors_total",
            "Requests that got an error for an answer.",
        );
        let metrics = Self {
            duration: HistogramVec::new(duration.buckets(buckets), &["verb"])?,
            errors: IntCounterVec::new(errors, &["verb"])?,
        };
        for verb in Verb::ALL {
            metrics.duration.with_label_values(&[verb.name()]);
            metrics.errors.with_label_values(&[verb.name()]);
        }
        registry.register(Box::new(metrics.duration.clone()))?;
        registry.register(Box::new(metrics.errors.clone()))?;
        Ok(metrics)
    }

    /// Registers the figure of how often lower schedulers took the nodes that were promised.
    ///
    /// # Errors
    /// When it is registered already.
    pub fn register_hints(registry: &Registry, shared: Shared) -> prometheus::Result<()> {
        let opts = Opts::new(
            "tensile_extender_hints",
            "Lower pods that took the node that was promised to them, or another one.",
        );
        let hints = IntGaugeVec::new(opts, &["outcome"])?;
        registry.register(Box::new(HintCollector { shared, hints }))
    }

    pub(crate) fn answered(&self, verb: Verb, seconds: f64, failed: bool) {
        self.duration.with_label_values(&[verb.name()]).observe(seconds);
        if failed {
            self.errors.with_label_values(&[verb.name()]).inc();
        }
    }
}

// === impl HintCollector ===

impl Collector for HintCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.hints.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let (mut kept, mut missed) = (0, 0);
        for (_, cluster) in self.shared.world().clusters() {
            let hints = cluster.model.hints();
            kept += hints.kept;
            missed += hints.missed;
        }
        for (outcome, count) in [("kept", kept), ("missed", missed)] {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            self.hints.with_label_values(&[outcome]).set(count);
        }
        self.hints.collect()
    }
}
