//! `/containerLogs/{namespace}/{pod}/{container}`: a container's log, streamed from the pod's cluster.

use axum::body::Body;
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use http::header::{ACCEPT_ENCODING, HeaderValue};
use http::{Request, StatusCode};

use super::{App, ContainerPath};
use crate::answer;
use crate::backend::{Backend, ResolveError, Target};
use crate::log_options::{LogOptions, LogOptionsError};
use crate::text::text;

pub(crate) async fn get<B: Backend>(
    State(app): State<App<B>>,
    Path(path): Path<ContainerPath>,
    RawQuery(query): RawQuery,
) -> Response {
    let options = match LogOptions::of(query.as_deref().unwrap_or_default()) {
        Ok(options) => options,
        Err(error) => return text(status(error), error.to_string()),
    };
    let (pod, container) = path.split();
    match app.backend.resolve(&pod, Some(&container)).await {
        Ok(target) => proxy(&target, &options.to_query(&container)).await,
        Err(error) => refusal(&error, &pod.name, &container),
    }
}

fn status(error: LogOptionsError) -> StatusCode {
    match error {
        LogOptionsError::Undecodable => StatusCode::BAD_REQUEST,
        LogOptionsError::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
    }
}

/// What a kubelet answers when there is no log to read.
fn refusal(error: &ResolveError, pod: &str, container: &str) -> Response {
    match error {
        ResolveError::NoPod | ResolveError::WrongUid => {
            text(StatusCode::NOT_FOUND, format!("pod {pod:?} does not exist"))
        }
        ResolveError::NoContainer => text(
            StatusCode::NOT_FOUND,
            format!("container {container:?} not found in pod {pod:?}"),
        ),
        ResolveError::NotStarted(_) => text(StatusCode::BAD_REQUEST, error.to_string()),
        ResolveError::Unavailable(_) => text(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

/// Streams the log; each piece goes out as it comes in. There is no deadline for the head: a kubelet sends none until
/// the first line of a followed log. A caller that leaves ends the request below with it.
async fn proxy(target: &Target, query: &str) -> Response {
    let request = Request::get(format!("{}?{query}", target.path("log")))
        // A compressor in between would hold lines back.
        .header(ACCEPT_ENCODING, HeaderValue::from_static("identity"))
        .body(kube::client::Body::empty());
    let request = match request {
        Ok(request) => request,
        Err(error) => return text(StatusCode::BAD_REQUEST, error.to_string()),
    };
    match target.client.send(request).await {
        Ok(response) if response.status() == StatusCode::OK => {
            text(StatusCode::OK, Body::new(response.into_body()))
        }
        Ok(response) => answer::relay_error(response).await,
        Err(error) => text(
            StatusCode::BAD_GATEWAY,
            format!("the pod's cluster cannot be reached: {error}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use crate::testing::{Lower, mk_get, mk_node, mk_node_with, send};
    use http_body_util::BodyExt as _;

    #[tokio::test]
    async fn a_bad_request_gets_the_answer_of_a_kubelet() {
        let cases = [
            ("/containerLogs/ns/p/c", 200, "log of the container"),
            (
                "/containerLogs/ns/p/c?tailLines=x",
                400,
                r#"{"message": "Unable to decode query."}"#,
            ),
            (
                "/containerLogs/ns/p/c?tailLines=-1",
                422,
                r#"{"message": "Invalid request."}"#,
            ),
            ("/containerLogs/ns/gone/c", 404, "pod \"gone\" does not exist"),
            (
                "/containerLogs/ns/p/x",
                404,
                "container \"x\" not found in pod \"p\"",
            ),
            (
                "/containerLogs/ns/starting/c",
                400,
                "container \"c\" in pod \"starting\" is waiting to start: ContainerCreating",
            ),
            ("/containerLogs/ns/down/c", 503, "cluster unreachable"),
            ("/containerLogs/ns/p", 404, "404: Page Not Found"),
        ];
        for (uri, status, body) in cases {
            assert_eq!(
                send(&mk_node().await, mk_get(uri)).await,
                (status, body.to_owned()),
                "{uri}"
            );
        }
    }

    #[tokio::test]
    async fn options_reach_the_pods_cluster() {
        let mut node = mk_node().await;
        let uri = "/containerLogs/ns/p/c?follow=true&tailLines=5&timestamps=true";
        assert_eq!(send(&node, mk_get(uri)).await.0, 200);
        assert_eq!(
            node.lower.recv().await.unwrap(),
            "GET /api/v1/namespaces/lower-ns/pods/lower-p/log?container=c&follow=true&timestamps=true&tailLines=5"
        );
    }

    #[tokio::test]
    async fn an_error_of_the_pods_cluster_comes_back_as_text_with_its_code() {
        let status = r#"{"kind":"Status","message":"previous terminated container not found","code":400}"#;
        let node = mk_node_with(Lower::Answers(400, status)).await;
        let answer = send(&node, mk_get("/containerLogs/ns/p/c?previous=true")).await;
        assert_eq!(
            answer,
            (400, "previous terminated container not found".to_owned())
        );
    }

    #[tokio::test]
    async fn that_our_credentials_are_refused_is_no_word_about_the_callers() {
        let status = r#"{"kind":"Status","message":"Unauthorized","code":401}"#;
        let node = mk_node_with(Lower::Answers(401, status)).await;
        let (code, text) = send(&node, mk_get("/containerLogs/ns/p/c")).await;
        assert_eq!(code, 502);
        assert!(text.ends_with("this node's credentials: Unauthorized"), "{text}");
    }

    #[tokio::test]
    async fn each_piece_of_a_followed_log_goes_out_as_it_comes() {
        let (pieces, body) = tokio::sync::mpsc::unbounded_channel();
        let node = mk_node_with(Lower::streams(body)).await;
        pieces.send("one\n").unwrap();
        let mut response = node.answer(mk_get("/containerLogs/ns/p/c?follow=true")).await;
        for piece in ["one\n", "two\n"] {
            let frame = response.body_mut().frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), piece);
            // Only now is there a second one.
            let _ = pieces.send("two\n");
        }
        drop(response);
        pieces.closed().await;
    }
}
