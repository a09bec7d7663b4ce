//! `/configz`: the configuration, in the form that Kubernetes' own tests read.

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::json;

use super::App;
use crate::backend::Backend;
use crate::text::typed;

pub(crate) async fn get<B: Backend>(State(app): State<App<B>>) -> Response {
    let config = json!({"kubeletconfig": app.backend.configz()});
    typed(StatusCode::OK, "application/json", config.to_string())
}

#[cfg(test)]
mod tests {
    use crate::testing::{mk_get, mk_node, send};

    #[tokio::test]
    async fn the_configuration_is_a_kubelets() {
        let (status, body) = send(&mk_node().await, mk_get("/configz")).await;
        let config: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(status, 200);
        assert_eq!(config["kubeletconfig"]["kind"], "KubeletConfiguration");
        assert_eq!(
            config["kubeletconfig"]["authentication"]["anonymous"]["enabled"],
            false
        );
    }
}
