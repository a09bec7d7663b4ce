//! The guard in front of the routes, with scripted reviews.

use std::sync::Mutex;

use axum::body::Body;
use http::HeaderValue;
use tower::ServiceExt as _;

use super::*;
use crate::StreamConfig;
use crate::testing::{Node, mk_api, mk_get, mk_node_on, mk_request, mk_upgrade, read};

/// Knows the token `good` of `prom`; allows what is in `allowed`; fails while `down`; notes what it was asked.
#[derive(Default)]
struct Script {
    allowed: Mutex<Vec<&'static str>>,
    down: Mutex<bool>,
    asked: Mutex<Vec<String>>,
}

impl Script {
    fn ask<T>(&self, question: String, answer: impl FnOnce() -> T) -> Result<T, ReviewError> {
        self.asked.lock().unwrap().push(question);
        if *self.down.lock().unwrap() {
            Err(ReviewError::Timeout)
        } else {
            Ok(answer())
        }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

impl Reviews for Script {
    fn token<'a>(&'a self, token: &'a str) -> ReviewFuture<'a, Option<User>> {
        let user = User {
            name: "prom".to_owned(),
            ..User::default()
        };
        let answer = self.ask(format!("token {token}"), || (token == "good").then_some(user));
        Box::pin(std::future::ready(answer))
    }

    fn access<'a>(&'a self, question: &'a Question) -> ReviewFuture<'a, bool> {
        let Question {
            user,
            verb,
            subresource,
            node,
        } = question;
        let text = format!("{} {verb} {node}/{subresource}", user.name);
        let answer = self.ask(text, || self.allowed.lock().unwrap().contains(subresource));
        Box::pin(std::future::ready(answer))
    }
}

fn mk_guarded(allowed: &[&'static str]) -> (Node, Metrics, Arc<Script>) {
    let script = Arc::new(Script {
        allowed: Mutex::new(allowed.to_vec()),
        ..Script::default()
    });
    let (client, _) = mk_api(500, serde_json::json!({}));
    let (_tx, rx) = tokio::sync::mpsc::unbounded_channel();
    let reviews: Arc<dyn Reviews> = Arc::clone(&script) as Arc<dyn Reviews>;
    let (node, metrics) = mk_node_on(client, rx, reviews, StreamConfig::default());
    (node, metrics, script)
}

fn with_token(mut request: Request, authorization: &'static str) -> Request {
    request
        .headers_mut()
        .insert(AUTHORIZATION, HeaderValue::from_static(authorization));
    request
}

fn with_peer(mut request: Request, user: &str) -> Request {
    request.extensions_mut().insert(Peer {
        user: user.to_owned(),
        groups: vec!["g".to_owned()],
    });
    request
}

async fn ask(node: &Node, request: http::Request<Body>) -> (u16, String) {
    read(node.router.clone().oneshot(request).await.unwrap()).await
}

#[tokio::test]
async fn nobody_is_anonymous() {
    let (node, _, script) = mk_guarded(&["pods", "proxy", "metrics", "healthz"]);
    let unauthorized = (401, "Unauthorized".to_owned());
    for path in ["/pods", "/healthz", "/metrics", "/", "/nothing"] {
        assert_eq!(ask(&node, mk_get(path)).await, unauthorized, "{path}");
    }
    for header in ["", "Bearer", "Bearer ", "Basic good", "good", "Bearer  good"] {
        assert_eq!(
            ask(&node, with_token(mk_get("/pods"), header)).await,
            unauthorized,
            "{header:?}"
        );
    }
    assert_eq!(script.asked(), Vec::<String>::new(), "no review without a token");
    assert_eq!(
        ask(&node, with_token(mk_get("/pods"), "Bearer bad")).await,
        unauthorized
    );
    assert_eq!(script.asked(), ["token bad"]);
}

#[tokio::test]
async fn a_token_makes_a_user_in_any_spelling_of_the_scheme() {
    for header in ["Bearer good", "bearer good", "BEARER good rest", " Bearer good "] {
        let (node, _, script) = mk_guarded(&["pods"]);
        assert_eq!(
            ask(&node, with_token(mk_get("/pods"), header)).await.0,
            200,
            "{header}"
        );
        assert_eq!(script.asked(), ["token good", "prom get vn/pods"], "{header}");
    }
}

#[tokio::test]
async fn a_certificate_counts_before_a_token() {
    let (node, _, script) = mk_guarded(&["pods"]);
    let request = with_peer(with_token(mk_get("/pods"), "Bearer good"), "apiserver");
    assert_eq!(ask(&node, request).await.0, 200);
    assert_eq!(script.asked(), ["apiserver get vn/pods"]);
}

#[test]
fn the_user_of_a_certificate_is_among_the_authenticated() {
    let mk_groups = |groups: &[&str]| {
        let groups = groups.iter().map(|&group| group.to_owned()).collect();
        User::from(&Peer {
            user: "u".to_owned(),
            groups,
        })
        .groups
    };
    assert_eq!(mk_groups(&["a"]), ["a", AUTHENTICATED]);
    assert_eq!(mk_groups(&[]), [AUTHENTICATED]);
    assert_eq!(mk_groups(&[AUTHENTICATED, "a"]), [AUTHENTICATED, "a"]);
}

#[tokio::test]
async fn users_of_one_name_share_no_permission() {
    let (node, _, script) = mk_guarded(&["pods"]);
    for group in ["g", "h"] {
        let mut request = mk_get("/pods");
        request.extensions_mut().insert(Peer {
            user: "u".to_owned(),
            groups: vec![group.to_owned()],
        });
        assert_eq!(ask(&node, request).await.0, 200);
        assert_eq!(
            script.asked(),
            ["u get vn/pods"],
            "{group} is asked for by itself"
        );
    }
}

#[tokio::test]
async fn the_coarse_right_is_asked_for_after_the_fine_one() {
    let (node, _, script) = mk_guarded(&["proxy"]);
    assert_eq!(ask(&node, with_peer(mk_get("/configz"), "u")).await.0, 200);
    assert_eq!(script.asked(), ["u get vn/configz", "u get vn/proxy"]);
}

#[tokio::test]
async fn whoever_may_not_is_told_what_was_missing() {
    let cases = [
        (
            "GET",
            "/pods",
            "Forbidden (user=u, verb=get, resource=nodes, subresource(s)=[pods proxy])\n",
        ),
        (
            "GET",
            "/metrics/resource",
            "Forbidden (user=u, verb=get, resource=nodes, subresource(s)=[metrics])\n",
        ),
        (
            "DELETE",
            "/nothing",
            "Forbidden (user=u, verb=delete, resource=nodes, subresource(s)=[proxy])\n",
        ),
    ];
    for (method, path, message) in cases {
        let (node, _, _) = mk_guarded(&[]);
        let answer = ask(&node, with_peer(mk_request(method, path), "u")).await;
        assert_eq!(answer, (403, message.to_owned()));
    }
}

#[tokio::test]
async fn a_stream_needs_create_whatever_its_method() {
    for method in ["GET", "POST"] {
        for path in [
            "/exec/ns/p/c?output=1",
            "/attach/ns/p/c?output=1",
            "/portForward/ns/p",
        ] {
            let (node, _, script) = mk_guarded(&[]);
            let answer = ask(&node, with_peer(mk_upgrade(method, path), "u")).await;
            assert_eq!(answer.0, 403, "{method} {path}");
            assert_eq!(script.asked(), ["u create vn/proxy"], "{method} {path}");
        }
    }
}

#[tokio::test]
async fn a_failing_review_lets_nobody_in_and_is_counted() {
    let (node, metrics, script) = mk_guarded(&["pods"]);
    *script.down.lock().unwrap() = true;
    let answer = ask(&node, with_token(mk_get("/pods"), "Bearer good")).await;
    assert_eq!(answer, (500, "Authentication error".to_owned()));
    let answer = ask(&node, with_peer(mk_get("/pods"), "u")).await;
    let message = "Authorization error (user=u, verb=get, resource=nodes, subresource=pods)";
    assert_eq!(answer, (500, message.to_owned()));
    for review in ["token", "access"] {
        let wanted = format!("tensile_kubelet_review_failures_total{{review=\"{review}\"}} 1");
        assert!(metrics.text().contains(&wanted), "{}", metrics.text());
    }
    *script.down.lock().unwrap() = false;
    assert_eq!(
        ask(&node, with_token(mk_get("/pods"), "Bearer good")).await.0,
        200,
        "failures are not kept"
    );
}

#[tokio::test(start_paused = true)]
async fn reviews_are_remembered_for_a_kubelets_times() {
    let (node, _, script) = mk_guarded(&["pods"]);
    let good = || with_token(mk_get("/pods"), "Bearer good");
    assert_eq!(ask(&node, good()).await.0, 200);
    assert_eq!(script.asked(), ["token good", "prom get vn/pods"]);
    // The right is withdrawn; that counts when the permission has expired, and the token before it.
    script.allowed.lock().unwrap().clear();
    for (after, status, asked) in [
        (Duration::from_secs(119), 200, vec![]),
        (Duration::from_secs(1), 200, vec!["token good"]),
        (Duration::from_secs(179), 200, vec!["token good"]),
        (
            Duration::from_secs(1),
            403,
            vec!["prom get vn/pods", "prom get vn/proxy"],
        ),
        (Duration::from_secs(29), 403, vec![]),
        (
            Duration::from_secs(1),
            403,
            vec!["prom get vn/pods", "prom get vn/proxy"],
        ),
    ] {
        tokio::time::advance(after).await;
        assert_eq!(ask(&node, good()).await.0, status, "{after:?}");
        assert_eq!(script.asked(), asked, "{after:?}");
    }
}
