//! The HTTP side: `POST /scheduler/{filter,prioritize,preempt,bind}`.

use std::time::Instant;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use kube::Client;

use crate::asked::Asked;
use crate::binding;
use crate::metrics::{Metrics, Verb};
use crate::verbs::{filter, preempt, prioritize, retry};
use crate::wire::{
    ExtenderArgs, ExtenderBindingArgs, ExtenderBindingResult, ExtenderFilterResult, ExtenderPreemptionArgs,
    WireError,
};
use tensile_world::Shared;

/// Largest body. Without `nodeCacheCapable` whole nodes travel, about 10 KB each with their images: room for some
/// thousands.
pub const BODY_LIMIT: usize = 64 << 20;

/// What the routes share.
#[derive(Clone)]
pub struct Service {
    /// What the answers depend on.
    pub shared: Shared,
    /// Pods that will be bound soon.
    pub asked: Asked,
    /// The upper cluster, where pods are bound.
    pub upper: Client,
    /// Where answers are counted.
    pub metrics: Metrics,
}

// === impl Service ===

impl Service {
    /// The routes, with their limits.
    pub fn router(self) -> Router {
        Router::new()
            .route("/scheduler/filter", post(on_filter))
            .route("/scheduler/prioritize", post(on_prioritize))
            .route("/scheduler/preempt", post(on_preempt))
            .route("/scheduler/bind", post(on_bind))
            .with_state(self)
            .layer(DefaultBodyLimit::max(BODY_LIMIT))
    }

    fn answered(&self, verb: Verb, start: Instant, error: &str) {
        if !error.is_empty() {
            tracing::info!(verb = verb.name(), error, "the scheduler got an error");
        }
        self.metrics
            .answered(verb, start.elapsed().as_secs_f64(), !error.is_empty());
    }
}

async fn on_filter(State(service): State<Service>, body: Bytes) -> Json<ExtenderFilterResult> {
    let start = Instant::now();
    let answer = match ExtenderArgs::parse(&body) {
        Ok(args) => {
            let mut world = service.shared.world();
            let answer = filter(&mut world, &args);
            let answer = retry(&mut world, &args, &answer).unwrap_or(answer);
            drop(world);
            service.asked.put(args.pod);
            answer
        }
        Err(error) => ExtenderFilterResult::error(&error),
    };
    service.answered(Verb::Filter, start, &answer.error);
    Json(answer)
}

/// The answer has no room for an error, so that the status must tell.
async fn on_prioritize(State(service): State<Service>, body: Bytes) -> Response {
    let start = Instant::now();
    let answer = ExtenderArgs::parse(&body).map(|args| prioritize(&mut service.shared.world(), &args));
    respond(&service, Verb::Prioritize, start, answer)
}

/// As for prioritize.
async fn on_preempt(State(service): State<Service>, body: Bytes) -> Response {
    let start = Instant::now();
    let answer = ExtenderPreemptionArgs::parse(&body).map(|args| preempt(&mut service.shared.world(), &args));
    respond(&service, Verb::Preempt, start, answer)
}

async fn on_bind(State(service): State<Service>, body: Bytes) -> Json<ExtenderBindingResult> {
    let start = Instant::now();
    let error = match ExtenderBindingArgs::parse(&body) {
        Err(error) => error.to_string(),
        Ok(args) => match binding::bind(&service, &args).await {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        },
    };
    service.answered(Verb::Bind, start, &error);
    Json(ExtenderBindingResult { error })
}

fn respond<T: serde::Serialize>(
    service: &Service,
    verb: Verb,
    start: Instant,
    answer: Result<T, WireError>,
) -> Response {
    let error = answer.as_ref().err().map(ToString::to_string).unwrap_or_default();
    service.answered(verb, start, &error);
    match answer {
        Ok(answer) => Json(answer).into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, format!("{error}\n")).into_response(),
    }
}

#[cfg(test)]
mod tests;
