//! `/run/{namespace}/{pod}[/{uid}]/{container}`: runs a command in a container and answers with all that it printed.

use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use form_urlencoded::{byte_serialize, parse};
use http::StatusCode;
use serde_json::Value;

use super::{App, ContainerPath, stream_refusal};
use crate::backend::{Backend, Target};
use crate::metrics::Kind;
use crate::text::{text, typed};
use crate::tunnel::printed::{self, Printed};

pub(crate) async fn run<B: Backend>(
    State(app): State<App<B>>,
    Path(path): Path<ContainerPath>,
    RawQuery(query): RawQuery,
) -> Response {
    let command = command(query.as_deref().unwrap_or_default());
    let (pod, container) = path.split();
    match app.backend.resolve(&pod, Some(&container)).await {
        Ok(target) => run_in(&app, &target, &container, &command).await,
        Err(error) => stream_refusal(&error, Kind::Exec, &pod, &container),
    }
}

async fn run_in<B: Backend>(app: &App<B>, target: &Target, container: &str, command: &str) -> Response {
    let path = format!("{}?{}", target.path("exec"), exec_query(container, command));
    let (stream, _held) = match app.streams.connect(Kind::Exec, target, &path).await {
        Ok(opened) => opened,
        Err(refusal) => return refusal,
    };
    match printed::read(stream).await {
        Ok(printed) => answer(command, printed),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
    }
}

/// The first `cmd`.
fn command(query: &str) -> String {
    let mut pairs = parse(query.as_bytes());
    let cmd = pairs.find(|(key, _)| key == "cmd");
    cmd.map(|(_, value)| value.into_owned()).unwrap_or_default()
}

/// The query of `pods/exec`. The words of the command are what is between single spaces, as a kubelet splits them.
fn exec_query(container: &str, command: &str) -> String {
    let mut query = String::from("container=");
    query.extend(byte_serialize(container.as_bytes()));
    query.push_str("&stdout=true&stderr=true");
    for word in command.split(' ') {
        query.push_str("&command=");
        query.extend(byte_serialize(word.as_bytes()));
    }
    query
}

/// Standard output and then standard error; of a command that failed, how.
fn answer(command: &str, printed: Printed) -> Response {
    let status: Value = serde_json::from_slice(&printed.status).unwrap_or_default();
    if status["status"] == "Success" {
        let body = [printed.out, printed.err].concat();
        return typed(StatusCode::OK, "application/json", body);
    }
    let causes = status["details"]["causes"].as_array();
    let mut causes = causes.into_iter().flatten();
    let message = match causes.find(|cause| cause["reason"] == "ExitCode") {
        Some(cause) => format!(
            "command '{command}' exited with {}: {}",
            cause["message"].as_str().unwrap_or_default(),
            String::from_utf8_lossy(&printed.err)
        ),
        None => match status["message"].as_str() {
            Some(message) => message.to_owned(),
            None => "the stream of the command broke off".to_owned(),
        },
    };
    text(StatusCode::INTERNAL_SERVER_ERROR, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{mk_node, mk_request, read, send};

    #[tokio::test]
    async fn a_bad_request_gets_the_answer_of_a_kubelet() {
        let cases = [
            ("/run/ns/gone/c?cmd=id", 404, "pod does not exist"),
            ("/run/ns/p/x?cmd=id", 500, "container not found (\"x\")"),
            ("/run/ns/p/uid-2/c?cmd=id", 500, "container not found (\"c\")"),
            ("/run/ns/down/c?cmd=id", 503, "cluster unreachable"),
        ];
        for (uri, status, body) in cases {
            let node = mk_node().await;
            let got = send(&node, mk_request("POST", uri)).await;
            assert_eq!(got, (status, body.to_owned()), "{uri}");
        }
    }

    #[tokio::test]
    async fn the_command_is_split_at_spaces_and_run_by_an_exec() {
        let mut node = mk_node().await;
        let uri = "/run/ns/p/uid-1/c?cmd=echo%20a%26b%20%20c&cmd=no";
        send(&node, mk_request("POST", uri)).await;
        assert_eq!(
            node.lower.recv().await.unwrap(),
            "GET /api/v1/namespaces/lower-ns/pods/lower-p/exec?container=c&stdout=true&stderr=true\
             &command=echo&command=a%26b&command=&command=c"
        );
    }

    #[tokio::test]
    async fn output_comes_back_and_a_failure_says_how() {
        let failed = r#"{"status":"Failure","reason":"NonZeroExitCode","message":"m",
            "details":{"causes":[{"reason":"ExitCode","message":"7"}]}}"#;
        for (status, wanted) in [
            (r#"{"metadata":{},"status":"Success"}"#, (200, "outerr")),
            (failed, (500, "command 'x y' exited with 7: err")),
            (
                r#"{"status":"Failure","message":"no such program"}"#,
                (500, "no such program"),
            ),
            ("", (500, "the stream of the command broke off")),
        ] {
            let printed = Printed {
                out: b"out".to_vec(),
                err: b"err".to_vec(),
                status: status.as_bytes().to_vec(),
            };
            let got = read(answer("x y", printed)).await;
            assert_eq!(got, (wanted.0, wanted.1.to_owned()), "{status}");
        }
    }
}
