//! The watches of an engine: tasks that end with it, and a count of those that have not listed yet.
//!
//! Watches are tasks of their own: an API server gives up a watch that is not read at once while thousands of pods
//! change, and reading must not wait for the writers. What the virtual nodes of a cluster have in common is watched once
//! and told to each.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kube::runtime::watcher::Config;
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::Notify;
use tokio::task::JoinSet;

use tensile_runtime::admin::Readiness;
use tensile_runtime::cluster::Cluster;
use tensile_runtime::watch::{Change, Metrics, Watch};

use crate::shared::Shared;

/// Minor version from which API servers stream initial lists; before, lists are paged.
const STREAMING_LISTS_SINCE: u32 = 34;

/// What can be watched.
pub trait Watched:
    Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> Watched for K where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static
{
}

/// One side that is watched.
#[derive(Clone, Debug)]
pub struct Side {
    /// The cluster.
    pub cluster: Cluster,
    /// Its minor version.
    pub minor: u32,
    /// Where its watches count, and who says that they fail.
    pub metrics: Metrics,
}

/// Counts the watches that have not listed yet; clones share it.
#[derive(Clone, Debug, Default)]
pub struct Synced(Arc<Missing>);

#[derive(Debug, Default)]
struct Missing {
    count: AtomicUsize,
    none: Notify,
}

/// The watches of an engine; they end when this is dropped.
pub struct Watches<'a> {
    readiness: &'a Readiness,
    /// The indices of all virtual nodes of the cluster.
    all: Vec<Arc<Shared>>,
    synced: Synced,
    tasks: JoinSet<()>,
}

// === impl Synced ===

impl Synced {
    fn add(&self) {
        self.0.count.fetch_add(1, Ordering::AcqRel);
    }

    fn done(&self) {
        if self.0.count.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.none.notify_waiters();
        }
    }

    /// Waits until all watches have listed.
    pub async fn wait(&self) {
        loop {
            let none = self.0.none.notified();
            if self.0.count.load(Ordering::Acquire) == 0 {
                return;
            }
            none.await;
        }
    }
}

// === impl Watches ===

impl<'a> Watches<'a> {
    /// No watches yet, for virtual nodes with these indices.
    #[must_use]
    pub fn new(readiness: &'a Readiness, all: Vec<Arc<Shared>>) -> Self {
        Self {
            readiness,
            all,
            synced: Synced::default(),
            tasks: JoinSet::new(),
        }
    }

    /// Tells when all watches have listed.
    #[must_use]
    pub fn synced(&self) -> Synced {
        self.synced.clone()
    }

    /// A watch that tells `on` of changes for every virtual node.
    pub fn for_all<K: Watched>(
        &mut self,
        side: &Side,
        name: &'static str,
        config: Config,
        on: impl Fn(&Shared, Change<K>) + Send + 'static,
    ) {
        let all = self.all.clone();
        self.add(side, name, name, config, move |change| {
            if let Some((last, others)) = all.split_last() {
                others.iter().for_each(|shared| on(shared, change.clone()));
                on(last, change);
            }
        });
    }

    /// A watch over all namespaces that tells `on` of changes; readiness waits for `condition`.
    pub fn add<K: Watched>(
        &mut self,
        side: &Side,
        name: &'static str,
        condition: &str,
        config: Config,
        mut on: impl FnMut(Change<K>) + Send + 'static,
    ) {
        self.synced.add();
        let synced = self.synced.clone();
        let mut waited_for = true;
        let watch = Watch {
            api: Api::all(side.cluster.client.clone()),
            config: if side.minor >= STREAMING_LISTS_SINCE {
                config.streaming_lists()
            } else {
                config
            },
            name,
            ready: self.readiness.condition(condition),
            metrics: side.metrics.clone(),
        };
        self.tasks.spawn(watch.run(move |change| {
            let listed = matches!(change, Change::Reset(_));
            on(change);
            if listed && std::mem::take(&mut waited_for) {
                synced.done();
            }
        }));
    }

    /// Runs until dropped. A watch never ends by itself; if one panics, so do we.
    pub async fn run(mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}
