//! The server over loopback: who the peer is, and what bad clients cannot do.

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::Request;
use axum::routing::get;
use rustls::RootCertStore;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::*;
use crate::tls::testing::{Ca, Client, mk_ca, mk_client};
use crate::tls::{Alpn, ClientCas, Peer, PemPair, ServingCert, provider, self_signed};

/// No test waits longer than this for something that must happen.
const DEADLINE: Duration = Duration::from_secs(20);

struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    metrics: Metrics,
    cert: Arc<ServingCert>,
    cas: Arc<ClientCas>,
    task: JoinHandle<()>,
}

fn mk_pair() -> PemPair {
    self_signed("server", &["localhost".to_owned()], Duration::from_secs(3600)).unwrap()
}

fn mk_config() -> Config {
    Config {
        handshake_timeout: Duration::from_millis(1500),
        head_timeout: Duration::from_millis(1500),
        ..Config::default()
    }
}

async fn whoami(request: Request) -> String {
    let remote = request.extensions().get::<ConnectInfo<SocketAddr>>().unwrap();
    assert!(remote.0.ip().is_loopback());
    match request.extensions().get::<Peer>() {
        Some(peer) => format!("{} {:?}", peer.user, peer.groups),
        None => "nobody".to_owned(),
    }
}

async fn mk_server(tls: Option<(Alpn, &PemPair)>, config: Config, router: Router) -> Running {
    let (cert, cas) = (Arc::new(ServingCert::default()), Arc::new(ClientCas::default()));
    let tls = tls.map(|(alpn, pair)| {
        cert.set_pem(pair.cert.as_bytes(), pair.key.as_bytes()).unwrap();
        Arc::new(Tls::new(Arc::clone(&cert), Some(Arc::clone(&cas)), alpn).unwrap())
    });
    let metrics = Metrics::register(&prometheus::Registry::new(), "test").unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
    let server = Server::new(tls, config, metrics.clone());
    let task = tokio::spawn(server.run(listener, router, stop.clone()));
    Running {
        address,
        stop,
        metrics,
        cert,
        cas,
        task,
    }
}

async fn mk_plain(config: Config) -> Running {
    mk_server(None, config, Router::new().route("/", get(whoami))).await
}

async fn mk_tls(alpn: Alpn, pair: &PemPair) -> Running {
    mk_server(
        Some((alpn, pair)),
        mk_config(),
        Router::new().route("/", get(whoami)),
    )
    .await
}

fn mk_client_config(server: &PemPair, client: Option<&Client>) -> rustls::ClientConfig {
    let mut roots = RootCertStore::empty();
    roots
        .add(CertificateDer::from_pem_slice(server.cert.as_bytes()).unwrap())
        .unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    match client {
        Some(client) => builder
            .with_client_auth_cert(
                client.chain.clone(),
                PrivatePkcs8KeyDer::from(client.key.clone()).into(),
            )
            .unwrap(),
        None => builder.with_no_client_auth(),
    }
}

async fn connect(address: SocketAddr, config: rustls::ClientConfig) -> io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

/// Sends a head and reads until the server closes.
async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, request: &[u8]) -> String {
    let mut answer = Vec::new();
    timeout(DEADLINE, async {
        // Both may fail when the server has seen enough; what it answered is what counts.
        let _ = stream.write_all(request).await;
        let _ = stream.read_to_end(&mut answer).await;
    })
    .await
    .unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(stream: S) -> String {
    exchange(stream, b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await
}

/// Asks with HTTPS and returns the body.
async fn whoami_of(server: &Running, pair: &PemPair, client: Option<&Client>) -> String {
    let stream = connect(server.address, mk_client_config(pair, client))
        .await
        .unwrap();
    let answer = ask(stream).await;
    answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned()
}

async fn closed(server: &Running, open: i64) {
    timeout(DEADLINE, async {
        while server.metrics.open_connections() != open {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_plain_request_is_answered_and_has_no_peer() {
    let server = mk_plain(Config::default()).await;
    let answer = ask(TcpStream::connect(server.address).await.unwrap()).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    assert!(answer.ends_with("nobody"), "{answer}");
    closed(&server, 0).await;
}

#[tokio::test]
async fn the_peer_is_whom_the_client_certificate_names_and_the_bundle_vouches_for() {
    let pair = mk_pair();
    let server = mk_tls(Alpn::Http1, &pair).await;
    let (ca, other): (Ca, Ca) = (mk_ca("ca"), mk_ca("other"));
    let client = mk_client(&ca, "apiserver", &["system:masters"]);
    assert_eq!(
        whoami_of(&server, &pair, Some(&client)).await,
        "nobody",
        "no bundle"
    );
    server.cas.set_pem(other.pem.as_bytes()).unwrap();
    assert_eq!(
        whoami_of(&server, &pair, Some(&client)).await,
        "nobody",
        "unknown CA"
    );
    server.cas.set_pem(ca.pem.as_bytes()).unwrap();
    assert_eq!(
        whoami_of(&server, &pair, Some(&client)).await,
        r#"apiserver ["system:masters"]"#
    );
    assert_eq!(whoami_of(&server, &pair, None).await, "nobody", "no certificate");
}

#[tokio::test]
async fn a_resumed_session_is_judged_by_the_bundle_of_today() {
    let pair = mk_pair();
    let server = mk_tls(Alpn::Http1, &pair).await;
    let ca = mk_ca("ca");
    let client = mk_client(&ca, "apiserver", &[]);
    server.cas.set_pem(ca.pem.as_bytes()).unwrap();
    let config = mk_client_config(&pair, Some(&client));
    let first = ask(connect(server.address, config.clone()).await.unwrap()).await;
    assert!(first.ends_with("apiserver []"), "{first}");
    server.cas.set_pem(mk_ca("other").pem.as_bytes()).unwrap();
    let stream = connect(server.address, config).await.unwrap();
    assert_eq!(
        stream.get_ref().1.handshake_kind(),
        Some(rustls::HandshakeKind::Resumed)
    );
    let second = ask(stream).await;
    assert!(second.ends_with("nobody"), "{second}");
}

#[tokio::test]
async fn a_new_certificate_is_served_from_the_next_handshake_on() {
    let (old, new) = (mk_pair(), mk_pair());
    let server = mk_tls(Alpn::Http1, &old).await;
    let kept = connect(server.address, mk_client_config(&old, None))
        .await
        .unwrap();
    server
        .cert
        .set_pem(new.cert.as_bytes(), new.key.as_bytes())
        .unwrap();
    assert!(
        connect(server.address, mk_client_config(&old, None))
            .await
            .is_err(),
        "old certificate still served"
    );
    assert_eq!(whoami_of(&server, &new, None).await, "nobody");
    assert!(
        ask(kept).await.ends_with("nobody"),
        "the connection of before goes on"
    );
}

#[tokio::test]
async fn http2_is_offered_only_where_asked_for() {
    let pair = mk_pair();
    for (alpn, wanted) in [
        (Alpn::Http1, b"http/1.1".as_slice()),
        (Alpn::Http2AndHttp1, b"h2"),
    ] {
        let server = mk_tls(alpn, &pair).await;
        let mut config = mk_client_config(&pair, None);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let stream = connect(server.address, config).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(wanted));
        if wanted == b"h2" {
            let (mut sender, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
                    .await
                    .unwrap();
            let connection = tokio::spawn(connection);
            let request = Request::builder()
                .uri("https://localhost/")
                .body(Body::empty())
                .unwrap();
            let answer = sender.send_request(request.map(Body::new)).await.unwrap();
            assert_eq!(answer.status(), 200);
            drop(sender);
            connection.await.unwrap().unwrap();
        }
    }
}

#[tokio::test]
async fn bad_clients_end_at_their_deadline_and_hinder_nobody() {
    let pair = mk_pair();
    let server = mk_tls(Alpn::Http2AndHttp1, &pair).await;
    let mut config = mk_client_config(&pair, None);
    let mut bad: Vec<Box<dyn AsyncReadWrite>> = Vec::new();
    // Silent, garbage, and half a TLS record, before the handshake.
    for bytes in [b"".as_slice(), b"\x00garbage\r\n", b"\x16\x03\x01"] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        bad.push(Box::new(stream));
    }
    // Silent, garbage, half a head, after it; then silent and half a preface on HTTP/2.
    for bytes in [b"".as_slice(), b"\x01\x02\r\n\r\n", b"GET / HTTP/1.1\r\nhost:"] {
        let mut stream = connect(server.address, config.clone()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        bad.push(Box::new(stream));
    }
    config.alpn_protocols = vec![b"h2".to_vec()];
    for bytes in [b"".as_slice(), b"PRI * HTTP"] {
        let mut stream = connect(server.address, config.clone()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        bad.push(Box::new(stream));
    }
    assert_eq!(whoami_of(&server, &pair, None).await, "nobody");
    for stream in bad {
        let answer = exchange(stream, b"").await;
        assert!(!answer.contains("200 OK"), "{answer}");
    }
    closed(&server, 0).await;
}

trait AsyncReadWrite: AsyncRead + AsyncWrite + Unpin {}
impl<S: AsyncRead + AsyncWrite + Unpin> AsyncReadWrite for S {}

/// A ClientHello by hand: a version, a cipher suite, and what a P-256 certificate needs.
fn mk_client_hello(version: [u8; 2], suite: [u8; 2]) -> Vec<u8> {
    let extensions = [
        &[0, 10, 0, 4, 0, 2, 0, 23][..],  // supported_groups: secp256r1
        &[0, 11, 0, 2, 1, 0],             // ec_point_formats: uncompressed
        &[0, 13, 0, 6, 0, 4, 4, 3, 8, 4], // signature_algorithms: ecdsa_secp256r1_sha256, rsa_pss_rsae_sha256
        &[0, 23, 0, 0],                   // extended_master_secret
    ]
    .concat();
    let with_length = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
    let body = [
        &version[..],
        &[7; 32],
        &[0],
        &with_length(&suite),
        &[1, 0],
        &with_length(&extensions),
    ]
    .concat();
    let handshake = [&[1, 0][..], &with_length(&body)].concat();
    [&[22, 3, 1][..], &with_length(&handshake)].concat()
}

#[tokio::test]
async fn old_versions_and_weak_suites_are_refused_in_the_handshake() {
    const HANDSHAKE: u8 = 22;
    const ALERT: u8 = 21;
    const ECDHE_GCM: [u8; 2] = [0xc0, 0x2b];
    const ECDHE_CBC: [u8; 2] = [0xc0, 0x09];
    const RSA_GCM: [u8; 2] = [0x00, 0x9c];
    let pair = mk_pair();
    let server = mk_tls(Alpn::Http1, &pair).await;
    for (what, version, suite, wanted) in [
        ("TLS 1.2", [3, 3], ECDHE_GCM, HANDSHAKE),
        ("TLS 1.1", [3, 2], ECDHE_GCM, ALERT),
        ("TLS 1.0", [3, 1], ECDHE_GCM, ALERT),
        ("SSL 3.0", [3, 0], ECDHE_GCM, ALERT),
        ("CBC", [3, 3], ECDHE_CBC, ALERT),
        ("no forward secrecy", [3, 3], RSA_GCM, ALERT),
    ] {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream.write_all(&mk_client_hello(version, suite)).await.unwrap();
        let answer = timeout(DEADLINE, stream.read_u8()).await.unwrap().unwrap();
        assert_eq!(answer, wanted, "{what}");
    }
}

/// Which timer runs for the server's end of a connection, as Linux says it: 2 is that of keepalive.
fn timer_of(server: SocketAddr, client: SocketAddr) -> Option<String> {
    let hex = |address: SocketAddr| format!("0100007F:{:04X}", address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let mut rows = table
        .lines()
        .map(|row| row.split_whitespace().collect::<Vec<_>>());
    let row = rows.find(|row| row.len() > 5 && row[1] == hex(server) && row[2] == hex(client))?;
    Some(row[5][..2].to_owned())
}

#[tokio::test]
async fn a_peer_that_vanished_is_probed_for() {
    let server = mk_plain(Config::default()).await;
    let stream = TcpStream::connect(server.address).await.unwrap();
    let client = stream.local_addr().unwrap();
    timeout(DEADLINE, async {
        while timer_of(server.address, client).as_deref() != Some("02") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("keepalive is on");
}

#[tokio::test]
async fn a_head_beyond_the_limit_is_refused() {
    let server = mk_plain(Config {
        max_head_bytes: 16 << 10,
        ..Config::default()
    })
    .await;
    let head = |bytes| {
        format!(
            "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx: {}\r\n\r\n",
            "x".repeat(bytes)
        )
    };
    let stream = || TcpStream::connect(server.address);
    let small = exchange(stream().await.unwrap(), head(8 << 10).as_bytes()).await;
    assert!(small.starts_with("HTTP/1.1 200"), "{small}");
    let large = exchange(stream().await.unwrap(), head(17 << 10).as_bytes()).await;
    assert!(large.is_empty() || large.starts_with("HTTP/1.1 431"), "{large}");
}

#[tokio::test]
async fn beyond_the_limit_connections_wait_for_a_slot() {
    let config = Config {
        max_connections: 1,
        head_timeout: DEADLINE,
        ..Config::default()
    };
    let server = mk_plain(config).await;
    let first = TcpStream::connect(server.address).await.unwrap();
    closed(&server, 1).await;
    let mut second = tokio::spawn(ask(TcpStream::connect(server.address).await.unwrap()));
    assert!(
        timeout(Duration::from_millis(100), &mut second).await.is_err(),
        "served beyond the limit"
    );
    assert_eq!(server.metrics.open_connections(), 1);
    drop(first);
    assert!(
        timeout(DEADLINE, second)
            .await
            .unwrap()
            .unwrap()
            .ends_with("nobody")
    );
}

#[tokio::test]
async fn silent_connections_of_one_address_leave_room_for_others() {
    let config = Config {
        max_connections: 4,
        max_per_address: 2,
        head_timeout: DEADLINE,
        ..Config::default()
    };
    let server = mk_plain(config).await;
    let mut silent = Vec::new();
    for _ in 0..2 {
        silent.push(TcpStream::connect(server.address).await.unwrap());
    }
    closed(&server, 2).await;
    // All of 127.0.0.0/8 is loopback.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let other = socket.connect(server.address).await.unwrap();
    let refused = ask(TcpStream::connect(server.address).await.unwrap()).await;
    assert_eq!(refused, "", "closed at once");
    assert!(ask(other).await.ends_with("nobody"));
    drop(silent);
    closed(&server, 0).await;
    let again = ask(TcpStream::connect(server.address).await.unwrap()).await;
    assert!(again.ends_with("nobody"), "{again}");
}

/// A handler that says that it began and ends when told to.
fn mk_held() -> (Router, mpsc::UnboundedReceiver<Connection>, Arc<Notify>) {
    let (tx, rx) = mpsc::unbounded_channel();
    let go = Arc::new(Notify::new());
    let wait = Arc::clone(&go);
    let handler = move |Extension(connection): Extension<Connection>| async move {
        tx.send(connection).unwrap();
        wait.notified().await;
        "finished"
    };
    (Router::new().route("/", get(handler)), rx, go)
}

#[tokio::test]
async fn draining_lets_a_request_finish_and_accepts_no_more() {
    let (router, mut began, go) = mk_held();
    let server = mk_server(None, Config::default(), router).await;
    let asked = tokio::spawn(ask(TcpStream::connect(server.address).await.unwrap()));
    drop(timeout(DEADLINE, began.recv()).await.unwrap().unwrap());
    server.stop.cancel();
    timeout(DEADLINE, async {
        while TcpStream::connect(server.address).await.is_ok() {}
    })
    .await
    .unwrap();
    assert!(!server.task.is_finished());
    go.notify_one();
    assert!(asked.await.unwrap().ends_with("finished"));
    timeout(DEADLINE, server.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_drain_ends_at_its_deadline_and_says_so_to_streams() {
    let (router, mut began, _go) = mk_held();
    let config = Config {
        drain_timeout: Duration::from_millis(100),
        ..Config::default()
    };
    let server = mk_server(None, config, router).await;
    let asked = tokio::spawn(ask(TcpStream::connect(server.address).await.unwrap()));
    let connection = timeout(DEADLINE, began.recv()).await.unwrap().unwrap();
    server.stop.cancel();
    timeout(DEADLINE, connection.aborted()).await.unwrap();
    assert_eq!(asked.await.unwrap(), "", "the request was cut off");
    assert_eq!(
        server.metrics.open_connections(),
        1,
        "a stream holds its connection"
    );
    drop(connection);
    timeout(DEADLINE, server.task).await.unwrap().unwrap();
    assert_eq!(server.metrics.open_connections(), 0);
}
