//! Figures of the extender.

use prometheus::{HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry};

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

    pub(crate) fn answered(&self, verb: Verb, seconds: f64, failed: bool) {
        self.duration.with_label_values(&[verb.name()]).observe(seconds);
        if failed {
            self.errors.with_label_values(&[verb.name()]).inc();
        }
    }
}
