//! An API server that answers wrongly: a server with a certificate of the cluster that passes requests on, or not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{Response, StatusCode, header};
use axum::{BoxError, Router};
use e2e::Cluster;
use futures::{Stream, StreamExt, stream};
use http_body_util::BodyExt;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tensile_runtime::cluster::{Cluster as Connection, Source};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

/// Longest time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How requests are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Storm {
    /// As the API server does.
    None,
    /// Four of five are refused with 429.
    TooMany,
    /// A third is answered with 504 without being passed on, and a third although it was carried out.
    TimedOut,
    /// Watches end with 410, and cannot be taken up where they were.
    Expired,
}

/// What happens to one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Pass,
    /// Answered with this status, and not passed on.
    Refuse(u16),
    /// Carried out, and answered with this status.
    Deny(u16),
}

/// A gateway on loopback; it ends when dropped.
pub(crate) struct Gateway {
    address: SocketAddr,
    storm: watch::Sender<Storm>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Clone)]
struct Shared {
    upstream: kube::Client,
    storm: watch::Receiver<Storm>,
    requests: Arc<AtomicUsize>,
}

/// Connections whose handshake is done.
struct Handshaken {
    address: SocketAddr,
    connections: mpsc::Receiver<(TlsStream<TcpStream>, SocketAddr)>,
}

// === impl Storm ===

impl Storm {
    /// What happens to the request with this number in the storm.
    fn verdict(self, number: usize, takes_up_a_watch: bool) -> Verdict {
        match (self, number) {
            (Self::TooMany, number) if number % 5 != 0 => Verdict::Refuse(429),
            (Self::TimedOut, number) if number % 3 == 1 => Verdict::Refuse(504),
            (Self::TimedOut, number) if number % 3 == 2 => Verdict::Deny(504),
            (Self::Expired, _) if takes_up_a_watch => Verdict::Refuse(410),
            _ => Verdict::Pass,
        }
    }
}

// === impl Gateway ===

impl Gateway {
    /// Starts a gateway in front of the API server of `cluster`.
    pub(crate) async fn start(cluster: &Cluster, name: &str) -> Result<Self> {
        let upstream = Connection::open(Source::File(cluster.kubeconfig().to_owned())).await?;
        let acceptor = acceptor(cluster, name)?;
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (storm, is_storm) = watch::channel(Storm::None);
        let shared = Shared {
            upstream: upstream.client,
            storm: is_storm,
            requests: Arc::default(),
        };
        let (send, connections) = mpsc::channel(16);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, peer)) = listener.accept().await {
                let (acceptor, send) = (acceptor.clone(), send.clone());
                tokio::spawn(async move {
                    if let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
                        // Nobody takes it only when the gateway ends.
                        let _ = send.send((stream, peer)).await;
                    }
                });
            }
        });
        let router = Router::new().fallback(answer).with_state(shared);
        let serving = tokio::spawn(async move {
            // It ends with the gateway.
            let _ = axum::serve(Handshaken { address, connections }, router).await;
        });
        Ok(Self {
            address,
            storm,
            tasks: vec![accepting, serving],
        })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes how requests are answered from now on.
    pub(crate) fn set(&self, storm: Storm) {
        self.storm.send_replace(storm);
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl axum::serve::Listener for Handshaken {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        match self.connections.recv().await {
            Some(connection) => connection,
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        Ok(self.address)
    }
}

fn acceptor(cluster: &Cluster, name: &str) -> Result<TlsAcceptor> {
    let (certificate, key) = cluster.serving_certificate(name, &["127.0.0.1"])?;
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_file_iter(certificate)?.collect::<Result<_, _>>()?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

async fn answer(State(shared): State<Shared>, request: Request) -> Response<Body> {
    let query = request.uri().query().unwrap_or_default();
    let watches = query.contains("watch=true");
    let takes_up = watches && query.contains("resourceVersion=") && !query.contains("sendInitialEvents=true");
    let number = shared.requests.fetch_add(1, Ordering::Relaxed);
    let storm = *shared.storm.borrow();
    let verdict = storm.verdict(number, takes_up);
    if let Verdict::Refuse(code) = verdict {
        return refusal(code);
    }
    let passed = pass(&shared, request, watches).await;
    match (verdict, passed) {
        (Verdict::Deny(code), Ok(response)) if !watches => {
            drop(response);
            refusal(code)
        }
        (_, Ok(response)) => response,
        (_, Err(_)) => refusal(502),
    }
}

/// Sends a request on; the answer streams.
async fn pass(shared: &Shared, request: Request, watches: bool) -> Result<Response<Body>> {
    let (mut parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().context("no path")?;
    parts.uri = path.as_str().parse()?;
    parts.version = axum::http::Version::HTTP_11;
    for name in [header::HOST, header::CONTENT_LENGTH, header::CONNECTION] {
        parts.headers.remove(name);
    }
    let body = axum::body::to_bytes(body, usize::MAX).await?.to_vec();
    let request = axum::http::Request::from_parts(parts, kube::client::Body::from(body));
    let (mut parts, body) = shared.upstream.send(request).await?.into_parts();
    for name in [
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
    ] {
        parts.headers.remove(name);
    }
    parts.version = axum::http::Version::HTTP_11;
    let chunks = body.into_data_stream().map(|chunk| chunk.map_err(BoxError::from));
    let body = if watches {
        Body::from_stream(until_expired(chunks, shared.storm.clone()))
    } else {
        Body::from_stream(chunks)
    };
    Ok(Response::from_parts(parts, body))
}

/// The events of a watch, until the storm that lets it expire.
fn until_expired<S>(
    chunks: S,
    storm: watch::Receiver<Storm>,
) -> impl Stream<Item = Result<Bytes, BoxError>> + Send
where
    S: Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
{
    let start = (Box::pin(chunks), storm, Some(true));
    stream::unfold(start, async |(mut chunks, mut storm, whole)| {
        let whole_line = whole?;
        tokio::select! {
                    chunk = chunks.next() => {
                        let chunk = chunk?;
                        let whole = chunk.as_ref().is_ok_and(|bytes| bytes.ends_with(b"\n"));
                        Some((chunk, (chunks, storm, Some(whole))))
                    }
        () = async { drop(storm.wait_for(|storm| *storm == Storm::Expired).await.map(drop)) } => {
                        // In the middle of an event there is only the end of the connection.
                        let event = json!({"type": "ERROR", "object": status(410)});
                        let last = if whole_line { Ok(Bytes::from(format!("{event}\n"))) } else { Err("cut".into()) };
                        Some((last, (chunks, storm, None)))
                    }
                }
    })
}

fn refusal(code: u16) -> Response<Body> {
    let mut response = Response::new(Body::from(status(code).to_string()));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        header::HeaderValue::from_static("application/json"),
    );
    if code == 429 {
        headers.insert(header::RETRY_AFTER, header::HeaderValue::from_static("1"));
    }
    response
}

fn status(code: u16) -> serde_json::Value {
    let (reason, message) = match code {
        410 => ("Expired", "too old resource version"),
        429 => ("TooManyRequests", "the server has received too many requests"),
        504 => ("Timeout", "the server could not complete the request in time"),
        _ => ("InternalError", "the API server cannot be reached"),
    };
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
           "reason": reason, "message": message, "code": code})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_storm_is_no_wall() {
        let verdicts =
            |storm: Storm| -> Vec<Verdict> { (0..6).map(|number| storm.verdict(number, true)).collect() };
        use Verdict::{Deny, Pass, Refuse};
        assert_eq!(verdicts(Storm::None), [Pass; 6]);
        let refused = Refuse(429);
        assert_eq!(
            verdicts(Storm::TooMany),
            [Pass, refused, refused, refused, refused, Pass]
        );
        let (refused, denied) = (Refuse(504), Deny(504));
        assert_eq!(
            verdicts(Storm::TimedOut),
            [Pass, refused, denied, Pass, refused, denied]
        );
        assert_eq!(verdicts(Storm::Expired), [Refuse(410); 6]);
        assert_eq!(Storm::Expired.verdict(1, false), Pass, "lists still work");
    }

    #[tokio::test]
    async fn a_watch_expires_after_a_whole_event_and_breaks_within_one() {
        for (sent, ends) in [("{}\n", "410"), ("{", "cut")] {
            let (storm, is_storm) = watch::channel(Storm::None);
            let first = Bytes::from(sent);
            let chunks = stream::iter([Ok(first.clone())]).chain(stream::pending());
            let mut watch = Box::pin(until_expired(chunks, is_storm));
            assert_eq!(watch.next().await.unwrap().unwrap(), first);
            storm.send_replace(Storm::Expired);
            let end = match watch.next().await.unwrap() {
                Ok(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
                Err(error) => error.to_string(),
            };
            assert!(end.contains(ends), "{end}");
            assert!(watch.next().await.is_none());
        }
    }
}
