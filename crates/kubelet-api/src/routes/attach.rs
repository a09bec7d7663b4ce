//! `/attach/{namespace}/{pod}[/{uid}]/{container}`: the streams of a container's main process.

use axum::extract::{Path, RawQuery, Request, State};
use axum::response::Response;

use super::{App, ContainerPath};
use crate::backend::Backend;
use crate::metrics::Kind;
use crate::stream::attach_query;

pub(crate) async fn attach<B: Backend>(
    State(app): State<App<B>>,
    Path(path): Path<ContainerPath>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Response {
    let query = attach_query(&path.container, query.as_deref().unwrap_or_default());
    app.stream(request, path.stream(Kind::Attach, query)).await
}

#[cfg(test)]
mod tests {
    use crate::testing::{mk_node, mk_upgrade, send};

    #[tokio::test]
    async fn an_attach_reaches_the_pods_cluster_without_a_command() {
        for uri in [
            "/attach/ns/p/c?output=1&command=x",
            "/attach/ns/p/uid-1/c?output=1&command=x",
        ] {
            let mut node = mk_node().await;
            assert_eq!(send(&node, mk_upgrade("GET", uri)).await.0, 101);
            assert_eq!(
                node.lower.recv().await.unwrap(),
                "GET /api/v1/namespaces/lower-ns/pods/lower-p/attach\
                 ?container=c&stdin=false&stdout=true&stderr=false&tty=false"
            );
        }
    }

    #[tokio::test]
    async fn an_attach_without_streams_or_to_another_uid_is_refused() {
        let node = mk_node().await;
        assert_eq!(send(&node, mk_upgrade("POST", "/attach/ns/p/c")).await.0, 400);
        let wrong = send(&node, mk_upgrade("POST", "/attach/ns/p/uid-2/c?output=1")).await;
        assert_eq!(wrong, (500, "container c not found in pod p_ns".to_owned()));
    }
}
