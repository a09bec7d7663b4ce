//! A connection as its requests see it.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::Slot;
use super::metrics::Open;
use crate::tls::Peer;

/// One accepted connection. While a clone lives, the connection counts as open and a draining server waits for
/// it: whoever takes over an upgraded stream keeps a clone until the stream ends.
#[derive(Clone, Debug)]
pub struct Connection(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    remote: SocketAddr,
    peer: Option<Peer>,
    abort: CancellationToken,
    _tracked: TaskTrackerToken,
    _counted: (Slot, Open),
}

// === impl Connection ===

impl Connection {
    pub(super) fn new(
        remote: SocketAddr,
        peer: Option<Peer>,
        abort: CancellationToken,
        tracked: TaskTrackerToken,
        counted: (Slot, Open),
    ) -> Self {
        Self(Arc::new(Inner {
            remote,
            peer,
            abort,
            _tracked: tracked,
            _counted: counted,
        }))
    }

    /// The other end's address.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.0.remote
    }

    /// Who the client certificate names, if it was verified.
    #[must_use]
    pub fn peer(&self) -> Option<&Peer> {
        self.0.peer.as_ref()
    }

    /// Resolves when the server's drain deadline has passed: streams must end now. (The future itself does not keep
    /// the connection open.)
    pub fn aborted(&self) -> WaitForCancellationFutureOwned {
        self.0.abort.clone().cancelled_owned()
    }
}
