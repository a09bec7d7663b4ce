//! The tunnel over real connections: a caller, our server, and an API server that echoes.

use std::net::SocketAddr;

use axum::Router;
use axum::routing::any;
use http::header::{CONNECTION, UPGRADE};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::TokioExecutor;
use tensile_runtime::serve::{Config, Metrics as ServeMetrics, Server};
use tensile_runtime::tls::Peer;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::testing::{mk_allow_all, mk_node_on};

const DEADLINE: Duration = Duration::from_secs(20);

struct Tunnel {
    address: SocketAddr,
    metrics: Metrics,
    stop: CancellationToken,
    server: JoinHandle<()>,
}

/// Says that it is open, in the bytes of its 101 answer's packet, then echoes until the caller ends.
async fn echo(mut request: Request) -> Response {
    let protocol = request.headers()[UPGRADE].clone();
    let versions: Vec<_> = request
        .headers()
        .get_all("x-stream-protocol-version")
        .iter()
        .cloned()
        .collect();
    assert!(
        !request.headers().contains_key("authorization"),
        "credentials leaked"
    );
    let upgraded = hyper::upgrade::on(&mut request);
    let target = request.uri().to_string();
    tokio::spawn(async move {
        let mut stream = TokioIo::new(upgraded.await.unwrap());
        stream.write_all(format!("{target}\n").as_bytes()).await.unwrap();
        let (mut reader, mut writer) = tokio::io::split(stream);
        let _ = tokio::io::copy(&mut reader, &mut writer).await;
        let _ = writer.write_all(b"bye").await;
        let _ = writer.shutdown().await;
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response
        .headers_mut()
        .insert(CONNECTION, "Upgrade".parse().unwrap());
    response.headers_mut().insert(UPGRADE, protocol);
    for version in versions {
        response
            .headers_mut()
            .append("x-stream-protocol-version", version);
    }
    response
}

async fn serve(router: Router, config: Config) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let metrics = ServeMetrics::register(&prometheus::Registry::new(), "test").unwrap();
    let server = Server::new(None, config, metrics);
    (
        address,
        stop.clone(),
        tokio::spawn(server.run(listener, router, stop)),
    )
}

/// An HTTP/1.1 client of the API server at `address`.
fn mk_client(address: SocketAddr) -> kube::Client {
    let http = HttpClient::builder(TokioExecutor::new()).build_http::<kube::client::Body>();
    let service = tower::service_fn(move |mut request: http::Request<kube::client::Body>| {
        *request.uri_mut() = format!("http://{address}{}", request.uri()).parse().unwrap();
        http.request(request)
    });
    kube::Client::new(service, "default")
}

async fn mk_tunnel(lower: Router, streams: StreamConfig, config: Config) -> Tunnel {
    let (lower, _, _) = serve(lower, Config::default()).await;
    let (_tx, rx) = tokio::sync::mpsc::unbounded_channel();
    let (node, metrics) = mk_node_on(mk_client(lower), rx, mk_allow_all(), streams);
    let router = node.router.layer(axum::Extension(Peer {
        user: "root".to_owned(),
        groups: Vec::new(),
    }));
    let (address, stop, server) = serve(router, config).await;
    Tunnel {
        address,
        metrics,
        stop,
        server,
    }
}

async fn mk_echo(streams: StreamConfig) -> Tunnel {
    mk_tunnel(Router::new().fallback(any(echo)), streams, Config::default()).await
}

/// Sends a head by hand and returns the answer's head and the connection.
async fn dial(tunnel: &Tunnel, head: &str) -> (String, TcpStream) {
    let mut stream = TcpStream::connect(tunnel.address).await.unwrap();
    stream
        .write_all(head.replace('\n', "\r\n").as_bytes())
        .await
        .unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(
            tokio::time::timeout(DEADLINE, stream.read_u8())
                .await
                .unwrap()
                .unwrap(),
        );
    }
    (String::from_utf8(answer).unwrap(), stream)
}

const SPDY: &str = "POST /exec/ns/p/c?command=sh&input=1&output=1 HTTP/1.1\nHost: vn\nAuthorization: Bearer x\n\
     Connection: Upgrade\nUpgrade: SPDY/3.1\nX-Stream-Protocol-Version: v4.channel.k8s.io\n\
     X-Stream-Protocol-Version: v3.channel.k8s.io\n\n";
const WEBSOCKET: &str = "GET /attach/ns/p/c?output=1 HTTP/1.1\nHost: vn\nConnection: keep-alive, Upgrade\n\
     Upgrade: websocket\nSec-WebSocket-Key: a2V5\nSec-WebSocket-Version: 13\n\
     Sec-WebSocket-Protocol: v5.channel.k8s.io\n\n";

async fn until(tunnel: &Tunnel, line: &str) {
    let found = async {
        while !tunnel.metrics.text().contains(line) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    if tokio::time::timeout(DEADLINE, found).await.is_err() {
        panic!("no {line} in {}", tunnel.metrics.text());
    }
}

#[tokio::test]
async fn bytes_pass_both_ways_for_spdy_and_websocket() {
    let tunnel = mk_echo(StreamConfig::default()).await;
    for (head, path) in [
        (
            SPDY,
            "exec?container=c&stdin=true&stdout=true&stderr=false&tty=false&command=sh\n",
        ),
        (
            WEBSOCKET,
            "attach?container=c&stdin=false&stdout=true&stderr=false&tty=false\n",
        ),
    ] {
        let (answer, mut stream) = dial(&tunnel, head).await;
        assert!(
            answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"),
            "{answer}"
        );
        let wanted = format!("/api/v1/namespaces/lower-ns/pods/lower-p/{path}");
        let mut first = vec![0; wanted.len()];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(
            String::from_utf8(first).unwrap(),
            wanted,
            "bytes right behind the head"
        );
        let sent: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251).to_le_bytes()[0]).collect();
        let (mut reader, mut writer) = stream.split();
        let mut got = vec![0; sent.len()];
        let (wrote, read) = tokio::join!(writer.write_all(&sent), reader.read_exact(&mut got));
        wrote.unwrap();
        read.unwrap();
        assert!(got == sent, "the bytes differ");
        writer.shutdown().await.unwrap();
        let mut rest = String::new();
        reader.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "bye", "last bytes after the caller's end");
    }
    until(&tunnel, r#"tensile_kubelet_streams{kind="exec"} 0"#).await;
    until(
        &tunnel,
        r#"tensile_kubelet_stream_bytes_total{direction="to_pod",kind="exec"} 1000000"#,
    )
    .await;
}

#[tokio::test]
async fn each_protocol_version_and_the_chosen_one_survive() {
    let tunnel = mk_echo(StreamConfig::default()).await;
    let (answer, _stream) = dial(&tunnel, SPDY).await;
    let answer = answer.to_lowercase();
    assert!(answer.contains("upgrade: spdy/3.1\r\n"), "{answer}");
    let versions: Vec<_> = answer
        .lines()
        .filter(|line| line.starts_with("x-stream-protocol-version"))
        .collect();
    assert_eq!(
        versions,
        [
            "x-stream-protocol-version: v4.channel.k8s.io",
            "x-stream-protocol-version: v3.channel.k8s.io"
        ]
    );
}

#[tokio::test]
async fn bytes_that_follow_the_request_at_once_are_not_lost() {
    let tunnel = mk_echo(StreamConfig::default()).await;
    let (_, mut stream) = dial(&tunnel, &format!("{SPDY}early")).await;
    let mut text = String::new();
    stream.shutdown().await.unwrap();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.ends_with("\nearlybye"), "{text}");
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_a_closed_one_makes_room() {
    let tunnel = mk_echo(StreamConfig {
        max_streams: 1,
        ..StreamConfig::default()
    })
    .await;
    let (answer, first) = dial(&tunnel, SPDY).await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    let (answer, _) = dial(&tunnel, SPDY).await;
    assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
    drop(first);
    until(&tunnel, r#"tensile_kubelet_streams{kind="exec"} 0"#).await;
    let again = async {
        loop {
            let (answer, stream) = dial(&tunnel, SPDY).await;
            if answer.starts_with("HTTP/1.1 101") {
                return stream;
            }
        }
    };
    tokio::time::timeout(DEADLINE, again).await.unwrap();
}

#[tokio::test]
async fn a_refusal_of_the_pods_cluster_comes_back_with_its_code_and_message() {
    for (status, body, wanted_status, wanted) in [
        (
            403,
            r#"{"kind":"Status","message":"pods \"p\" is forbidden","code":403}"#,
            403,
            "pods \"p\" is forbidden",
        ),
        (500, "plain", 500, "plain"),
        (
            200,
            "no upgrade",
            500,
            "invalid upgrade response: status code 200",
        ),
    ] {
        let answer = (StatusCode::from_u16(status).unwrap(), body);
        let lower = Router::new().fallback(any(move || async move { answer }));
        let tunnel = mk_tunnel(lower, StreamConfig::default(), Config::default()).await;
        let request = SPDY.replace("Host: vn\n", "Host: vn\nX: close\n");
        let (head, mut stream) = dial(&tunnel, &request).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {wanted_status} ")), "{head}");
        let mut got = vec![0; wanted.len()];
        stream.read_exact(&mut got).await.unwrap();
        assert_eq!(String::from_utf8(got).unwrap(), wanted);
        until(
            &tunnel,
            r#"tensile_kubelet_streams_total{kind="exec",outcome="refused"} 1"#,
        )
        .await;
    }
}

#[tokio::test]
async fn a_cluster_that_is_silent_or_gone_is_an_error_in_time() {
    let silent = Router::new().fallback(any(std::future::pending::<()>));
    let streams = StreamConfig {
        creation_timeout: Duration::from_millis(100),
        ..StreamConfig::default()
    };
    let tunnel = mk_tunnel(silent, streams, Config::default()).await;
    let (head, _) = dial(&tunnel, SPDY).await;
    assert!(head.starts_with("HTTP/1.1 502"), "{head}");
    until(
        &tunnel,
        r#"tensile_kubelet_streams_total{kind="exec",outcome="unreachable"} 1"#,
    )
    .await;
}

/// Upgrades, and hands the stream over.
fn mk_handing_over() -> (
    Router,
    tokio::sync::mpsc::UnboundedReceiver<TokioIo<hyper::upgrade::Upgraded>>,
) {
    let (streams, handed) = tokio::sync::mpsc::unbounded_channel();
    let upgrade = move |mut request: Request| {
        let streams = streams.clone();
        async move {
            let upgraded = hyper::upgrade::on(&mut request);
            tokio::spawn(async move { streams.send(TokioIo::new(upgraded.await.unwrap())) });
            let switch = [(CONNECTION, "Upgrade"), (UPGRADE, "SPDY/3.1")];
            (StatusCode::SWITCHING_PROTOCOLS, switch)
        }
    };
    (Router::new().fallback(any(upgrade)), handed)
}

#[tokio::test]
async fn when_either_side_dies_the_other_is_told() {
    let (lower, mut handed) = mk_handing_over();
    let tunnel = mk_tunnel(lower, StreamConfig::default(), Config::default()).await;
    for caller_dies in [true, false] {
        let (_, mut caller) = dial(&tunnel, SPDY).await;
        let mut pod = handed.recv().await.unwrap();
        caller.write_all(b"x").await.unwrap();
        assert_eq!(pod.read_u8().await.unwrap(), b'x');
        let mut rest = Vec::new();
        // With bytes unread, so that the connection is reset and not closed in order.
        if caller_dies {
            pod.write_all(b"unread").await.unwrap();
            caller.readable().await.unwrap();
            drop(caller);
            let _ = tokio::time::timeout(DEADLINE, pod.read_to_end(&mut rest))
                .await
                .unwrap();
        } else {
            caller.write_all(b"unread").await.unwrap();
            drop(pod);
            let _ = tokio::time::timeout(DEADLINE, caller.read_to_end(&mut rest))
                .await
                .unwrap();
        }
        assert!(rest.is_empty(), "{rest:?}");
        until(&tunnel, r#"tensile_kubelet_streams{kind="exec"} 0"#).await;
    }
}

#[tokio::test]
async fn a_draining_server_ends_streams_at_its_deadline() {
    let config = Config {
        drain_timeout: Duration::from_millis(100),
        ..Config::default()
    };
    let tunnel = mk_tunnel(Router::new().fallback(any(echo)), StreamConfig::default(), config).await;
    let (_, mut stream) = dial(&tunnel, SPDY).await;
    tunnel.stop.cancel();
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest))
        .await
        .unwrap();
    tokio::time::timeout(DEADLINE, tunnel.server)
        .await
        .unwrap()
        .unwrap();
    assert!(
        tunnel
            .metrics
            .text()
            .contains(r#"tensile_kubelet_streams{kind="exec"} 0"#)
    );
}

#[tokio::test]
async fn a_caller_that_left_before_the_answer_leaves_nothing_behind() {
    let tunnel = mk_echo(StreamConfig::default()).await;
    let mut stream = TcpStream::connect(tunnel.address).await.unwrap();
    stream
        .write_all(SPDY.replace('\n', "\r\n").as_bytes())
        .await
        .unwrap();
    drop(stream);
    // One that stays, so that the first was surely seen.
    let (_, stays) = dial(&tunnel, SPDY).await;
    drop(stays);
    until(&tunnel, r#"tensile_kubelet_streams{kind="exec"} 0"#).await;
}
