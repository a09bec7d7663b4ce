//! One signal that ends everything, in order.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Asks all tasks to end. Clones share the same state.
#[derive(Clone, Debug, Default)]
pub struct Shutdown(CancellationToken);

// === impl Shutdown ===

impl Shutdown {
    /// Triggers on SIGTERM or SIGINT.
    ///
    /// # Errors
    /// When the signal handlers cannot be installed.
    pub fn on_signals() -> std::io::Result<Self> {
        let shutdown = Self::default();
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let trigger = shutdown.clone();
        tokio::spawn(async move {
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            tracing::info!("shutting down");
            trigger.trigger();
        });
        Ok(shutdown)
    }

    /// Asks everything to end.
    pub fn trigger(&self) {
        self.0.cancel();
    }

    /// Whether the end was asked for.
    #[must_use]
    pub fn triggered(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Waits until the end is asked for.
    pub async fn wait(&self) {
        self.0.cancelled().await;
    }

    /// A shutdown that is triggered with this one and can be before it.
    #[must_use]
    pub fn sub(&self) -> Self {
        Self(self.0.child_token())
    }

    /// A token that ends with this one and can be ended before it.
    #[must_use]
    pub fn child(&self) -> CancellationToken {
        self.0.child_token()
    }

    /// The token itself, for servers that take one.
    #[must_use]
    pub fn token(&self) -> CancellationToken {
        self.0.clone()
    }
}
