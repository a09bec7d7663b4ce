//! `/runningpods/`: the pods of the node that run now.

use axum::extract::State;
use axum::response::Response;

use super::{App, pods};
use crate::backend::Backend;

pub(crate) async fn get<B: Backend>(State(app): State<App<B>>) -> Response {
    pods::list(app.backend.running_pods().await)
}

#[cfg(test)]
mod tests {
    use crate::testing::{mk_get, mk_node, send};
    use serde_json::{Value, json};

    #[tokio::test]
    async fn only_what_runs_is_shown() {
        let mut node = mk_node().await;
        for uri in ["/runningpods/", "/runningpods"] {
            let (status, body) = send(&node, mk_get(uri)).await;
            let list: Value = serde_json::from_str(&body).unwrap();
            assert_eq!((status, &list["kind"]), (200, &json!("PodList")), "{uri}");
            assert_eq!(list["items"], json!([{"metadata": {"name": "running"}}]), "{uri}");
        }
        node.break_backend();
        let broken = send(&node, mk_get("/runningpods/")).await;
        assert_eq!(broken, (503, "not now".to_owned()));
    }
}
