//! `/exec/{namespace}/{pod}[/{uid}]/{container}`: run a command in a container.

use axum::extract::{Path, RawQuery, Request, State};
use axum::response::Response;

use super::{App, ContainerPath};
use crate::backend::Backend;
use crate::metrics::Kind;
use crate::stream::exec_query;

pub(crate) async fn exec<B: Backend>(
    State(app): State<App<B>>,
    Path(path): Path<ContainerPath>,
    RawQuery(query): RawQuery,
    request: Request,
) -> Response {
    let query = exec_query(&path.container, query.as_deref().unwrap_or_default());
    app.stream(request, path.stream(Kind::Exec, query)).await
}

#[cfg(test)]
mod tests {
    use crate::testing::{mk_node, mk_upgrade, send};

    #[tokio::test]
    async fn a_bad_request_gets_the_answer_of_a_kubelet() {
        let cases = [
            ("/exec/ns/p/c?output=1", 101, ""),
            ("/exec/ns/p/uid-1/c?output=1", 101, ""),
            (
                "/exec/ns/p/c",
                400,
                "you must specify at least 1 of stdin, stdout, stderr",
            ),
            ("/exec/ns/gone/c?output=1", 404, "pod does not exist"),
            ("/exec/other/p/c?output=1", 404, "pod does not exist"),
            ("/exec/ns/p/uid-2/c?output=1", 500, "container not found (\"c\")"),
            ("/exec/ns/p/x?output=1", 500, "container not found (\"x\")"),
            ("/exec/ns/down/c?output=1", 503, "cluster unreachable"),
            (
                "/exec/ns/starting/c?output=1",
                500,
                "container \"c\" in pod \"starting\" is waiting to start: ContainerCreating",
            ),
            ("/exec/ns/p", 404, "404: Page Not Found"),
        ];
        for (uri, status, body) in cases {
            for method in ["POST", "GET"] {
                let node = mk_node().await;
                assert_eq!(
                    send(&node, mk_upgrade(method, uri)).await,
                    (status, body.to_owned()),
                    "{method} {uri}"
                );
            }
        }
    }

    #[tokio::test]
    async fn the_command_reaches_the_pods_cluster_under_its_name_there() {
        let mut node = mk_node().await;
        let uri = "/exec/ns/p/c?command=sh&command=-c&command=a%20b&input=1&output=1&error=1&tty=1";
        assert_eq!(send(&node, mk_upgrade("POST", uri)).await.0, 101);
        assert_eq!(
            node.lower.recv().await.unwrap(),
            "POST /api/v1/namespaces/lower-ns/pods/lower-p/exec\
             ?container=c&stdin=true&stdout=true&stderr=false&tty=true&command=sh&command=-c&command=a%20b"
        );
    }

    #[tokio::test]
    async fn a_request_that_is_no_upgrade_is_refused() {
        let node = mk_node().await;
        let mut request = mk_upgrade("POST", "/exec/ns/p/c?output=1");
        request.headers_mut().remove("upgrade");
        assert_eq!(
            send(&node, request).await,
            (500, "Upgrade request required\n".to_owned())
        );
    }
}
