//! `/pods`: the pods bound to the node, as a `v1.PodList`.

use axum::extract::State;
use axum::response::Response;
use http::StatusCode;
use serde_json::{Value, json};

use super::{App, unavailable};
use crate::backend::{Backend, Unavailable};
use crate::text::typed;

pub(crate) async fn get<B: Backend>(State(app): State<App<B>>) -> Response {
    list(app.backend.pods().await)
}

/// The list as a `v1.PodList`.
pub(super) fn list(pods: Result<Vec<Value>, Unavailable>) -> Response {
    match pods {
        Ok(items) => {
            let list = json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items});
            typed(StatusCode::OK, "application/json", list.to_string())
        }
        Err(error) => unavailable(&error),
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{mk_get, mk_node, send};
    use serde_json::{Value, json};

    #[tokio::test]
    async fn pods_are_a_list_with_and_without_the_final_slash() {
        for uri in ["/pods", "/pods/"] {
            let (status, body) = send(&mk_node().await, mk_get(uri)).await;
            let list: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(
                (status, &list["kind"], &list["apiVersion"]),
                (200, &json!("PodList"), &json!("v1")),
                "{uri}"
            );
            assert_eq!(list["items"], json!([{"metadata": {"name": "p"}}]), "{uri}");
        }
    }

    #[tokio::test]
    async fn a_list_that_is_not_known_is_an_error_and_not_an_empty_one() {
        let mut node = mk_node().await;
        node.break_backend();
        assert_eq!(send(&node, mk_get("/pods")).await, (503, "not now".to_owned()));
    }
}
