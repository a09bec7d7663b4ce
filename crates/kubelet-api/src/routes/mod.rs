//! The endpoints, one per file.

pub(crate) mod attach;
pub(crate) mod configz;
pub(crate) mod exec;
pub(crate) mod healthz;
pub(crate) mod logs;
pub(crate) mod metrics;
pub(crate) mod missing;
pub(crate) mod pods;
pub(crate) mod port_forward;
pub(crate) mod stats;

use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use http::StatusCode;

use crate::backend::{Backend, PodRef, ResolveError, Unavailable};
use crate::metrics::{Kind, Metrics};
use crate::stream::StreamQueryError;
use crate::text::text;
use crate::tunnel::{Streams, is_upgrade};

/// What the endpoints share.
pub(crate) struct App<B> {
    pub(crate) backend: Arc<B>,
    pub(crate) streams: Streams,
    pub(crate) metrics: Metrics,
}

/// A streaming request after its path and query were read.
pub(crate) struct StreamRequest {
    pub(crate) kind: Kind,
    pub(crate) pod: PodRef,
    pub(crate) container: Option<String>,
    /// The pod's subresource on the other API server, such as `exec`.
    pub(crate) subresource: &'static str,
    /// The query for it.
    pub(crate) query: Result<String, StreamQueryError>,
}

// === impl App ===

impl<B> Clone for App<B> {
    fn clone(&self) -> Self {
        Self {
            backend: Arc::clone(&self.backend),
            streams: self.streams.clone(),
            metrics: self.metrics.clone(),
        }
    }
}

impl<B: Backend> App<B> {
    /// The common course of exec, attach and port-forward.
    pub(crate) async fn stream(&self, request: Request, stream: StreamRequest) -> Response {
        let query = match stream.query {
            Ok(query) => query,
            Err(error) => return text(StatusCode::BAD_REQUEST, error.to_string()),
        };
        if !is_upgrade(request.headers()) {
            let message = "unable to upgrade: missing upgrade headers in request\n";
            return text(StatusCode::BAD_REQUEST, message);
        }
        let container = stream.container.as_deref();
        match self.backend.resolve(&stream.pod, container).await {
            Ok(target) => {
                let path = format!("{}?{query}", target.path(stream.subresource));
                self.streams.open(stream.kind, request, &target, &path).await
            }
            Err(error) => stream_refusal(&error, container.unwrap_or_default()),
        }
    }
}

/// What a kubelet answers to a stream that it cannot open.
fn stream_refusal(error: &ResolveError, container: &str) -> Response {
    match error {
        ResolveError::NoPod | ResolveError::WrongUid => text(StatusCode::NOT_FOUND, error.to_string()),
        ResolveError::NoContainer => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("container not found ({container:?})"),
        ),
        ResolveError::NotStarted(_) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        ResolveError::Unavailable(_) => text(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

/// The answer to a question that has none now.
fn unavailable(error: &Unavailable) -> Response {
    text(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

/// A pod without a UID, as the API server names it.
fn pod_ref(namespace: String, name: String, uid: Option<String>) -> PodRef {
    PodRef { namespace, name, uid }
}
