//! Exec, attach and port-forward: the upgrade is passed on to the API server behind the node, and then bytes are
//! moved both ways without looking at them. SPDY and every WebSocket protocol work the same.
//!
//! ```text
//! caller ── upgrade ──▶ us ── upgrade ──▶ API server ──▶ kubelet ──▶ container
//!        ◀──── 101 ────    ◀──── 101 ────
//!        ◀══════════════ bytes ══════════▶
//! ```

mod head;
pub(crate) mod printed;
mod splice;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use http::{HeaderMap, Method, StatusCode};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tensile_runtime::serve::Connection;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::answer;
use crate::backend::Target;
use crate::metrics::{Kind, Metrics, OpenStream, Outcome};
use crate::text::text;

pub(crate) use head::is_upgrade;

/// Limits of streams.
#[derive(Clone, Copy, Debug)]
pub struct StreamConfig {
    /// Streams open at one time, over all nodes that share the [`Streams`]. Each has two connections and up to
    /// 32 KiB of buffers, so 1024 need some 64 MiB at most.
    pub max_streams: usize,
    /// Time until the other API server must have answered the upgrade: a kubelet's `streamCreationTimeout`.
    pub creation_timeout: Duration,
    /// A stream that moved no byte for this long is ended, at the latest after twice as long. A kubelet's
    /// `streamingConnectionIdleTimeout` is 4 h.
    pub idle_timeout: Duration,
    /// When one side has ended, how long bytes that are still on their way from the other are passed on.
    pub linger: Duration,
}

/// The streams of a process: their limits and counts. Clones share them.
#[derive(Clone, Debug)]
pub struct Streams {
    slots: Arc<Semaphore>,
    config: StreamConfig,
    metrics: Metrics,
}

/// What lives as long as a stream does: its slot, its count, and the connection that it came in on.
pub(crate) struct Held {
    counted: OpenStream,
    connection: Option<Connection>,
    _slot: OwnedSemaphorePermit,
}

// === impl StreamConfig ===

impl Default for StreamConfig {
    fn default() -> Self {
        Self {
            max_streams: 1024,
            creation_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(4 * 3600),
            linger: Duration::from_secs(5),
        }
    }
}

// === impl Streams ===

impl Streams {
    /// Streams within the limits of `config`.
    #[must_use]
    pub fn new(config: StreamConfig, metrics: Metrics) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(config.max_streams)),
            config,
            metrics,
        }
    }

    /// Passes the upgrade `request` on to `path_and_query` at `target`. After a 101 the stream goes on by itself.
    pub(crate) async fn open(
        &self,
        kind: Kind,
        mut request: Request,
        target: &Target,
        path_and_query: &str,
    ) -> Response {
        let caller = hyper::upgrade::on(&mut request);
        let opened = self
            .ask(kind, request.method(), request.headers(), target, path_and_query)
            .await;
        match opened {
            Ok((response, mut held)) => {
                held.connection = request.extensions_mut().remove::<Connection>();
                self.switch(caller, response, held)
            }
            Err(refusal) => refusal,
        }
    }

    /// A WebSocket of our own to `path_and_query` at `target`, within the same limits; an answer if there is none. It
    /// counts as open while the second value lives.
    pub(crate) async fn connect(
        &self,
        kind: Kind,
        target: &Target,
        path_and_query: &str,
    ) -> Result<(TokioIo<Upgraded>, Held), Response> {
        let (mut response, held) = self
            .ask(kind, &Method::GET, &printed::headers(), target, path_and_query)
            .await?;
        match hyper::upgrade::on(&mut response).await {
            Ok(stream) => Ok((TokioIo::new(stream), held)),
            Err(error) => Err(text(StatusCode::BAD_GATEWAY, error.to_string())),
        }
    }

    /// The other API server's 101, and what is held while the stream lives; else the answer for the caller.
    async fn ask(
        &self,
        kind: Kind,
        method: &Method,
        headers: &HeaderMap,
        target: &Target,
        path_and_query: &str,
    ) -> Result<(http::Response<kube::client::Body>, Held), Response> {
        let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() else {
            self.metrics.stream(kind, Outcome::TooMany);
            return Err(text(
                StatusCode::TOO_MANY_REQUESTS,
                "too many streams are open; try again later\n",
            ));
        };
        let response = match self.dial(method, headers, target, path_and_query).await {
            Ok(response) => response,
            Err(message) => {
                self.metrics.stream(kind, Outcome::Unreachable);
                return Err(text(StatusCode::BAD_GATEWAY, message));
            }
        };
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            self.metrics.stream(kind, Outcome::Refused);
            return Err(refused(response).await);
        }
        self.metrics.stream(kind, Outcome::Open);
        let held = Held {
            counted: self.metrics.open_stream(kind),
            connection: None,
            _slot: slot,
        };
        Ok((response, held))
    }

    async fn dial(
        &self,
        method: &Method,
        headers: &HeaderMap,
        target: &Target,
        path_and_query: &str,
    ) -> Result<http::Response<kube::client::Body>, String> {
        let request = head::request(method, headers, path_and_query).map_err(|error| error.to_string())?;
        match tokio::time::timeout(self.config.creation_timeout, target.client.send(request)).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(format!("the pod's cluster cannot be reached: {error}")),
            Err(_) => Err("the pod's cluster did not answer in time".to_owned()),
        }
    }

    /// Answers 101 with the other side's headers as they are, and moves bytes from then on.
    fn switch(
        &self,
        caller: OnUpgrade,
        mut response: http::Response<kube::client::Body>,
        held: Held,
    ) -> Response {
        let pod = hyper::upgrade::on(&mut response);
        tokio::spawn(held.carry(caller, pod, self.config));
        let (parts, _) = response.into_parts();
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = parts.status;
        *answer.headers_mut() = parts.headers;
        answer
    }
}

// === impl Held ===

impl Held {
    /// The stream from the switch to its end.
    async fn carry(self, caller: OnUpgrade, pod: OnUpgrade, config: StreamConfig) {
        // Fails when the caller left before it got the 101.
        let Ok((caller, pod)) = tokio::try_join!(caller, pod) else {
            return;
        };
        let (caller, pod) = (TokioIo::new(caller), TokioIo::new(pod));
        let ended = splice::splice(caller, pod, &self.counted, config.idle_timeout, config.linger);
        match &self.connection {
            Some(connection) => tokio::select! { () = ended => {}, () = connection.aborted() => {} },
            None => ended.await,
        }
    }
}

/// The other side's error in its own words; what is neither an upgrade nor an error is one on its part.
async fn refused(response: http::Response<kube::client::Body>) -> Response {
    let status = response.status();
    if status.is_client_error() || status.is_server_error() {
        return answer::relay_error(response).await;
    }
    let message = format!("invalid upgrade response: status code {}", status.as_u16());
    text(StatusCode::INTERNAL_SERVER_ERROR, message)
}
