//! `/metrics`: our own counters.

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use prometheus::TextEncoder;

use super::App;
use crate::backend::Backend;
use crate::text::{exposition, text};

/// The registry that the library was given.
pub(crate) async fn get<B: Backend>(State(app): State<App<B>>) -> Response {
    match TextEncoder::new().encode_to_string(&app.metrics.registry().gather()) {
        Ok(body) => exposition(body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{mk_get, mk_node, send};

    #[tokio::test]
    async fn requests_are_counted_by_endpoint() {
        let node = mk_node().await;
        for path in ["/metrics/probes", "/metrics/cadvisor", "/metrics/resource"] {
            assert_eq!(send(&node, mk_get(path)).await.0, 200, "{path}");
        }
        let (status, body) = send(&node, mk_get("/metrics")).await;
        assert_eq!(status, 200);
        assert!(
            body.contains(r#"tensile_kubelet_requests_total{code="200",endpoint="metrics"} 3"#),
            "{body}"
        );
    }
}
