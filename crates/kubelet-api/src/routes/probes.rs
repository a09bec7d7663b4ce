//! `/metrics/probes`: nothing.

use axum::response::Response;

use crate::text::exposition;

/// Probes run where the pods run; there is nothing to count here.
pub(crate) async fn get() -> Response {
    exposition("")
}

#[cfg(test)]
mod tests {
    use crate::testing::{mk_get, mk_node, send};

    #[tokio::test]
    async fn there_is_nothing_to_see() {
        let answer = send(&mk_node().await, mk_get("/metrics/probes")).await;
        assert_eq!(answer, (200, String::new()));
    }
}
