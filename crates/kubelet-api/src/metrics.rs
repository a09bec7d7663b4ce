//! Counters of the kubelet API, in the registry that the caller brings. Labels come from closed sets only.

use http::StatusCode;
use prometheus::{IntCounter, IntCounterVec, IntGaugeVec, Opts, Registry};

/// Metrics of the kubelet API. Clones share the counts.
#[derive(Clone, Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    reviews_failed: IntCounterVec,
    streams: IntGaugeVec,
    streams_total: IntCounterVec,
    stream_bytes: IntCounterVec,
}

/// Which review.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Review {
    Token,
    Access,
}

/// Which kind of stream.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    Exec,
    Attach,
    PortForward,
}

/// How a stream began.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Outcome {
    /// Switched protocols.
    Open,
    /// The other API server said no, or something that is no answer.
    Refused,
    /// The other API server could not be reached in time.
    Unreachable,
    /// Too many streams are open.
    TooMany,
}

/// Counters of one open stream; counts it as open while it lives.
#[derive(Debug)]
pub(crate) struct OpenStream {
    open: prometheus::IntGauge,
    /// Bytes towards the pod.
    pub(crate) to_pod: IntCounter,
    /// Bytes from the pod.
    pub(crate) from_pod: IntCounter,
}

// === impl Metrics ===

impl Metrics {
    /// Metrics in `registry`, which is also what `/metrics` shows.
    ///
    /// # Errors
    /// When the registry has them already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let counters = |name: &str, help: &str, labels: &[&str]| {
            let counters = IntCounterVec::new(Opts::new(format!("tensile_kubelet_{name}"), help), labels)?;
            registry.register(Box::new(counters.clone()))?;
            Ok::<_, prometheus::Error>(counters)
        };
        let streams = IntGaugeVec::new(
            Opts::new("tensile_kubelet_streams", "Upgraded streams open now, by kind."),
            &["kind"],
        )?;
        for kind in [Kind::Exec, Kind::Attach, Kind::PortForward] {
            streams.with_label_values(&[kind.label()]);
        }
        registry.register(Box::new(streams.clone()))?;
        Ok(Self {
            registry: registry.clone(),
            requests: counters(
                "requests_total",
                "Requests answered, by endpoint and status code.",
                &["endpoint", "code"],
            )?,
            reviews_failed: counters(
                "review_failures_total",
                "Token and access reviews that failed; each refused a request.",
                &["review"],
            )?,
            streams,
            streams_total: counters(
                "streams_total",
                "Streams asked for, by kind and how they began.",
                &["kind", "outcome"],
            )?,
            stream_bytes: counters(
                "stream_bytes_total",
                "Bytes tunnelled, by kind and direction.",
                &["kind", "direction"],
            )?,
        })
    }

    /// The registry that `/metrics` shows.
    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    pub(crate) fn answered(&self, path: &str, status: StatusCode) {
        self.requests
            .with_label_values(&[endpoint(path), status.as_str()])
            .inc();
    }

    pub(crate) fn review_failed(&self, review: Review) {
        let label = match review {
            Review::Token => "token",
            Review::Access => "access",
        };
        self.reviews_failed.with_label_values(&[label]).inc();
    }

    pub(crate) fn stream(&self, kind: Kind, outcome: Outcome) {
        self.streams_total
            .with_label_values(&[kind.label(), outcome.label()])
            .inc();
    }

    pub(crate) fn open_stream(&self, kind: Kind) -> OpenStream {
        let open = self.streams.with_label_values(&[kind.label()]);
        open.inc();
        OpenStream {
            open,
            to_pod: self.stream_bytes.with_label_values(&[kind.label(), "to_pod"]),
            from_pod: self.stream_bytes.with_label_values(&[kind.label(), "from_pod"]),
        }
    }

    #[cfg(test)]
    pub(crate) fn text(&self) -> String {
        prometheus::TextEncoder::new()
            .encode_to_string(&self.registry.gather())
            .unwrap()
    }
}

/// The endpoint that a path belongs to, from a closed set.
fn endpoint(path: &str) -> &'static str {
    const ENDPOINTS: [&str; 12] = [
        "healthz",
        "pods",
        "runningpods",
        "containerLogs",
        "exec",
        "attach",
        "portForward",
        "run",
        "stats",
        "metrics",
        "configz",
        "logs",
    ];
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    ENDPOINTS
        .into_iter()
        .find(|endpoint| *endpoint == first)
        .unwrap_or("other")
}

// === impl Kind ===

impl Kind {
    /// The pod's subresource on the API server behind the node.
    pub(crate) fn subresource(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
        }
    }

    fn label(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "port_forward",
        }
    }
}

// === impl Outcome ===

impl Outcome {
    fn label(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::TooMany => "too_many",
        }
    }
}

// === impl OpenStream ===

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.open.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_paths_share_one_label() {
        for (path, wanted) in [
            ("/exec/a/b/c", "exec"),
            ("/pods", "pods"),
            ("/a-made-up-path", "other"),
            ("", "other"),
            ("/", "other"),
        ] {
            assert_eq!(endpoint(path), wanted, "{path}");
        }
    }
}
