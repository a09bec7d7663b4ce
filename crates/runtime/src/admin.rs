//! The admin server: /metrics, /livez, /readyz and a component's own pages.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use parking_lot::Mutex;
use prometheus::{Encoder, Registry, TextEncoder};
use tokio::net::TcpListener;

use crate::shutdown::Shutdown;

/// What must be so before the process counts as ready, by name.
#[derive(Clone, Debug, Default)]
pub struct Readiness(Arc<Mutex<BTreeMap<String, bool>>>);

/// One condition of [`Readiness`]; forgotten when dropped, so that what no longer runs is not waited for.
#[derive(Debug)]
pub struct Condition {
    name: String,
    readiness: Readiness,
}

/// What the admin server shows.
#[derive(Clone, Debug)]
pub struct Admin {
    /// Where components register their metrics.
    pub registry: Registry,
    /// What readiness depends on.
    pub readiness: Readiness,
}

/// Why the admin server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The address is taken or not ours.
    #[error("cannot listen on --admin-listen {address}: {source}; choose a free address")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
}

// === impl Readiness ===

impl Readiness {
    /// Adds a condition that is not met yet.
    #[must_use]
    pub fn condition(&self, name: &str) -> Condition {
        self.0.lock().insert(name.to_owned(), false);
        Condition {
            name: name.to_owned(),
            readiness: self.clone(),
        }
    }

    /// Names of the conditions that are not met.
    #[must_use]
    pub fn unmet(&self) -> Vec<String> {
        self.0
            .lock()
            .iter()
            .filter(|(_, met)| !**met)
            .map(|(name, _)| name.clone())
            .collect()
    }
}

// === impl Condition ===

impl Condition {
    /// Says whether the condition is met.
    pub fn set(&self, met: bool) {
        self.readiness.0.lock().insert(self.name.clone(), met);
    }
}

impl Drop for Condition {
    fn drop(&mut self) {
        self.readiness.0.lock().remove(&self.name);
    }
}

// === impl Admin ===

impl Default for Admin {
    fn default() -> Self {
        let registry = Registry::new();
        let process = prometheus::process_collector::ProcessCollector::for_self();
        if let Err(error) = registry.register(Box::new(process)) {
            tracing::warn!(%error, "no process metrics");
        }
        Self {
            registry,
            readiness: Readiness::default(),
        }
    }
}

impl Admin {
    /// Serves until shutdown; `extra` adds the component's own pages.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn serve(
        &self,
        address: SocketAddr,
        extra: Router,
        shutdown: Shutdown,
    ) -> Result<(), AdminError> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| AdminError::Bind { address, source })?;
        let router = self.router().merge(extra);
        tokio::spawn(async move {
            let served = axum::serve(listener, router)
                .with_graceful_shutdown(async move { shutdown.wait().await })
                .await;
            if let Err(error) = served {
                tracing::error!(%error, "admin server ended");
            }
        });
        Ok(())
    }

    fn router(&self) -> Router {
        let readiness = self.readiness.clone();
        let registry = self.registry.clone();
        Router::new()
            .route("/livez", get(|| async { "ok" }))
            .route("/readyz", get(move || async move { ready(&readiness) }))
            .route("/metrics", get(move || async move { metrics(&registry) }))
    }
}

fn ready(readiness: &Readiness) -> (StatusCode, String) {
    let unmet = readiness.unmet();
    if unmet.is_empty() {
        (StatusCode::OK, "ok".to_owned())
    } else {
        (
            StatusCode::SERVICE_UNAVAILABLE,
            format!("not ready: {}\n", unmet.join(", ")),
        )
    }
}

fn metrics(registry: &Registry) -> impl IntoResponse + use<> {
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    match encoder.encode(&registry.gather(), &mut text) {
        Ok(()) => (
            StatusCode::OK,
            [(header::CONTENT_TYPE, encoder.format_type().to_owned())],
            text,
        ),
        Err(error) => {
            let text = error.to_string().into_bytes();
            (
                StatusCode::INTERNAL_SERVER_ERROR,
                [(header::CONTENT_TYPE, "text/plain".to_owned())],
                text,
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_ready_only_when_every_condition_is_met() {
        let readiness = Readiness::default();
        let (pods, lease) = (readiness.condition("upper pods"), readiness.condition("lease"));
        pods.set(true);
        assert_eq!(
            ready(&readiness),
            (StatusCode::SERVICE_UNAVAILABLE, "not ready: lease\n".to_owned())
        );
        lease.set(true);
        assert_eq!(ready(&readiness).0, StatusCode::OK);
    }

    #[test]
    fn a_dropped_condition_is_not_waited_for() {
        let readiness = Readiness::default();
        drop(readiness.condition("gone"));
        assert!(readiness.unmet().is_empty());
    }

    #[test]
    fn metrics_show_what_is_registered() {
        let admin = Admin::default();
        let counter = prometheus::IntCounter::new("tensile_test_total", "A test.").unwrap();
        admin.registry.register(Box::new(counter.clone())).unwrap();
        counter.inc();
        let text = TextEncoder::new()
            .encode_to_string(&admin.registry.gather())
            .unwrap();
        assert!(text.contains("tensile_test_total 1"), "{text}");
    }
}
