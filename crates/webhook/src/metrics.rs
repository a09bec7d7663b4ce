//! Figures of the webhook.

use std::sync::Arc;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Histogram, HistogramOpts, IntCounterVec, IntGauge, Opts, Registry};
use tensile_runtime::tls::ServingCert;

use crate::mutate::Outcome;

/// Label value for bodies that are no reviews.
const MALFORMED: &str = "malformed";

/// Metrics of reviews. Clones share the figures.
#[derive(Clone, Debug)]
pub struct Metrics {
    reviews: IntCounterVec,
    duration: Histogram,
}

// === impl Metrics ===

impl Metrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let reviews = Opts::new("tensile_webhook_reviews_total", "Admission reviews by outcome.");
        // From 10 µs, less than a review takes, to 10 s, when the API server gives up.
        let buckets = prometheus::exponential_buckets(1e-5, 4.0, 11)?;
        let duration = HistogramOpts::new(
            "tensile_webhook_review_duration_seconds",
            "Time to decide about a review, from its last byte to the answer.",
        );
        let metrics = Self {
            reviews: IntCounterVec::new(reviews, &["outcome"])?,
            duration: Histogram::with_opts(duration.buckets(buckets))?,
        };
        for outcome in Outcome::ALL.map(Outcome::label).into_iter().chain([MALFORMED]) {
            metrics.reviews.with_label_values(&[outcome]);
        }
        registry.register(Box::new(metrics.reviews.clone()))?;
        registry.register(Box::new(metrics.duration.clone()))?;
        Ok(metrics)
    }

    pub(crate) fn decided(&self, outcome: Option<Outcome>, seconds: f64) {
        self.reviews
            .with_label_values(&[outcome.map_or(MALFORMED, Outcome::label)])
            .inc();
        self.duration.observe(seconds);
    }
}

/// When the served certificate ends, read at scrape time.
#[derive(Debug)]
pub struct CertificateEnd {
    gauge: IntGauge,
    serving: Arc<ServingCert>,
}

// === impl CertificateEnd ===

impl CertificateEnd {
    /// The end of what `serving` hands out.
    ///
    /// # Errors
    /// Never in practice: the name is a valid one.
    pub fn new(serving: Arc<ServingCert>) -> prometheus::Result<Self> {
        let gauge = IntGauge::new(
            "tensile_webhook_certificate_end_seconds",
            "End of the served certificate, in seconds since 1970; 0 without one.",
        )?;
        Ok(Self { gauge, serving })
    }
}

impl Collector for CertificateEnd {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauge.set(self.serving.not_after().unwrap_or(0));
        self.gauge.collect()
    }
}
