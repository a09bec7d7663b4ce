//! The whole API: over TLS as callers meet it, and under requests that nobody would send.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use http::{Method, Request};
use proptest::prelude::*;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use tensile_runtime::serve::{Config, Metrics as ServeMetrics, Server};
use tensile_runtime::tls::{Alpn, ClientCas, PemPair, ServingCert, Tls, self_signed};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use crate::StreamConfig;
use crate::auth::{Question, ReviewFuture, Reviews, User};
use crate::testing::{ClientCert, mk_api, mk_ca, mk_client_cert, mk_node, mk_node_on, mk_upgrade, send};

const DEADLINE: Duration = Duration::from_secs(20);

/// Knows the token `good`; lets everybody in who is named `root` or `prom`.
struct Rules;

impl Reviews for Rules {
    fn token<'a>(&'a self, token: &'a str) -> ReviewFuture<'a, Option<User>> {
        let user = User {
            name: "prom".to_owned(),
            ..User::default()
        };
        Box::pin(std::future::ready(Ok((token == "good").then_some(user))))
    }

    fn access<'a>(&'a self, question: &'a Question) -> ReviewFuture<'a, bool> {
        let allowed = matches!(question.user.name.as_str(), "root" | "prom");
        Box::pin(std::future::ready(Ok(allowed)))
    }
}

async fn mk_https(client_ca: &str) -> (SocketAddr, PemPair) {
    let pair = self_signed("vn", &["localhost".to_owned()], Duration::from_secs(3600)).unwrap();
    let (cert, cas) = (Arc::new(ServingCert::default()), Arc::new(ClientCas::default()));
    cert.set_pem(pair.cert.as_bytes(), pair.key.as_bytes()).unwrap();
    cas.set_pem(client_ca.as_bytes()).unwrap();
    let tls = Tls::new(cert, Some(cas), Alpn::Http1).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let metrics = ServeMetrics::register(&prometheus::Registry::new(), "test").unwrap();
    let server = Server::new(Some(Arc::new(tls)), Config::default(), metrics);
    let (_tx, rx) = tokio::sync::mpsc::unbounded_channel();
    let (client, _) = mk_api(500, serde_json::json!({}));
    let (node, _) = mk_node_on(client, rx, Arc::new(Rules), StreamConfig::default());
    tokio::spawn(server.run(listener, node.router, CancellationToken::new()));
    (address, pair)
}

/// Asks for `/healthz` and returns the status line's code.
async fn ask(
    (address, pair): &(SocketAddr, PemPair),
    client: Option<&ClientCert>,
    token: Option<&str>,
) -> String {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap())
        .unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match client {
        Some(client) => builder
            .with_client_auth_cert(
                client.chain.clone(),
                PrivatePkcs8KeyDer::from(client.key.clone()).into(),
            )
            .unwrap(),
        None => builder.with_no_client_auth(),
    };
    let exchange = async {
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await
            .unwrap();
        let token = token.map_or(String::new(), |token| {
            format!("Authorization: Bearer {token}\r\n")
        });
        let head = format!("GET /healthz HTTP/1.1\r\nHost: vn\r\nConnection: close\r\n{token}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        // A server that closes without close_notify has answered all the same.
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8(answer).unwrap()
    };
    let answer = tokio::time::timeout(DEADLINE, exchange).await.unwrap();
    answer.split(' ').nth(1).unwrap().to_owned()
}

#[tokio::test]
async fn callers_come_in_by_certificate_or_token_and_no_other_way() {
    let (ca, unknown) = (mk_ca("ca"), mk_ca("unknown"));
    let server = mk_https(&ca.pem).await;
    let (root, nobody) = (mk_client_cert(&ca, "root"), mk_client_cert(&ca, "nobody"));
    let stranger = mk_client_cert(&unknown, "root");
    for (what, client, token, wanted) in [
        ("certificate", Some(&root), None, "200"),
        ("certificate without rights", Some(&nobody), None, "403"),
        ("nothing", None, None, "401"),
        ("certificate of an unknown CA", Some(&stranger), None, "401"),
        ("token", None, Some("good"), "200"),
        ("wrong token", None, Some("bad"), "401"),
        (
            "token beside a certificate of an unknown CA",
            Some(&stranger),
            Some("good"),
            "200",
        ),
        (
            "good token beside a certificate without rights",
            Some(&nobody),
            Some("good"),
            "403",
        ),
    ] {
        assert_eq!(ask(&server, client, token).await, wanted, "{what}");
    }
}

/// Paths near those that are served, and far from them.
fn mk_path() -> impl Strategy<Value = String> {
    let segment = prop_oneof![
        3 => prop::sample::select(vec![
            "exec", "attach", "portForward", "containerLogs", "run", "pods", "metrics", "stats", "ns", "p", "c",
            "uid-1", "resource", "summary", "..", ".", "", "%2e%2e", "%2F", "c%26x", "%00",
        ]).prop_map(str::to_owned),
        1 => "[!-~&&[^?#\"<>`{}|\\\\^ ]]{0,10}",
    ];
    prop::collection::vec(segment, 0..7).prop_map(|segments| format!("/{}", segments.join("/")))
}

fn mk_query() -> impl Strategy<Value = String> {
    let pair = (
        prop::sample::select(vec![
            "command",
            "input",
            "output",
            "error",
            "tty",
            "port",
            "follow",
            "tailLines",
            "x",
        ]),
        prop_oneof![Just("1".to_owned()), "[a-zA-Z0-9%+,&=.-]{0,8}"],
    );
    prop::collection::vec(pair, 0..6).prop_map(|pairs| {
        pairs
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect::<Vec<_>>()
            .join("&")
    })
}

fn mk_wild_request() -> impl Strategy<Value = Option<Request<Body>>> {
    let method = prop::sample::select(vec!["GET", "POST", "PUT", "DELETE", "HEAD", "CONNECT", "ODD"]);
    (method, mk_path(), mk_query(), any::<bool>()).prop_map(|(method, path, query, upgrade)| {
        let uri = format!("{path}?{query}");
        uri.parse::<http::Uri>().ok()?;
        let mut request = mk_upgrade(if upgrade { "POST" } else { "GET" }, "/");
        *request.method_mut() = method.parse::<Method>().ok()?;
        *request.uri_mut() = uri.parse().ok()?;
        Some(request)
    })
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

proptest! {
    #[test]
    fn no_request_gets_past_the_guard_without_credentials(request in mk_wild_request()) {
        let Some(request) = request else { return Ok(()) };
        let (status, reached) = run(async {
            let mut node = mk_node().await;
            let response = node.router.clone().oneshot(request).await.unwrap();
            (response.status(), node.lower.try_recv().is_ok())
        });
        prop_assert_eq!(status, 401);
        prop_assert!(!reached);
    }

    #[test]
    fn no_request_reaches_more_than_the_pod_that_was_resolved(request in mk_wild_request()) {
        let Some(request) = request else { return Ok(()) };
        let reached = run(async {
            let mut node = mk_node().await;
            send(&node, request).await;
            node.lower.try_recv().ok()
        });
        if let Some(target) = reached {
            let (_, path) = target.split_once(' ').unwrap();
            let (path, query) = path.split_once('?').unwrap();
            let subresource = path.strip_prefix("/api/v1/namespaces/lower-ns/pods/lower-p/");
            prop_assert!(matches!(subresource, Some("log" | "exec" | "attach" | "portforward")), "{}", path);
            let containers = form_urlencoded::parse(query.as_bytes()).filter(|(key, _)| key == "container");
            prop_assert!(containers.map(|(_, value)| value.into_owned()).all(|value| value == "c"), "{}", query);
        }
    }
}
