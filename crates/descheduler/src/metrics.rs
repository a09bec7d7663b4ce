//! Figures of the descheduler.

use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

use crate::plan::Plan;

/// Metrics of rounds and evictions. Clones share the figures.
#[derive(Clone, Debug)]
pub struct Metrics {
    evictions: IntCounterVec,
    staying: IntGaugeVec,
    rounds: Histogram,
    avoidances: IntGauge,
}

// === impl Metrics ===

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        // From 1 ms, hardly any pods, to 30 s, beyond what a hundred thousand pods take.
        let buckets = prometheus::exponential_buckets(1e-3, 3.0, 10)?;
        let rounds = HistogramOpts::new(
            "tensile_descheduler_round_duration_seconds",
            "Time of a round, evictions included.",
        );
        let evictions = Opts::new(
            "tensile_descheduler_evictions_total",
            "Planned evictions by what became of them.",
        );
        let staying = Opts::new(
            "tensile_descheduler_staying_pods",
            "Pods that a strategy would have moved in the last round, by what kept it from it.",
        );
        let metrics = Self {
            evictions: IntCounterVec::new(evictions, &["strategy", "result"])?,
            staying: IntGaugeVec::new(staying, &["strategy", "kind"])?,
            rounds: Histogram::with_opts(rounds.buckets(buckets))?,
            avoidances: IntGauge::new(
                "tensile_descheduler_avoidances",
                "Pairs of an owner and a virtual node that its pods avoid.",
            )?,
        };
        registry.register(Box::new(metrics.evictions.clone()))?;
        registry.register(Box::new(metrics.staying.clone()))?;
        registry.register(Box::new(metrics.rounds.clone()))?;
        registry.register(Box::new(metrics.avoidances.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn evicted(&self, strategy: &str, result: &str) {
        self.evictions.with_label_values(&[strategy, result]).inc();
    }

    pub(crate) fn round(&self, seconds: f64, plan: &Plan, avoidances: usize) {
        self.rounds.observe(seconds);
        self.avoidances.set(i64::try_from(avoidances).unwrap_or(i64::MAX));
        self.staying.reset();
        for stay in &plan.stays {
            self.staying.with_label_values(&[stay.strategy, stay.kind]).inc();
        }
    }
}
