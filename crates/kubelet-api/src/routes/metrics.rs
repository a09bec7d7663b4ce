//! `/metrics` and its parts: `resource` for metrics-server, `cadvisor`, `probes`, and our own counters.

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use prometheus::TextEncoder;

use super::{App, unavailable};
use crate::backend::Backend;
use crate::render::resource;
use crate::text::{text, typed};

/// The Prometheus text format.
const FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The registry that the library was given.
pub(crate) async fn own<B: Backend>(State(app): State<App<B>>) -> Response {
    match TextEncoder::new().encode_to_string(&app.metrics.registry().gather()) {
        Ok(body) => typed(StatusCode::OK, FORMAT, body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// Usage. When nothing is known, a scrape error in the text, as a kubelet says it.
pub(crate) async fn resource<B: Backend>(State(app): State<App<B>>) -> Response {
    let usage = app.backend.usage().await;
    if let Err(error) = &usage {
        tracing::debug!(node = app.backend.node_name(), %error, "no usage");
    }
    typed(StatusCode::OK, FORMAT, resource::render(usage.ok().as_ref()))
}

pub(crate) async fn cadvisor<B: Backend>(State(app): State<App<B>>) -> Response {
    match app.backend.cadvisor().await {
        Ok(body) => typed(StatusCode::OK, FORMAT, body),
        Err(error) => unavailable(&error),
    }
}

/// Probes run where the pods run; there is nothing to count here.
pub(crate) async fn probes() -> Response {
    typed(StatusCode::OK, FORMAT, "")
}

#[cfg(test)]
mod tests {
    use crate::testing::{mk_get, mk_node, send};

    #[tokio::test]
    async fn each_part_has_its_own_figures() {
        let node = mk_node().await;
        assert_eq!(send(&node, mk_get("/metrics/probes")).await, (200, String::new()));
        assert_eq!(
            send(&node, mk_get("/metrics/cadvisor")).await,
            (200, "container_up 1\n".to_owned())
        );
        let (status, body) = send(&node, mk_get("/metrics/resource")).await;
        assert_eq!(status, 200);
        assert!(body.contains("\nresource_scrape_error 0\n"), "{body}");
        let (status, body) = send(&node, mk_get("/metrics")).await;
        assert_eq!(status, 200);
        assert!(
            body.contains(r#"tensile_kubelet_requests_total{code="200",endpoint="metrics"} 3"#),
            "{body}"
        );
    }

    #[tokio::test]
    async fn missing_usage_is_a_scrape_error_and_no_failure() {
        let mut node = mk_node().await;
        node.break_backend();
        let (status, body) = send(&node, mk_get("/metrics/resource")).await;
        assert_eq!(status, 200);
        assert!(body.contains("\nresource_scrape_error 1\n"), "{body}");
        assert_eq!(send(&node, mk_get("/metrics/cadvisor")).await.0, 503);
    }
}
