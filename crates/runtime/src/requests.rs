//! Counts the requests to a cluster, by what they do and how they are answered.

use http::{Method, Request};
use prometheus::{IntCounterVec, Opts, Registry};

/// Requests of one user of a cluster; clones share the counters.
#[derive(Clone, Debug)]
pub struct Requests {
    counters: IntCounterVec,
    side: &'static str,
}

// === impl Requests ===

impl Requests {
    /// Registers the counters, for the upper cluster and the lower one.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn register(registry: &Registry) -> prometheus::Result<[Self; 2]> {
        let opts = Opts::new(
            "tensile_api_requests_total",
            "Requests to the upper and the lower API server, by verb and answer.",
        );
        let counters = IntCounterVec::new(opts, &["side", "verb", "answer"])?;
        registry.register(Box::new(counters.clone()))?;
        Ok(["upper", "lower"].map(|side| Self {
            counters: counters.clone(),
            side,
        }))
    }

    /// Counts a request; `status` is that of the answer, if there was one.
    pub(crate) fn count(&self, verb: &'static str, status: Option<u16>) {
        self.counters
            .with_label_values(&[self.side, verb, answer(status)])
            .inc();
    }
}

/// What a request does: the API's verb, lists being reads.
pub(crate) fn verb<B>(request: &Request<B>) -> &'static str {
    let is_watch = |query: &str| {
        query
            .split('&')
            .any(|pair| matches!(pair, "watch=true" | "watch=1"))
    };
    match *request.method() {
        Method::GET if request.uri().query().is_some_and(is_watch) => "watch",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

fn answer(status: Option<u16>) -> &'static str {
    match status {
        None => "none",
        Some(409) => "409",
        Some(429) => "429",
        Some(..=399) => "ok",
        Some(400..=499) => "4xx",
        Some(_) => "5xx",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_and_answers_are_few() {
        for (method, uri, expected) in [
            ("GET", "/api/v1/pods", "get"),
            ("GET", "/api/v1/pods?limit=1", "get"),
            ("GET", "/api/v1/pods?limit=1&watch=true", "watch"),
            ("POST", "/api/v1/pods", "create"),
            ("PUT", "/api/v1/pods/a", "update"),
            ("PATCH", "/api/v1/pods/a", "patch"),
            ("DELETE", "/api/v1/pods/a", "delete"),
        ] {
            let request = Request::builder().method(method).uri(uri).body(()).unwrap();
            assert_eq!(verb(&request), expected, "{method} {uri}");
        }
        for (status, expected) in [
            (None, "none"),
            (Some(201), "ok"),
            (Some(404), "4xx"),
            (Some(409), "409"),
            (Some(429), "429"),
            (Some(504), "5xx"),
        ] {
            assert_eq!(answer(status), expected, "{status:?}");
        }
    }
}
