//! `/metrics/cadvisor`: what the backend knows of containers in cAdvisor's words.

use axum::extract::State;
use axum::response::Response;

use super::{App, unavailable};
use crate::backend::Backend;
use crate::text::exposition;

pub(crate) async fn get<B: Backend>(State(app): State<App<B>>) -> Response {
    match app.backend.cadvisor().await {
        Ok(body) => exposition(body),
        Err(error) => unavailable(&error),
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{mk_get, mk_node, send};

    #[tokio::test]
    async fn the_backends_text_is_shown_or_it_is_unavailable() {
        let mut node = mk_node().await;
        let shown = send(&node, mk_get("/metrics/cadvisor")).await;
        assert_eq!(shown, (200, "container_up 1\n".to_owned()));
        node.break_backend();
        let broken = send(&node, mk_get("/metrics/cadvisor")).await;
        assert_eq!(broken, (503, "not now".to_owned()));
    }
}
