//! Counts of connections, for the registry that the caller brings.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Connection metrics of one kind of server. Clones share the counts, so several listeners can use one.
#[derive(Clone, Debug)]
pub struct Metrics {
    open: IntGauge,
    accepted: IntCounter,
    failures: IntCounterVec,
}

/// Why a connection never served, or stopped serving.
#[derive(Clone, Copy, Debug)]
pub(super) enum Failure {
    Accept,
    /// Its address had too many.
    Crowded,
    Handshake,
    HandshakeTimeout,
    Http,
}

/// Counts a connection as open while it lives.
#[derive(Debug)]
pub(super) struct Open(IntGauge);

// === impl Metrics ===

impl Metrics {
    /// Metrics with the label `server="<server>"`, in `registry`.
    ///
    /// # Errors
    /// When the registry has them already.
    pub fn register(registry: &Registry, server: &'static str) -> Result<Self, prometheus::Error> {
        let opts = |name: &str, help: &str| {
            Opts::new(format!("tensile_server_{name}"), help).const_label("server", server)
        };
        let metrics = Self {
            open: IntGauge::with_opts(opts(
                "connections",
                "Connections open now, upgraded streams included.",
            ))?,
            accepted: IntCounter::with_opts(opts("connections_accepted_total", "Connections accepted."))?,
            failures: IntCounterVec::new(
                opts(
                    "connection_failures_total",
                    "Connections that ended with an error, by reason.",
                ),
                &["reason"],
            )?,
        };
        registry.register(Box::new(metrics.open.clone()))?;
        registry.register(Box::new(metrics.accepted.clone()))?;
        registry.register(Box::new(metrics.failures.clone()))?;
        Ok(metrics)
    }

    /// Connections open now.
    #[must_use]
    pub fn open_connections(&self) -> i64 {
        self.open.get()
    }

    pub(super) fn open(&self) -> Open {
        self.accepted.inc();
        self.open.inc();
        Open(self.open.clone())
    }

    pub(super) fn failed(&self, failure: Failure) {
        self.failures.with_label_values(&[failure.label()]).inc();
    }
}

// === impl Failure ===

impl Failure {
    fn label(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Crowded => "crowded",
            Self::Handshake => "handshake",
            Self::HandshakeTimeout => "handshake_timeout",
            Self::Http => "http",
        }
    }
}

// === impl Open ===

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}
