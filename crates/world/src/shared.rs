//! What the tasks share.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::watch;

use crate::world::World;

/// The world behind a lock, and the news that upper pods must be looked at again. Clones share both.
#[derive(Clone, Debug)]
pub struct Shared {
    world: Arc<Mutex<World>>,
    resync: Arc<watch::Sender<u64>>,
}

// === impl Shared ===

impl Shared {
    /// Of a world.
    #[must_use]
    pub fn new(world: World) -> Self {
        Self {
            world: Arc::new(Mutex::new(world)),
            resync: Arc::new(watch::channel(0).0),
        }
    }

    /// The world. Nobody holds it across an await.
    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock()
    }

    /// Says that a virtual node or a cluster has become known: upper pods on it may need promises.
    pub fn resync(&self) {
        self.resync.send_modify(|count| *count += 1);
    }

    /// Hears of [`Shared::resync`].
    #[must_use]
    pub fn resyncs(&self) -> watch::Receiver<u64> {
        self.resync.subscribe()
    }
}
