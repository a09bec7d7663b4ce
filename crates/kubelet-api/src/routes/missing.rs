//! What this node does not serve, in a kubelet's words.

use axum::response::Response;
use http::{StatusCode, Uri};

use crate::text::text;

/// Below these a kubelet has a router of its own, with words of its own.
const ROUTERS: [&str; 9] = [
    "pods",
    "runningpods",
    "stats",
    "containerLogs",
    "exec",
    "attach",
    "portForward",
    "run",
    "logs",
];

/// No such path.
pub(crate) async fn not_found(uri: Uri) -> Response {
    let first = uri.path().split('/').nth(1).unwrap_or_default();
    let message = if ROUTERS.contains(&first) {
        "404: Page Not Found"
    } else {
        "404 page not found\n"
    };
    text(StatusCode::NOT_FOUND, message)
}

/// The path does not have this method. The router adds `Allow`.
pub(crate) async fn wrong_method() -> Response {
    text(StatusCode::METHOD_NOT_ALLOWED, "405: Method Not Allowed")
}

/// `/logs`: there are no files of the node.
pub(crate) async fn logs() -> Response {
    disabled("logs endpoint is disabled.\n")
}

/// `/debug/pprof`.
pub(crate) async fn profiling() -> Response {
    disabled("profiling endpoint is disabled.\n")
}

/// `/debug/flags/v`.
pub(crate) async fn flags() -> Response {
    disabled("flags endpoint is disabled.\n")
}

fn disabled(message: &'static str) -> Response {
    text(StatusCode::METHOD_NOT_ALLOWED, message)
}

#[cfg(test)]
mod tests {
    use crate::testing::{mk_get, mk_node, mk_request, send};

    #[tokio::test]
    async fn what_is_not_served_says_so_as_a_kubelet_does() {
        let node = mk_node().await;
        let cases = [
            ("GET", "/", 404, "404 page not found\n"),
            ("GET", "/nothing", 404, "404 page not found\n"),
            ("GET", "/pods/x", 404, "404: Page Not Found"),
            ("POST", "/checkpoint/ns/p/c", 404, "404 page not found\n"),
            ("POST", "/pods", 405, "405: Method Not Allowed"),
            ("DELETE", "/containerLogs/ns/p/c", 405, "405: Method Not Allowed"),
            ("PUT", "/exec/ns/p/c?output=1", 405, "405: Method Not Allowed"),
            ("GET", "/run/ns/p/c?cmd=id", 405, "405: Method Not Allowed"),
            ("GET", "/logs/", 405, "logs endpoint is disabled.\n"),
            ("GET", "/logs/syslog/1", 405, "logs endpoint is disabled.\n"),
            (
                "GET",
                "/debug/pprof/heap",
                405,
                "profiling endpoint is disabled.\n",
            ),
            ("PUT", "/debug/flags/v", 405, "flags endpoint is disabled.\n"),
        ];
        for (method, uri, status, body) in cases {
            assert_eq!(
                send(&node, mk_request(method, uri)).await,
                (status, body.to_owned()),
                "{method} {uri}"
            );
        }
    }

    #[tokio::test]
    async fn a_wrong_method_is_told_the_right_one() {
        let node = mk_node().await;
        let response = node.answer(mk_request("POST", "/pods")).await;
        assert!(response.headers()["allow"].to_str().unwrap().contains("GET"));
        assert_eq!(
            node.answer(mk_get("/pods")).await.headers()["content-type"],
            "application/json"
        );
    }
}
