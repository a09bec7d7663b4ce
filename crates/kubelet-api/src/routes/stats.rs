//! `/stats/summary`: usage of the node and its pods as JSON.

use axum::extract::{RawQuery, State};
use axum::response::Response;
use http::StatusCode;

use super::{App, unavailable};
use crate::backend::Backend;
use crate::render::summary;
use crate::text::typed;

/// `only_cpu_and_memory` makes no difference here: nothing else is known.
pub(crate) async fn summary_of<B: Backend>(
    State(app): State<App<B>>,
    RawQuery(_query): RawQuery,
) -> Response {
    match app.backend.usage().await {
        Ok(usage) => {
            let summary = summary::render(app.backend.node_name(), &usage);
            typed(StatusCode::OK, "application/json", summary.to_string())
        }
        Err(error) => unavailable(&error),
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{mk_get, mk_node, send};

    #[tokio::test]
    async fn the_summary_names_the_node_and_its_pods() {
        let mut node = mk_node().await;
        for uri in [
            "/stats/summary",
            "/stats/summary?only_cpu_and_memory=true",
            "/stats",
            "/stats/",
        ] {
            let (status, body) = send(&node, mk_get(uri)).await;
            assert_eq!(status, 200, "{uri}");
            let summary: serde_json::Value = serde_json::from_str(&body).unwrap();
            assert_eq!(summary["node"]["nodeName"], "vn");
            assert_eq!(summary["pods"][0]["podRef"]["name"], "p");
        }
        node.break_backend();
        assert_eq!(
            send(&node, mk_get("/stats/summary")).await,
            (503, "not now".to_owned())
        );
    }
}
