//! Everything that runs while we hold the lease of a lower cluster, as one future: when it is dropped, all
//! watches end and requests under way are aborted, so that nothing is written after the lease is lost.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::join_all;
use kube::runtime::watcher::Config;
use kube::{Api, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};

use tensile_core::names;
use tensile_runtime::admin::Readiness;
use tensile_runtime::cluster::Cluster;
use tensile_runtime::object::{ConfigMaps, Meta, Namespaces, Secrets};
use tensile_runtime::watch::{Change, Metrics as WatchMetrics, Watch};

use crate::context::Context;
use crate::node::{Capacity, Heartbeat, Identity, Publisher, Reachability, reach};
use crate::objects::{self, Kind};
use crate::pods;

/// Objects that are made or renewed at a time; a copy is two requests.
const OBJECT_WORKERS: usize = 8;
/// Minor version from which API servers stream initial lists; before, lists are paged.
const STREAMING_LISTS_SINCE: u32 = 34;

/// What the engine of one virtual node runs with.
#[derive(Debug)]
pub struct Engine {
    /// The upper cluster.
    pub upper: Cluster,
    /// Its minor version.
    pub upper_minor: u32,
    /// The lower cluster.
    pub lower: Cluster,
    /// Its minor version.
    pub lower_minor: u32,
    /// What the Node is.
    pub identity: Identity,
    /// How long the lower cluster may be silent.
    pub grace: Duration,
    /// Pods that are worked on at a time.
    pub pod_workers: usize,
    /// What readiness depends on.
    pub readiness: Readiness,
    /// Counters of the watches.
    pub watch_metrics: WatchMetrics,
}

type Task<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Counts the watches that have not listed yet.
#[derive(Debug, Default)]
struct Synced {
    missing: AtomicUsize,
    all: Notify,
}

/// Where to look, and how lists are read there.
struct Side<'a> {
    engine: &'a Engine,
    cluster: &'a Cluster,
    streaming: bool,
    synced: &'a Arc<Synced>,
}

// === impl Synced ===

impl Synced {
    fn done(&self) {
        if self.missing.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.all.notify_waiters();
        }
    }

    async fn wait(&self) {
        loop {
            let all = self.all.notified();
            if self.missing.load(Ordering::Acquire) == 0 {
                return;
            }
            all.await;
        }
    }
}

// === impl Side ===

impl<'a> Side<'a> {
    fn new(engine: &'a Engine, cluster: &'a Cluster, minor: u32, synced: &'a Arc<Synced>) -> Self {
        Self {
            engine,
            cluster,
            streaming: minor >= STREAMING_LISTS_SINCE,
            synced,
        }
    }

    /// A watch over all namespaces that tells `on` of changes.
    fn watch<K>(
        &self,
        name: &'static str,
        config: Config,
        mut on: impl FnMut(Change<K>) + Send + 'a,
    ) -> Task<'a>
    where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static,
    {
        self.synced.missing.fetch_add(1, Ordering::AcqRel);
        let synced = self.synced.clone();
        let mut waited_for = true;
        let watch = Watch {
            api: Api::all(self.cluster.client.clone()),
            config: if self.streaming {
                config.streaming_lists()
            } else {
                config
            },
            name,
            ready: self.engine.readiness.condition(name),
            metrics: self.engine.watch_metrics.clone(),
        };
        Box::pin(watch.run(move |change| {
            let listed = matches!(change, Change::Reset(_));
            on(change);
            if listed && std::mem::take(&mut waited_for) {
                synced.done();
            }
        }))
    }
}

// === impl Engine ===

impl Engine {
    /// Runs until the future is dropped.
    pub async fn run(&self, context: &Context) {
        let capacity = Arc::new(Mutex::new(Capacity::default()));
        let (reach, reachability) = watch::channel(Reachability::Reachable);
        let publisher = Publisher::new(
            self.upper.client.clone(),
            self.identity.clone(),
            capacity.clone(),
            reachability,
            context.metrics.clone(),
        );
        let heartbeat = Heartbeat::new(self.upper.client.clone(), &self.identity.name, publisher.uid());
        let synced = Arc::new(Synced::default());
        let mut tasks = self.pod_watches(context, &synced);
        tasks.extend(self.object_watches(context, &synced));
        tasks.extend(self.node_watches(context, &synced, &publisher, &capacity));
        tasks.push(Box::pin(reach::watch_over(
            self.lower.client.clone(),
            self.grace,
            reach,
        )));
        let work = async {
            synced.wait().await;
            tracing::info!(
                node = self.identity.name,
                pods = context.shared.lock().pods.len(),
                "in step with both clusters"
            );
            let (pods, objects) = (
                pods::Worker::new(context.clone()),
                objects::Worker::new(context.clone()),
            );
            tokio::join!(
                context.shared.pods.run(self.pod_workers, |key| pods.work(key)),
                context
                    .shared
                    .objects
                    .run(OBJECT_WORKERS, |key| objects.work(key)),
                publisher.run(),
                heartbeat.run(),
            );
        };
        tokio::join!(join_all(tasks), work);
    }

    fn pod_watches<'a>(&'a self, context: &'a Context, synced: &'a Arc<Synced>) -> Vec<Task<'a>> {
        let upper = Side::new(self, &self.upper, self.upper_minor, synced);
        let lower = Side::new(self, &self.lower, self.lower_minor, synced);
        let shared = &context.shared;
        let bound = Config::default().fields(&format!("spec.nodeName={}", self.identity.name));
        let ours = Config::default().labels(&self.ours(context));
        vec![
            upper.watch("upper-pods", bound, |change| shared.upper_pod(change)),
            lower.watch("lower-pods", ours, |change| shared.lower_pod(change)),
        ]
    }

    fn object_watches<'a>(&'a self, context: &'a Context, synced: &'a Arc<Synced>) -> Vec<Task<'a>> {
        let upper = Side::new(self, &self.upper, self.upper_minor, synced);
        let lower = Side::new(self, &self.lower, self.lower_minor, synced);
        let shared = &context.shared;
        let ours = Config::default().labels(&self.ours(context));
        vec![
            upper.watch(
                "upper-configmaps",
                Config::default(),
                |change: Change<Meta<ConfigMaps>>| {
                    shared.upper_object(Kind::ConfigMap, change);
                },
            ),
            upper.watch(
                "upper-secrets",
                Config::default(),
                |change: Change<Meta<Secrets>>| {
                    shared.upper_object(Kind::Secret, change);
                },
            ),
            lower.watch(
                "lower-configmaps",
                ours.clone(),
                |change: Change<Meta<ConfigMaps>>| {
                    shared.lower_object(Kind::ConfigMap, change);
                },
            ),
            lower.watch("lower-secrets", ours, |change: Change<Meta<Secrets>>| {
                shared.lower_object(Kind::Secret, change);
            }),
            lower.watch(
                "lower-namespaces",
                Config::default(),
                |change: Change<Meta<Namespaces>>| {
                    shared.lower_object(Kind::Namespace, change);
                },
            ),
        ]
    }

    fn node_watches<'a>(
        &'a self,
        context: &'a Context,
        synced: &'a Arc<Synced>,
        publisher: &'a Publisher,
        capacity: &'a Arc<Mutex<Capacity>>,
    ) -> Vec<Task<'a>> {
        let upper = Side::new(self, &self.upper, self.upper_minor, synced);
        let lower = Side::new(self, &self.lower, self.lower_minor, synced);
        let own = Config::default().fields(&format!("metadata.name={}", self.identity.name));
        let others = Config::default().labels(&format!(
            "{}!={}",
            names::ORIGIN_CLUSTER,
            context.settings.origin_cluster
        ));
        vec![
            upper.watch("upper-node", own, |change| publisher.own_node(change)),
            lower.watch("lower-nodes", Config::default(), |change| {
                capacity.lock().node(change);
                publisher.notify();
            }),
            lower.watch("lower-other-pods", others, |change| {
                if capacity.lock().other_pod(change) {
                    publisher.notify();
                }
            }),
        ]
    }

    /// Label selector of lower objects of ours.
    fn ours(&self, context: &Context) -> String {
        format!("{}={}", names::ORIGIN_CLUSTER, context.settings.origin_cluster)
    }
}
