//! The endpoints, one per file.

pub(crate) mod attach;
pub(crate) mod cadvisor;
pub(crate) mod configz;
pub(crate) mod exec;
pub(crate) mod healthz;
pub(crate) mod logs;
pub(crate) mod metrics;
pub(crate) mod missing;
pub(crate) mod pods;
pub(crate) mod port_forward;
pub(crate) mod probes;
pub(crate) mod resource_metrics;
pub(crate) mod run;
pub(crate) mod running_pods;
pub(crate) mod stats;

use std::sync::Arc;

use axum::extract::Request;
use axum::response::Response;
use http::StatusCode;
use serde::Deserialize;

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
    /// The query for the pod's subresource on the other API server.
    pub(crate) query: Result<String, StreamQueryError>,
}

/// A pod in a path. The API server names no UID; other callers may.
#[derive(Deserialize)]
pub(crate) struct PodPath {
    namespace: String,
    pod: String,
    uid: Option<String>,
}

/// A container in a path.
#[derive(Deserialize)]
pub(crate) struct ContainerPath {
    namespace: String,
    pod: String,
    uid: Option<String>,
    pub(crate) container: String,
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
        let container = stream.container.as_deref();
        match self.backend.resolve(&stream.pod, container).await {
            Ok(_) if !is_upgrade(request.headers()) => {
                text(StatusCode::INTERNAL_SERVER_ERROR, "Upgrade request required\n")
            }
            Ok(target) => {
                let path = format!("{}?{query}", target.path(stream.kind.subresource()));
                self.streams.open(stream.kind, request, &target, &path).await
            }
            Err(error) => {
                let container = container.unwrap_or_default();
                stream_refusal(&error, stream.kind, &stream.pod, container)
            }
        }
    }
}

/// What a kubelet answers to a stream that it cannot open.
fn stream_refusal(error: &ResolveError, kind: Kind, pod: &PodRef, container: &str) -> Response {
    match error {
        ResolveError::NoPod => text(StatusCode::NOT_FOUND, error.to_string()),
        // A kubelet looks for the UID here only; elsewhere it is refused as a container that is not there.
        ResolveError::WrongUid if kind == Kind::PortForward => text(StatusCode::NOT_FOUND, error.to_string()),
        ResolveError::NoContainer | ResolveError::WrongUid => {
            let PodRef { namespace, name, .. } = pod;
            let message = match kind {
                Kind::Attach => format!("container {container} not found in pod {name}_{namespace}"),
                _ => format!("container not found ({container:?})"),
            };
            text(StatusCode::INTERNAL_SERVER_ERROR, message)
        }
        ResolveError::NotStarted(_) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        ResolveError::Unavailable(_) => text(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

/// The answer to a question that has none now.
fn unavailable(error: &Unavailable) -> Response {
    text(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

// === impl PodPath, ContainerPath ===

impl From<PodPath> for PodRef {
    fn from(path: PodPath) -> Self {
        Self {
            namespace: path.namespace,
            name: path.pod,
            uid: path.uid,
        }
    }
}

impl ContainerPath {
    /// The pod and the container's name.
    pub(crate) fn split(self) -> (PodRef, String) {
        let pod = PodRef {
            namespace: self.namespace,
            name: self.pod,
            uid: self.uid,
        };
        (pod, self.container)
    }

    /// A stream of this container.
    pub(crate) fn stream(self, kind: Kind, query: Result<String, StreamQueryError>) -> StreamRequest {
        let (pod, container) = self.split();
        StreamRequest {
            kind,
            pod,
            container: Some(container),
            query,
        }
    }
}
