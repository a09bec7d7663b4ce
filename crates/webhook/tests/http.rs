//! Whatever the body, there is an answer: a review, or a status that says what is wrong.

mod support;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use support::{mk_pod, mk_review, mk_rules};
use tensile_webhook::http::{BODY_LIMIT, CONCURRENCY, Service, TIMEOUT};
use tensile_webhook::known::Known;
use tensile_webhook::memo::Memo;
use tensile_webhook::metrics::Metrics;
use tower::ServiceExt;

fn mk_service() -> (Service, prometheus::Registry) {
    let registry = prometheus::Registry::new();
    let service = Service {
        memo: Arc::new(Memo::new(mk_rules())),
        known: Arc::new(Known::default()),
        metrics: Metrics::new(&registry).unwrap(),
        upper: None,
    };
    (service, registry)
}

async fn ask(method: Method, path: &str, body: impl Into<Body>) -> (StatusCode, Vec<u8>) {
    let request = Request::builder()
        .method(method)
        .uri(path)
        .body(body.into())
        .unwrap();
    let response = mk_service().0.router().oneshot(request).await.unwrap();
    let status = response.status();
    (
        status,
        response.into_body().collect().await.unwrap().to_bytes().to_vec(),
    )
}

#[tokio::test]
async fn reviews_are_answered_at_both_paths() {
    let body = mk_review(&mk_pod(&json!({"nodeSelector": {"a": "b"}}))).to_string();
    for path in ["/mutate", "/"] {
        let (status, answer) = ask(Method::POST, path, body.clone()).await;
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(
            (status, &answer["response"]["patchType"]),
            (StatusCode::OK, &json!("JSONPatch")),
            "{path}"
        );
    }
    assert_eq!(
        ask(Method::GET, "/mutate", "").await.0,
        StatusCode::METHOD_NOT_ALLOWED
    );
    assert_eq!(ask(Method::POST, "/other", body).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn hostile_bodies_get_a_status_and_a_reason() {
    let review = mk_review(&mk_pod(&json!({}))).to_string();
    let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
    let no_request = r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#;
    for (what, body, status) in [
        ("empty", Vec::new(), StatusCode::BAD_REQUEST),
        ("not JSON", b"hello".to_vec(), StatusCode::BAD_REQUEST),
        ("binary", vec![0, 159, 146, 150], StatusCode::BAD_REQUEST),
        (
            "truncated",
            review.as_bytes()[..review.len() / 2].to_vec(),
            StatusCode::BAD_REQUEST,
        ),
        (
            "trailing",
            format!("{review}x").into_bytes(),
            StatusCode::BAD_REQUEST,
        ),
        (
            "another kind",
            br#"{"apiVersion":"v1","kind":"Pod"}"#.to_vec(),
            StatusCode::BAD_REQUEST,
        ),
        (
            "no request",
            no_request.as_bytes().to_vec(),
            StatusCode::BAD_REQUEST,
        ),
        ("deep", deep.clone().into_bytes(), StatusCode::BAD_REQUEST),
        (
            "not UTF-8",
            [b"\"", &[0xff][..], b"\""].concat(),
            StatusCode::BAD_REQUEST,
        ),
        (
            "oversized",
            vec![b' '; BODY_LIMIT + 1],
            StatusCode::PAYLOAD_TOO_LARGE,
        ),
    ] {
        let (answered, reason) = ask(Method::POST, "/mutate", body).await;
        assert!(
            answered == status && !reason.is_empty(),
            "{what}: {answered} {}",
            String::from_utf8_lossy(&reason)
        );
    }
}

#[tokio::test]
async fn a_pod_too_deep_to_read_is_let_in_with_a_warning() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let marker = "\"deep\"";
    let review = mk_review(&mk_pod(&json!({"affinity": "deep"})))
        .to_string()
        .replace(marker, &deep);
    let (status, answer) = ask(Method::POST, "/mutate", review).await;
    let answer: Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(
        (status, &answer["response"]["allowed"]),
        (StatusCode::OK, &json!(true))
    );
    let warning = answer["response"]["warnings"][0].as_str().unwrap();
    assert!(warning.contains("spec.affinity"), "{warning}");
}

#[tokio::test(start_paused = true)]
async fn slow_bodies_hold_up_neither_others_for_long_nor_themselves() {
    let (service, _) = mk_service();
    let router = service.router();
    let slow = || {
        let (sender, body) = tokio::sync::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(1);
        let stream = Body::new(ChannelBody(body));
        (sender, Request::post("/mutate").body(stream).unwrap())
    };
    let mut held = Vec::new();
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..CONCURRENCY {
        let (sender, request) = slow();
        held.push(sender);
        waiting.spawn(router.clone().oneshot(request));
    }
    let start = tokio::time::Instant::now();
    while let Some(response) = waiting.join_next().await {
        assert_eq!(response.unwrap().unwrap().status(), StatusCode::REQUEST_TIMEOUT);
    }
    assert!(
        start.elapsed() <= TIMEOUT + Duration::from_millis(10),
        "{:?}",
        start.elapsed()
    );
    let body = mk_review(&mk_pod(&json!({}))).to_string();
    let response = router
        .oneshot(Request::post("/").body(Body::from(body)).unwrap())
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK, "their places are free again");
}

#[tokio::test]
async fn reviews_are_counted_by_outcome() {
    let (service, registry) = mk_service();
    let router = service.router();
    for body in [
        "nonsense".to_owned(),
        mk_review(&mk_pod(&json!({}))).to_string(),
        mk_review(&json!({"metadata": {}, "spec": {}})).to_string(),
    ] {
        router
            .clone()
            .oneshot(Request::post("/").body(Body::from(body)).unwrap())
            .await
            .unwrap();
    }
    let text = prometheus::TextEncoder::new()
        .encode_to_string(&registry.gather())
        .unwrap();
    for (outcome, count) in [("malformed", 1), ("patched", 1), ("left_alone", 1), ("denied", 0)] {
        let line = format!("tensile_webhook_reviews_total{{outcome=\"{outcome}\"}} {count}");
        assert!(text.contains(&line), "{line}\n{text}");
    }
    assert!(
        text.contains("tensile_webhook_review_duration_seconds_count 3"),
        "{text}"
    );
}

/// A body that comes through a channel.
struct ChannelBody(tokio::sync::mpsc::Receiver<Result<Vec<u8>, std::io::Error>>);

impl http_body::Body for ChannelBody {
    type Data = axum::body::Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
        self.0
            .poll_recv(context)
            .map(|data| data.map(|data| data.map(|data| http_body::Frame::data(data.into()))))
    }
}
