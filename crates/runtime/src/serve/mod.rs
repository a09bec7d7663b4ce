//! The HTTP(S) server of every Tensile component: an accept loop around an axum [`Router`].
//!
//! One slow, silent or broken client must not hinder the others. Handshake and head have deadlines and happen in
//! the connection's own task, heads are bounded, and so is the number of connections; at that limit no more are
//! accepted and the rest wait in the kernel's backlog. Before that, whoever has too many of them gets no more.
//!
//! Requests find in their extensions: the [`Connection`], `axum::extract::ConnectInfo<SocketAddr>`, and the
//! [`Peer`](crate::tls::Peer) if the client showed a certificate that a client CA vouches for.
//!
//! Draining: after `stop` no connection is accepted, idle ones are closed, and requests and upgraded streams (all
//! that hold a [`Connection`]) may finish until [`Config::drain_timeout`]; then [`Connection::aborted`] fires.

mod connection;
mod crowd;
mod metrics;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::tls::Tls;

pub use connection::Connection;
pub use metrics::Metrics;

use crowd::{Crowd, Place};
use metrics::Failure;

/// How long the loop rests after a failed accept (no file descriptors left, usually). Go's net/http backs off up to
/// one second; a fixed tenth of it keeps the loop from spinning.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// After the drain deadline, how long holders of a [`Connection`] get to see [`Connection::aborted`].
const ABORT_GRACE: Duration = Duration::from_secs(2);
/// First and further probes of an idle TCP connection: Go's listener default, so half-open peers are noticed.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Length of the HTTP/2 client preface (RFC 9113 section 3.4).
const H2_PREFACE: usize = 24;
/// hyper's smallest read buffer; it panics below.
const MIN_BUFFER: usize = 8192;

/// Limits of a server.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Connections at one time, upgraded streams included. 4096 leaves room for the 500 streams of a large node
    /// and its scrapers, at two file descriptors each, within the usual limit of 65 536.
    pub max_connections: usize,
    /// Connections of one address at one time: half of all, so that one that opens them and says nothing leaves room for
    /// others. More are closed at once. An API server before 1024 streams needs little more than these.
    pub max_per_address: usize,
    /// Time for a TLS handshake. Go's `TLSHandshakeTimeout` default is 10 s.
    pub handshake_timeout: Duration,
    /// Time for the head of a request, counted from the end of the one before, so also the idle time of a kept
    /// connection. 30 s is hyper's own default. Clients notice the close and dial again.
    pub head_timeout: Duration,
    /// Bytes of a request head: 1 MiB, as the kubelet's `MaxHeaderBytes`. (The request target alone is limited to
    /// 64 KiB by the `http` crate.)
    pub max_head_bytes: usize,
    /// How long requests and streams may finish after `stop`. 30 s is the default grace period of a pod.
    pub drain_timeout: Duration,
}

/// A server that is ready to run.
#[derive(Clone, Debug)]
pub struct Server {
    tls: Option<Arc<Tls>>,
    config: Config,
    metrics: Metrics,
}

/// What all connections of one server share.
struct Shared {
    server: Server,
    router: Router,
    crowd: Arc<Crowd>,
    tracker: TaskTracker,
    stop: CancellationToken,
    abort: CancellationToken,
}

/// One of all connections, and one of its address.
type Slot = (OwnedSemaphorePermit, Place);

#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("TLS handshake: {0}")]
    Handshake(#[source] io::Error),
    #[error("no TLS handshake or first bytes in time")]
    Timeout,
    #[error("serving: {0}")]
    Http(#[source] hyper::Error),
}

// === impl Config ===

impl Default for Config {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            max_per_address: 2048,
            handshake_timeout: Duration::from_secs(10),
            head_timeout: Duration::from_secs(30),
            max_head_bytes: 1 << 20,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

// === impl Server ===

impl Server {
    /// A server with the given limits; plain HTTP without `tls`.
    #[must_use]
    pub fn new(tls: Option<Arc<Tls>>, config: Config, metrics: Metrics) -> Self {
        Self { tls, config, metrics }
    }

    /// Serves `router` on `listener` until `stop`, then drains. Returns when every connection has ended.
    pub async fn run(self, listener: TcpListener, router: Router, stop: CancellationToken) {
        let slots = Arc::new(Semaphore::new(self.config.max_connections));
        let drain_timeout = self.config.drain_timeout;
        let shared = Arc::new(Shared {
            crowd: Crowd::new(self.config.max_per_address),
            server: self,
            router,
            tracker: TaskTracker::new(),
            stop,
            abort: CancellationToken::new(),
        });
        let accepting = accept_loop(&listener, &slots, &shared);
        shared.stop.run_until_cancelled(accepting).await;
        drop(listener);
        shared.tracker.close();
        if timeout(drain_timeout, shared.tracker.wait()).await.is_err() {
            tracing::info!(
                open = shared.tracker.len(),
                "ending connections that did not finish in time"
            );
            shared.abort.cancel();
            // Only a holder that ignores `aborted` is still there after this; the process ends anyway.
            let _ = timeout(ABORT_GRACE, shared.tracker.wait()).await;
        }
    }
}

async fn accept_loop(listener: &TcpListener, slots: &Arc<Semaphore>, shared: &Arc<Shared>) {
    loop {
        // The semaphore is never closed, so this only waits.
        let Ok(slot) = Arc::clone(slots).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, remote)) => match shared.crowd.enter(remote.ip()) {
                Some(place) => {
                    let task = Arc::clone(shared).handle(stream, remote, (slot, place));
                    shared.tracker.spawn(task);
                }
                None => shared.server.metrics.failed(Failure::Crowded),
            },
            Err(error) => {
                shared.server.metrics.failed(Failure::Accept);
                tracing::warn!(%error, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

// === impl Shared ===

impl Shared {
    /// The whole life of one connection.
    async fn handle(self: Arc<Self>, stream: TcpStream, remote: SocketAddr, slot: Slot) {
        let abort = self.abort.clone();
        let metrics = self.server.metrics.clone();
        let served = abort.run_until_cancelled(self.handshake(stream, remote, slot));
        if let Some(Err(error)) = served.await {
            metrics.failed(error.failure());
            tracing::debug!(%remote, %error, "connection failed");
        }
    }

    async fn handshake(
        &self,
        stream: TcpStream,
        remote: SocketAddr,
        slot: Slot,
    ) -> Result<(), ConnectionError> {
        tune(&stream);
        let open = self.server.metrics.open();
        let connection = |peer| {
            Connection::new(
                remote,
                peer,
                self.abort.clone(),
                self.tracker.token(),
                (slot, open),
            )
        };
        let Some(tls) = &self.server.tls else {
            return self.http1(stream, connection(None)).await;
        };
        let handshake = timeout(
            self.server.config.handshake_timeout,
            tls.acceptor().accept(stream),
        );
        let stream = handshake
            .await
            .map_err(|_| ConnectionError::Timeout)?
            .map_err(ConnectionError::Handshake)?;
        let (_, session) = stream.get_ref();
        let connection = connection(tls.peer(session));
        // Chosen by ALPN alone: sniffing the first bytes would need a deadline of its own, and hyper-util's
        // `auto` builder has none.
        match session.alpn_protocol() {
            Some(b"h2") => self.http2(stream, connection).await,
            _ => self.http1(stream, connection).await,
        }
    }

    async fn http1<S>(&self, stream: S, connection: Connection) -> Result<(), ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let config = &self.server.config;
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder
            .timer(TokioTimer::new())
            .header_read_timeout(config.head_timeout);
        builder
            .max_header_size(config.max_head_bytes)
            .max_buf_size(config.max_head_bytes.max(MIN_BUFFER));
        let service = service_fn(move |request| self.answer(&connection, request));
        let mut serving = std::pin::pin!(
            builder
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades()
        );
        let done = tokio::select! {
            done = serving.as_mut() => done,
            () = self.stop.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        done.map_err(ConnectionError::Http)
    }

    async fn http2<S>(&self, stream: S, connection: Connection) -> Result<(), ConnectionError>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let config = &self.server.config;
        // hyper waits for the client preface without a deadline, so it is read here.
        let (mut reader, writer) = tokio::io::split(stream);
        let mut preface = [0; H2_PREFACE];
        let read = timeout(config.head_timeout, reader.read_exact(&mut preface)).await;
        read.map_err(|_| ConnectionError::Timeout)?
            .map_err(ConnectionError::Handshake)?;
        let io = tokio::io::join(io::Cursor::new(preface).chain(reader), writer);

        let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .keep_alive_interval(config.head_timeout);
        builder.max_header_list_size(u32::try_from(config.max_head_bytes).unwrap_or(u32::MAX));
        let service = service_fn(move |request| self.answer(&connection, request));
        let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(io), service));
        let done = tokio::select! {
            done = serving.as_mut() => done,
            () = self.stop.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        done.map_err(ConnectionError::Http)
    }

    /// Answers one request with the router, which finds in its extensions what is known of the connection.
    fn answer(
        &self,
        connection: &Connection,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Body>, Infallible>> + use<> {
        let mut request = request.map(Body::new);
        let extensions = request.extensions_mut();
        extensions.insert(ConnectInfo(connection.remote()));
        if let Some(peer) = connection.peer() {
            extensions.insert(peer.clone());
        }
        extensions.insert(connection.clone());
        self.router.clone().oneshot(request)
    }
}

// === impl ConnectionError ===

impl ConnectionError {
    fn failure(&self) -> Failure {
        match self {
            Self::Handshake(_) => Failure::Handshake,
            Self::Timeout => Failure::HandshakeTimeout,
            Self::Http(_) => Failure::Http,
        }
    }
}

/// Small answers leave at once, and a peer that vanished is noticed. Failure to tune is no reason to refuse.
fn tune(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE);
    let tuned = stream
        .set_nodelay(true)
        .and_then(|()| SockRef::from(stream).set_tcp_keepalive(&keepalive));
    if let Err(error) = tuned {
        tracing::debug!(%error, "setting TCP options");
    }
}
