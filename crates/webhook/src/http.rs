//! The HTTP side: `POST /mutate`, and the same at `/`, where tensile-kube's webhook answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use kube::Client;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower_http::timeout::TimeoutLayer;

use crate::known::Known;
use crate::memo::Memo;
use crate::metrics::Metrics;
use crate::mutate::Outcome;
use crate::review::{Review, ReviewError};

/// Largest body. The API server stores objects up to 1.5 MiB (etcd `--max-request-bytes`); a review holds one or
/// two of them and little else.
pub const BODY_LIMIT: usize = 4 << 20;
/// Reviews that are read or decided at one time. With [`BODY_LIMIT`] this bounds memory at 256 MiB; a review
/// takes far less than a millisecond, so that more would only wait elsewhere.
pub const CONCURRENCY: usize = 64;
/// Time for a request, the arrival of its body included. Below the API server's 10 s (`timeoutSeconds` of a
/// webhook, default), so that it hears from us rather than from its clock.
pub const TIMEOUT: Duration = Duration::from_secs(8);

/// What the routes share.
#[derive(Clone)]
pub struct Service {
    /// Decides by the operator's rules.
    pub memo: Arc<Memo>,
    /// Namespaces and avoidance.
    pub known: Arc<Known>,
    /// Where reviews are counted.
    pub metrics: Metrics,
    /// The upper cluster, asked for namespaces that are not known yet. `None` asks nobody.
    pub upper: Option<Client>,
}

// === impl Service ===

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service")
            .field("memo", &self.memo)
            .finish_non_exhaustive()
    }
}

impl Service {
    /// The routes, with their limits.
    pub fn router(self) -> Router {
        Router::new()
            .route("/", post(review))
            .route("/mutate", post(review))
            .with_state(Arc::new(self))
            .layer(DefaultBodyLimit::max(BODY_LIMIT))
            .layer(GlobalConcurrencyLimitLayer::new(CONCURRENCY))
            .layer(TimeoutLayer::with_status_code(
                StatusCode::REQUEST_TIMEOUT,
                TIMEOUT,
            ))
    }

    async fn decide(&self, body: &[u8]) -> Result<(Outcome, Vec<u8>), ReviewError> {
        let review = Review::parse(body)?;
        let request = review.request()?;
        if let Some(upper) = &self.upper {
            self.known
                .look_up(upper, request.namespace.as_deref().unwrap_or_default())
                .await;
        }
        let decided = self.memo.decide(request, &*self.known)?;
        let (outcome, answer) = (decided.outcome, &decided.answer);
        if let Some(why) = answer.denial.as_ref().or(answer.warnings.first()) {
            tracing::info!(
                namespace = request.namespace.as_deref(),
                outcome = outcome.label(),
                why,
                "pod"
            );
        }
        Ok((outcome, review.answer(answer)?))
    }
}

async fn review(State(service): State<Arc<Service>>, body: Bytes) -> Response {
    let start = Instant::now();
    let decided = service.decide(&body).await;
    let outcome = decided.as_ref().ok().map(|(outcome, _)| *outcome);
    service.metrics.decided(outcome, start.elapsed().as_secs_f64());
    match decided {
        Ok((_, answer)) => ([(header::CONTENT_TYPE, "application/json")], answer).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}
