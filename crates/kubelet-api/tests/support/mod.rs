//! A node with one pod in front of an API server that echoes streams.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::routing::any;
use http::StatusCode;
use http::header::{CONNECTION, UPGRADE};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prometheus::Registry;
use serde_json::Value;
use tensile_kubelet_api::auth::{Question, ReviewFuture, Reviews, User};
use tensile_kubelet_api::backend::{PodRef, ResolveError, Target, Unavailable};
use tensile_kubelet_api::usage::NodeUsage;
use tensile_kubelet_api::{Auth, Backend, Metrics, StreamConfig, Streams, router};
use tensile_runtime::serve::{Config, Metrics as ServeMetrics, Server};
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

/// The token of a caller who may do everything.
pub(crate) const TOKEN: &str = "good";

/// The pod `ns/p` runs as `lower-ns/lower-p`.
struct OnePod {
    client: kube::Client,
}

/// Knows one token, and allows its user everything.
struct OneToken;

impl Backend for OnePod {
    fn node_name(&self) -> &str {
        "vn"
    }

    async fn pods(&self) -> Result<Vec<Value>, Unavailable> {
        Ok(Vec::new())
    }

    async fn running_pods(&self) -> Result<Vec<Value>, Unavailable> {
        Ok(Vec::new())
    }

    async fn resolve(&self, pod: &PodRef, container: Option<&str>) -> Result<Target, ResolveError> {
        if (pod.namespace.as_str(), pod.name.as_str()) != ("ns", "p") {
            return Err(ResolveError::NoPod);
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
        Ok(NodeUsage::default())
    }
}

impl Reviews for OneToken {
    fn token<'a>(&'a self, token: &'a str) -> ReviewFuture<'a, Option<User>> {
        Box::pin(std::future::ready(Ok((token == TOKEN).then(User::default))))
    }

    fn access<'a>(&'a self, _question: &'a Question) -> ReviewFuture<'a, bool> {
        Box::pin(std::future::ready(Ok(true)))
    }
}

/// The API of a node whose pods are behind `client`, and the registry of its metrics.
pub(crate) fn mk_router(client: kube::Client) -> (Router, Registry) {
    let registry = Registry::new();
    let metrics = Metrics::register(&registry).unwrap();
    let auth = Arc::new(Auth::new(Arc::new(OneToken), metrics.clone()));
    let streams = Streams::new(StreamConfig::default(), metrics.clone());
    (
        router(Arc::new(OnePod { client }), auth, streams, metrics),
        registry,
    )
}

/// A client that tells what it is asked for, and answers 200 or, to upgrades, 101.
#[allow(dead_code, reason = "each test binary uses a part of this module")]
pub(crate) fn mk_told(seen: UnboundedSender<String>) -> kube::Client {
    let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
        let _ = seen.send(request.uri().to_string());
        let upgrade = request.headers().contains_key(UPGRADE);
        let mut response = Response::new(Body::empty());
        if upgrade {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        }
        std::future::ready(Ok::<_, std::convert::Infallible>(response))
    });
    kube::Client::new(service, "default")
}

/// A client of an API server that echoes streams.
#[allow(dead_code, reason = "each test binary uses a part of this module")]
pub(crate) async fn mk_echo() -> kube::Client {
    let address = serve(Router::new().fallback(any(echo))).await;
    let http = HttpClient::builder(TokioExecutor::new()).build_http::<kube::client::Body>();
    let service = tower::service_fn(move |mut request: http::Request<kube::client::Body>| {
        *request.uri_mut() = format!("http://{address}{}", request.uri()).parse().unwrap();
        http.request(request)
    });
    kube::Client::new(service, "default")
}

async fn echo(mut request: Request) -> Response {
    let protocol = request.headers()[UPGRADE].clone();
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(stream) = upgraded.await else { return };
        let (mut reader, mut writer) = tokio::io::split(TokioIo::new(stream));
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(CONNECTION, "Upgrade".parse().unwrap());
    headers.insert(UPGRADE, protocol);
    response
}

/// Serves without TLS until the process ends.
#[allow(dead_code, reason = "each test binary uses a part of this module")]
pub(crate) async fn serve(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let metrics = ServeMetrics::register(&Registry::new(), "test").unwrap();
    let server = Server::new(None, Config::default(), metrics);
    tokio::spawn(server.run(listener, router, CancellationToken::new()));
    address
}
