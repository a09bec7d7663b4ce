//! `/metrics/resource`: CPU and memory of the node and its pods, for metrics-server.

use axum::extract::State;
use axum::response::Response;

use super::App;
use crate::backend::Backend;
use crate::render::resource;
use crate::text::exposition;

/// When nothing is known, a scrape error in the text, as a kubelet says it.
pub(crate) async fn get<B: Backend>(State(app): State<App<B>>) -> Response {
    let usage = app.backend.usage().await;
    if let Err(error) = &usage {
        tracing::debug!(node = app.backend.node_name(), %error, "no usage");
    }
    exposition(resource::render(usage.ok().as_ref()))
}

#[cfg(test)]
mod tests {
    use crate::testing::{mk_get, mk_node, send};

    #[tokio::test]
    async fn missing_usage_is_a_scrape_error_and_no_failure() {
        let mut node = mk_node().await;
        for error in [0, 1] {
            let (status, body) = send(&node, mk_get("/metrics/resource")).await;
            assert_eq!(status, 200);
            assert!(
                body.contains(&format!("\nresource_scrape_error {error}\n")),
                "{body}"
            );
            node.break_backend();
        }
    }
}
