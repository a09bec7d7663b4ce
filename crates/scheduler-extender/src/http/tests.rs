use std::sync::Arc;

use axum::body::Body;
use axum::http::{Method, Request};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use prometheus::Registry;
use serde_json::{Value, json};
use tower::{ServiceExt, service_fn};

use super::*;
use crate::testing::{mk_pod, mk_world};

/// What the upper API server was asked.
type Asked = Arc<Mutex<Vec<(Method, String, Value)>>>;

/// An upper API server that knows the pods p and q of the namespace ns, and answers bindings with `status`.
fn mk_upper(status: StatusCode) -> (Client, Asked) {
    let asked = Asked::default();
    let seen = asked.clone();
    let service = service_fn(move |request: Request<kube::client::Body>| {
        let seen = seen.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await?.to_bytes();
            let sent = serde_json::from_slice(&body).unwrap_or_default();
            seen.lock()
                .push((head.method.clone(), head.uri.path().to_owned(), sent));
            let name = head.uri.path().split('/').nth(6).unwrap_or_default().to_owned();
            let (status, answer) = match head.method {
                Method::GET => (StatusCode::OK, mk_pod(&name, "6")),
                _ => (
                    status,
                    json!({"kind": "Status", "apiVersion": "v1", "message": "said so", "code": status.as_u16()}),
                ),
            };
            Response::builder()
                .status(status)
                .body(Body::from(answer.to_string()))
                .map_err(axum::BoxError::from)
        }
    });
    (Client::new(service, "default"), asked)
}

fn mk_service(binding: StatusCode) -> (Service, Asked) {
    let (upper, asked) = mk_upper(binding);
    let metrics = Metrics::new(&Registry::new()).unwrap();
    (
        Service {
            shared: Shared::new(mk_world()),
            asked: crate::asked::Asked::default(),
            upper,
            metrics,
        },
        asked,
    )
}

async fn post(service: &Service, verb: &str, body: String) -> (StatusCode, String) {
    let request = Request::post(format!("/scheduler/{verb}"))
        .body(Body::from(body))
        .unwrap();
    let response = service.clone().router().oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

fn mk_binding(pod: &str, uid: &str) -> String {
    json!({"PodName": pod, "PodNamespace": "ns", "PodUID": uid, "Node": "vb"}).to_string()
}

#[tokio::test]
async fn each_verb_answers_as_the_protocol_says() {
    let (service, _) = mk_service(StatusCode::CREATED);
    let args = json!({"Pod": mk_pod("p", "3"), "Nodes": null, "NodeNames": ["va", "vb"]}).to_string();
    let victims = json!({"vb": {"Pods": [{"UID": "x"}], "NumPDBViolations": 0}});
    let preemption = json!({"Pod": mk_pod("p", "3"), "NodeNameToMetaVictims": victims}).to_string();
    for (verb, body, answer) in [
        (
            "filter",
            &args,
            r#"{"Nodes":null,"NodeNames":["vb"],"FailedNodes":{"va":"a: 0/2 nodes fit: 2 Insufficient cpu"},"FailedAndUnresolvableNodes":{},"Error":""}"#,
        ),
        (
            "prioritize",
            &args,
            r#"[{"Host":"va","Score":0},{"Host":"vb","Score":10}]"#,
        ),
        (
            "preempt",
            &preemption,
            r#"{"NodeNameToMetaVictims":{"vb":{"Pods":[{"UID":"x"}],"NumPDBViolations":0}}}"#,
        ),
    ] {
        assert_eq!(
            post(&service, verb, body.clone()).await,
            (StatusCode::OK, answer.to_owned()),
            "{verb}"
        );
    }
}

#[tokio::test]
async fn broken_bodies_get_an_error_where_the_protocol_has_room_for_it() {
    let (service, asked) = mk_service(StatusCode::CREATED);
    for (verb, status) in [
        ("filter", StatusCode::OK),
        ("prioritize", StatusCode::BAD_REQUEST),
        ("preempt", StatusCode::BAD_REQUEST),
        ("bind", StatusCode::OK),
    ] {
        let (answered, answer) = post(&service, verb, "{".to_owned()).await;
        assert_eq!(answered, status, "{verb}");
        assert!(answer.contains("body: EOF"), "{verb}: {answer}");
    }
    assert!(asked.lock().is_empty());
}

#[tokio::test]
async fn bind_binds_with_a_hint_and_a_uid_precondition() {
    let (service, asked) = mk_service(StatusCode::CREATED);
    let answer = post(&service, "bind", mk_binding("p", "p")).await;
    assert_eq!(answer, (StatusCode::OK, r#"{"Error":""}"#.to_owned()));
    let (method, path, binding) = asked.lock().pop().unwrap();
    assert_eq!(
        (method, &*path),
        (Method::POST, "/api/v1/namespaces/ns/pods/p/binding")
    );
    assert_eq!(binding["metadata"]["uid"], "p");
    assert_eq!(
        binding["metadata"]["annotations"],
        json!({"tensile.dev/placement-hint": "b1"})
    );
    assert_eq!(binding["target"]["name"], "vb");

    let (_, answer) = post(&service, "bind", mk_binding("q", "q")).await;
    assert!(
        answer.contains("vb has no place for the pod any more"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_pod_that_was_just_asked_about_is_not_read_again() {
    let (service, asked) = mk_service(StatusCode::CREATED);
    let args = json!({"Pod": mk_pod("p", "3"), "NodeNames": ["vb"]}).to_string();
    post(&service, "filter", args).await;
    let answer = post(&service, "bind", mk_binding("p", "p")).await;
    assert_eq!(answer, (StatusCode::OK, r#"{"Error":""}"#.to_owned()));
    let methods: Vec<Method> = asked.lock().iter().map(|(method, ..)| method.clone()).collect();
    assert_eq!(methods, [Method::POST], "only the binding");
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused_by_its_status() {
    let (service, _) = mk_service(StatusCode::CREATED);
    let (status, _) = post(&service, "filter", " ".repeat(BODY_LIMIT + 1)).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn a_refused_binding_gives_the_place_back() {
    let (service, _) = mk_service(StatusCode::CONFLICT);
    for pod in ["p", "q"] {
        let (_, answer) = post(&service, "bind", mk_binding(pod, pod)).await;
        assert!(
            answer.contains(&format!("binding ns/{pod}: ")) && answer.contains("said so"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_namesake_is_not_bound() {
    let (service, asked) = mk_service(StatusCode::CREATED);
    let (_, answer) = post(&service, "bind", mk_binding("p", "older")).await;
    assert_eq!(
        answer,
        r#"{"Error":"pod ns/p is not the one with UID older any more"}"#
    );
    assert_eq!(asked.lock().len(), 1, "only asked for the pod");
}
