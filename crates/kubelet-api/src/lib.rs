//! The kubelet HTTPS API as a library: whoever implements [`Backend`] gets a node that answers on its port as a
//! kubelet does, to the API server, metrics-server, Prometheus and every generation of clients.
//!
//! ```text
//!               ┌───────── this crate ─────────┐
//! caller ─TLS─▶ │ guard: authn, authz          │
//!               │   └▶ routes ─▶ Backend ──────┼─▶ which pod, where
//!               │        └▶ logs, tunnel ──────┼─▶ API server that really runs the pod
//!               └──────────────────────────────┘
//! ```
//!
//! Pods of the node run behind another API server. [`Backend::resolve`] says where; logs are streamed from there, and
//! exec, attach and port-forward are tunnelled byte for byte, so that no streaming protocol is spoken here (but for the
//! output that `/run` collects).
//!
//! Every request is authenticated and authorized ([`Auth`]) before it is routed, also those for paths that do not
//! exist. A client certificate that was not accepted leaves a request without a
//! [`Peer`](tensile_runtime::tls::Peer), never with a wrong one; see [`tensile_runtime::serve`].

mod answer;
pub mod attrs;
pub mod auth;
pub mod backend;
pub mod client_ca;
mod log_options;
mod metrics;
pub mod read;
pub mod render;
mod routes;
pub mod serving;
mod stream;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod text;
mod tunnel;
pub mod usage;

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{any, get, post};

pub use auth::Auth;
pub use backend::Backend;
pub use metrics::Metrics;
pub use tunnel::{StreamConfig, Streams};

use auth::Guard;
use routes::{
    App, attach, cadvisor, configz, exec, healthz, logs, metrics as own_metrics, missing, pods, port_forward,
    probes, resource_metrics, run, running_pods, stats,
};

/// The API of one node. `auth`, `streams` and `metrics` may be shared by several nodes; they then share caches, limits
/// and counts.
pub fn router<B: Backend>(backend: Arc<B>, auth: Arc<Auth>, streams: Streams, metrics: Metrics) -> Router {
    let guard = Guard {
        auth,
        node: Arc::from(backend.node_name()),
    };
    let app = App {
        backend,
        streams,
        metrics: metrics.clone(),
    };
    plain_routes::<B>()
        .merge(stream_routes())
        .merge(disabled_routes())
        .fallback(missing::not_found)
        .method_not_allowed_fallback(missing::wrong_method)
        .with_state(app)
        .layer(from_fn_with_state(guard, auth::guard))
        .layer(from_fn_with_state(metrics, count))
}

fn plain_routes<B: Backend>() -> Router<App<B>> {
    Router::new()
        .route("/healthz", get(healthz::health::<B>))
        .route("/healthz/syncloop", get(healthz::health::<B>))
        .route("/healthz/ping", get(healthz::ping))
        .route("/healthz/log", get(healthz::ping))
        .route("/pods", get(pods::get::<B>))
        .route("/pods/", get(pods::get::<B>))
        .route("/runningpods", get(running_pods::get::<B>))
        .route("/runningpods/", get(running_pods::get::<B>))
        .route(
            "/containerLogs/{namespace}/{pod}/{container}",
            get(logs::get::<B>),
        )
        .route("/stats", get(stats::summary_of::<B>))
        .route("/stats/", get(stats::summary_of::<B>))
        .route("/stats/summary", get(stats::summary_of::<B>))
        .route("/metrics", get(own_metrics::get::<B>))
        .route("/metrics/resource", get(resource_metrics::get::<B>))
        .route("/metrics/cadvisor", get(cadvisor::get::<B>))
        .route("/metrics/probes", get(probes::get))
        .route("/configz", get(configz::get::<B>))
}

/// Both methods for what is upgraded: SPDY comes as POST, WebSocket as GET.
fn stream_routes<B: Backend>() -> Router<App<B>> {
    let (exec, attach, port_forward) = (
        exec::exec::<B>,
        attach::attach::<B>,
        port_forward::port_forward::<B>,
    );
    Router::new()
        .route("/exec/{namespace}/{pod}/{container}", get(exec).post(exec))
        .route("/exec/{namespace}/{pod}/{uid}/{container}", get(exec).post(exec))
        .route("/attach/{namespace}/{pod}/{container}", get(attach).post(attach))
        .route(
            "/attach/{namespace}/{pod}/{uid}/{container}",
            get(attach).post(attach),
        )
        .route(
            "/portForward/{namespace}/{pod}",
            get(port_forward).post(port_forward),
        )
        .route(
            "/portForward/{namespace}/{pod}/{uid}",
            get(port_forward).post(port_forward),
        )
        .route("/run/{namespace}/{pod}/{container}", post(run::run::<B>))
        .route("/run/{namespace}/{pod}/{uid}/{container}", post(run::run::<B>))
}

fn disabled_routes<B: Backend>() -> Router<App<B>> {
    Router::new()
        .route("/logs", any(missing::logs))
        .route("/logs/", any(missing::logs))
        .route("/logs/{*rest}", any(missing::logs))
        .route("/debug/pprof/{*rest}", any(missing::profiling))
        .route("/debug/flags/v", any(missing::flags))
}

/// Middleware: counts answers, refusals included.
async fn count(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let response = next.run(request).await;
    metrics.answered(&path, response.status());
    response
}
