//! `/portForward/{namespace}/{pod}[/{uid}]`: connections to ports of a pod.

use axum::extract::{Path, RawQuery, Request, State};
use axum::response::Response;

use super::{App, PodPath, StreamRequest};
use crate::backend::Backend;
use crate::metrics::Kind;
use crate::stream::port_forward_query;

pub(crate) async fn port_forward<B: Backend>(
    State(app): State<App<B>>,
    Path(path): Path<PodPath>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Response {
    let query = port_forward_query(request.headers(), query.as_deref().unwrap_or_default());
    let stream = StreamRequest {
        kind: Kind::PortForward,
        pod: path.into(),
        container: None,
        query,
    };
    app.stream(request, stream).await
}

#[cfg(test)]
mod tests {
    use crate::testing::{mk_node, mk_upgrade, send};

    #[tokio::test]
    async fn ports_reach_the_pods_cluster_in_its_form() {
        for (method, uri, wanted) in [
            (
                "POST",
                "/portForward/ns/p",
                "POST /api/v1/namespaces/lower-ns/pods/lower-p/portforward?",
            ),
            (
                "GET",
                "/portForward/ns/p/uid-1?port=80,81",
                "GET /api/v1/namespaces/lower-ns/pods/lower-p/portforward?ports=80&ports=81",
            ),
        ] {
            let mut node = mk_node().await;
            assert_eq!(send(&node, mk_upgrade(method, uri)).await.0, 101, "{uri}");
            assert_eq!(node.lower.recv().await.unwrap(), wanted);
        }
    }

    #[tokio::test]
    async fn a_port_forward_to_another_uid_or_without_a_valid_port_is_refused() {
        let node = mk_node().await;
        let wrong = send(&node, mk_upgrade("POST", "/portForward/ns/p/uid-2")).await;
        assert_eq!(wrong, (404, "pod not found".to_owned()));
        let zero = send(&node, mk_upgrade("GET", "/portForward/ns/p?port=0")).await;
        assert_eq!(zero, (400, "port \"0\" must be > 0".to_owned()));
    }
}
