//! A node with a scripted backend, a scripted API server behind it, and requests for tests.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::Body;
use axum::response::Response;
use futures::stream;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use tensile_runtime::tls::Peer;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tower::{ServiceExt as _, service_fn};

use crate::auth::{Question, ReviewFuture, Reviews, User};
use crate::backend::{PodRef, ResolveError, Target, Unavailable};
use crate::usage::{ContainerUsage, NodeUsage, PodUsage, Sample};
use crate::{Auth, Backend, Metrics, StreamConfig, Streams, router};

/// How the API server behind the node answers.
#[derive(Clone)]
pub(crate) enum Lower {
    /// 101 for upgrades, a log for logs.
    Works,
    /// Always this status and body.
    Answers(u16, &'static str),
    /// A log that comes in pieces.
    Streams(Arc<tokio::sync::Mutex<Option<UnboundedReceiver<&'static str>>>>),
}

/// One node `vn` with the pod `ns/p` (UID `uid-1`, container `c`), which runs as `lower-ns/lower-p`.
pub(crate) struct Node {
    pub(crate) router: Router,
    /// Requests that reached the API server behind the node: method and target.
    pub(crate) lower: UnboundedReceiver<String>,
    broken: Arc<AtomicBool>,
}

struct ScriptedBackend {
    client: kube::Client,
    broken: Arc<AtomicBool>,
}

/// Knows no token and allows everything.
struct AllowAll;

impl Lower {
    pub(crate) fn streams(pieces: UnboundedReceiver<&'static str>) -> Self {
        Self::Streams(Arc::new(tokio::sync::Mutex::new(Some(pieces))))
    }

    async fn answer(self, upgrade: bool) -> Response<Body> {
        let (status, body) = match self {
            Self::Works if upgrade => (101, Body::empty()),
            Self::Works => (200, Body::from("log of the container")),
            Self::Answers(status, body) => (status, Body::from(body)),
            Self::Streams(pieces) => {
                let pieces = pieces.lock().await.take().unwrap();
                let next = |mut pieces: UnboundedReceiver<&'static str>| async {
                    Some((Ok::<_, Infallible>(pieces.recv().await?), pieces))
                };
                (200, Body::from_stream(stream::unfold(pieces, next)))
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response
    }
}

impl Node {
    /// Answers a request of a user that may do everything.
    pub(crate) async fn answer(&self, mut request: Request<Body>) -> Response {
        request.extensions_mut().insert(Peer {
            user: "root".to_owned(),
            groups: Vec::new(),
        });
        self.router.clone().oneshot(request).await.unwrap()
    }

    /// From now on the backend knows nothing.
    pub(crate) fn break_backend(&mut self) {
        self.broken.store(true, Ordering::Relaxed);
    }
}

impl ScriptedBackend {
    fn unless_broken<T>(&self, value: T) -> Result<T, Unavailable> {
        if self.broken.load(Ordering::Relaxed) {
            Err(Unavailable("not now".to_owned()))
        } else {
            Ok(value)
        }
    }
}

impl Backend for ScriptedBackend {
    fn node_name(&self) -> &str {
        "vn"
    }

    async fn pods(&self) -> Result<Vec<Value>, Unavailable> {
        self.unless_broken(vec![json!({"metadata": {"name": "p"}})])
    }

    async fn running_pods(&self) -> Result<Vec<Value>, Unavailable> {
        self.unless_broken(vec![json!({"metadata": {"name": "running"}})])
    }

    async fn resolve(&self, pod: &PodRef, container: Option<&str>) -> Result<Target, ResolveError> {
        match (pod.namespace.as_str(), pod.name.as_str()) {
            ("ns", "p") => {}
            ("ns", "down") => return Err(ResolveError::Unavailable("cluster unreachable".to_owned())),
            ("ns", "starting") => {
                let why = r#"container "c" in pod "starting" is waiting to start: ContainerCreating"#;
                return Err(ResolveError::NotStarted(why.to_owned()));
            }
            _ => return Err(ResolveError::NoPod),
        }
        if pod.uid.as_deref().is_some_and(|uid| uid != "uid-1") {
            return Err(ResolveError::WrongUid);
        }
        if container.is_some_and(|container| container != "c") {
            return Err(ResolveError::NoContainer);
        }
        Ok(Target {
            client: self.client.clone(),
            namespace: "lower-ns".to_owned(),
            name: "lower-p".to_owned(),
        })
    }

    async fn usage(&self) -> Result<NodeUsage, Unavailable> {
        self.unless_broken(mk_usage())
    }

    async fn cadvisor(&self) -> Result<String, Unavailable> {
        self.unless_broken("container_up 1\n".to_owned())
    }

    fn healthz(&self) -> Result<(), String> {
        self.unless_broken(())
            .map_err(|_| "engine stands still".to_owned())
    }
}

impl Reviews for AllowAll {
    fn token<'a>(&'a self, _token: &'a str) -> ReviewFuture<'a, Option<User>> {
        Box::pin(async { Ok(None) })
    }

    fn access<'a>(&'a self, _question: &'a Question) -> ReviewFuture<'a, bool> {
        Box::pin(async { Ok(true) })
    }
}

pub(crate) async fn mk_node() -> Node {
    mk_node_with(Lower::Works).await
}

pub(crate) async fn mk_node_with(lower: Lower) -> Node {
    let (tx, rx) = unbounded_channel();
    mk_node_on(
        mk_lower_client(lower, tx),
        rx,
        Arc::new(AllowAll),
        StreamConfig::default(),
    )
    .0
}

/// A node in front of `client`.
pub(crate) fn mk_node_on(
    client: kube::Client,
    lower: UnboundedReceiver<String>,
    reviews: Arc<dyn Reviews>,
    streams: StreamConfig,
) -> (Node, Metrics) {
    let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
    let broken = Arc::new(AtomicBool::new(false));
    let backend = Arc::new(ScriptedBackend {
        client,
        broken: Arc::clone(&broken),
    });
    let auth = Arc::new(Auth::new(reviews, metrics.clone()));
    let streams = Streams::new(streams, metrics.clone());
    (
        Node {
            router: router(backend, auth, streams, metrics.clone()),
            lower,
            broken,
        },
        metrics,
    )
}

/// May do everything; for nodes made with [`mk_node_on`].
pub(crate) fn mk_allow_all() -> Arc<dyn Reviews> {
    Arc::new(AllowAll)
}

fn mk_lower_client(lower: Lower, seen: UnboundedSender<String>) -> kube::Client {
    let service = service_fn(move |request: Request<kube::client::Body>| {
        let _ = seen.send(format!("{} {}", request.method(), request.uri()));
        let upgrade = request.headers().contains_key(http::header::UPGRADE);
        let lower = lower.clone();
        async move { Ok::<_, Infallible>(lower.answer(upgrade).await) }
    });
    kube::Client::new(service, "default")
}

/// An API server that answers everything alike, and what it was asked.
pub(crate) fn mk_api(code: u16, answer: Value) -> (kube::Client, UnboundedReceiver<(String, Value)>) {
    let (tx, rx) = unbounded_channel();
    let service = service_fn(move |request: Request<kube::client::Body>| {
        let (tx, answer) = (tx.clone(), answer.clone());
        async move {
            let line = format!("{} {}", request.method(), request.uri());
            let body = request.into_body().collect().await?.to_bytes();
            let _ = tx.send((line, serde_json::from_slice(&body).unwrap_or_default()));
            let mut response = Response::new(Body::from(answer.to_string()));
            *response.status_mut() = StatusCode::from_u16(code).unwrap();
            Ok::<_, kube::Error>(response)
        }
    });
    (kube::Client::new(service, "default"), rx)
}

pub(crate) fn mk_question(user: &str, verb: &'static str, subresource: &'static str) -> Question {
    let user = User {
        name: user.to_owned(),
        ..User::default()
    };
    Question {
        user,
        verb,
        subresource,
        node: Arc::from("vn"),
    }
}

pub(crate) fn mk_request(method: &str, uri: &str) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(uri)
        .body(Body::empty())
        .unwrap()
}

pub(crate) fn mk_get(uri: &str) -> Request<Body> {
    mk_request("GET", uri)
}

/// GET asks for a WebSocket (with the tunnelled port-forward protocol), POST for SPDY.
pub(crate) fn mk_upgrade(method: &str, uri: &str) -> Request<Body> {
    let mut request = mk_request(method, uri);
    let headers = request.headers_mut();
    headers.insert("connection", "Upgrade".parse().unwrap());
    if method == "GET" {
        headers.insert("upgrade", "websocket".parse().unwrap());
        headers.insert(
            "sec-websocket-protocol",
            "SPDY/3.1+portforward.k8s.io".parse().unwrap(),
        );
    } else {
        headers.insert("upgrade", "SPDY/3.1".parse().unwrap());
    }
    request
}

/// Status and body of an answer.
pub(crate) async fn send(node: &Node, request: Request<Body>) -> (u16, String) {
    read(node.answer(request).await).await
}

pub(crate) async fn read(response: Response) -> (u16, String) {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

pub(crate) fn mk_usage() -> NodeUsage {
    let sample = |time_ms, cpu_core_nanos, cpu_nano_cores, working_set_bytes| Sample {
        time_ms,
        cpu_core_nanos,
        cpu_nano_cores,
        working_set_bytes,
    };
    let container = |name: &str, started_ms, sample| ContainerUsage {
        name: name.to_owned(),
        started_ms,
        sample,
    };
    NodeUsage {
        started_ms: Some(1_731_900_000_000),
        node: Some(sample(
            1_732_000_000_123,
            1_834_210_000_000,
            Some(3_000_000_000),
            5_210_000_000,
        )),
        pods: vec![PodUsage {
            namespace: "ns".to_owned(),
            name: "p".to_owned(),
            uid: "uid-1".to_owned(),
            started_ms: None,
            containers: vec![
                container(
                    "a",
                    Some(1_731_900_000_005),
                    sample(1_732_000_000_100, 12_500_000_000, Some(7), 10_000_000),
                ),
                container("b", None, sample(1_732_000_000_200, 1, None, 2_000_000)),
            ],
        }],
    }
}

/// A certificate authority.
pub(crate) struct Ca {
    pub(crate) pem: String,
    pub(crate) issuer: Issuer<'static, KeyPair>,
}

/// A client's certificate and its PKCS#8 key.
pub(crate) struct ClientCert {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: Vec<u8>,
}

pub(crate) fn mk_ca(name: &str) -> Ca {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    Ca {
        pem,
        issuer: Issuer::new(params, key),
    }
}

pub(crate) fn mk_client_cert(ca: &Ca, user: &str) -> ClientCert {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, user);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, &ca.issuer).unwrap();
    ClientCert {
        chain: vec![cert.der().clone()],
        key: key.serialize_der(),
    }
}

/// An API server that lists `items` and then, in the first watch, tells what is sent.
pub(crate) fn mk_watched(items: Vec<Value>) -> (kube::Client, UnboundedSender<Value>) {
    let (tx, rx) = unbounded_channel::<Value>();
    let (events, list) = (Arc::new(tokio::sync::Mutex::new(rx)), Arc::new(items));
    let service = service_fn(move |request: Request<kube::client::Body>| {
        let (events, list) = (Arc::clone(&events), Arc::clone(&list));
        async move {
            let body = if request
                .uri()
                .query()
                .is_some_and(|query| query.contains("watch=true"))
            {
                let next = |events: Arc<tokio::sync::Mutex<UnboundedReceiver<Value>>>| async {
                    let event = events.lock().await.recv().await?;
                    Some((Ok::<_, Infallible>(format!("{event}\n")), events))
                };
                Body::from_stream(stream::unfold(events, next))
            } else {
                let list = json!({"metadata": {"resourceVersion": "1"}, "items": *list});
                Body::from(list.to_string())
            };
            Ok::<_, Infallible>(Response::new(body))
        }
    });
    (kube::Client::new(service, "default"), tx)
}
