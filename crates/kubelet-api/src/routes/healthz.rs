//! `/healthz` and its parts `ping`, `log`, `syncloop`.

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;

use super::App;
use crate::backend::Backend;
use crate::text::text;

/// Answers as long as the process does.
pub(crate) async fn ping() -> Response {
    text(StatusCode::OK, "ok")
}

/// Asks the backend. Why it fails is for the log, not for callers, as in a kubelet.
pub(crate) async fn health<B: Backend>(State(app): State<App<B>>) -> Response {
    match app.backend.healthz() {
        Ok(()) => text(StatusCode::OK, "ok"),
        Err(reason) => {
            tracing::warn!(node = app.backend.node_name(), reason, "not healthy");
            text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "[-]syncloop failed: reason withheld\nhealthz check failed\n",
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{mk_get, mk_node, send};

    #[tokio::test]
    async fn a_node_is_healthy_when_its_backend_is() {
        let mut node = mk_node().await;
        let paths = ["/healthz", "/healthz/syncloop", "/healthz/ping", "/healthz/log"];
        for path in paths {
            assert_eq!(send(&node, mk_get(path)).await, (200, "ok".to_owned()), "{path}");
        }
        node.break_backend();
        for (path, status) in paths.into_iter().zip([500, 500, 200, 200]) {
            let (got, body) = send(&node, mk_get(path)).await;
            assert_eq!(got, status, "{path}");
            assert!(!body.contains("engine"), "the reason is withheld: {body}");
        }
    }
}
