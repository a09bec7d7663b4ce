//! Everything that runs while we hold the lease of a lower cluster: when its future is dropped, all watches end
//! and requests under way are aborted, so that nothing is written after the lease is lost.
//!
//! Watches are tasks of their own, which the future owns: an API server gives up a watch that is not read at once
//! while thousands of pods change, and reading must not wait for the writers. Writers run inside the future itself,
//! so that they stop the moment it is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kube::runtime::watcher::Config;
use kube::{Api, Resource};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;

use tensile_core::names;
use tensile_runtime::admin::Readiness;
use tensile_runtime::cluster::Cluster;
use tensile_runtime::object::{
    ConfigMaps, EndpointSlices, Meta, Namespaces, PersistentVolumeClaims, Secrets, Services, Slim,
};
use tensile_runtime::watch::{Change, Metrics as WatchMetrics, Watch};

use crate::context::Context;
use crate::events;
use crate::node::{AllDown, Capacity, Heartbeat, Identity, Publisher, Reachability, reach};
use crate::objects::{self, Kind};
use crate::pods;
use crate::shared::Shared;

/// Objects that are made or renewed at a time; a copy is two requests.
const OBJECT_WORKERS: usize = 8;
/// Events that are shown at a time; nobody waits for them.
const EVENT_WORKERS: usize = 2;
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
    /// Whether every lower cluster seems dead.
    pub all_down: AllDown,
}

/// A copy of a Service: its spec has the address that the lower cluster gave it.
type LowerService = Slim<Services, Value, IgnoredAny>;

/// What can be watched.
trait Watched:
    Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static
{
}

impl<K> Watched for K where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static
{
}

/// Counts the watches that have not listed yet.
#[derive(Debug, Default)]
struct Synced {
    missing: AtomicUsize,
    all: Notify,
}

/// The watches of an engine; they end when this is dropped.
struct Watches<'a> {
    engine: &'a Engine,
    /// What they fill.
    shared: &'a Arc<Shared>,
    synced: Arc<Synced>,
    tasks: JoinSet<()>,
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

// === impl Watches ===

impl<'a> Watches<'a> {
    fn new(engine: &'a Engine, shared: &'a Arc<Shared>) -> Self {
        Self {
            engine,
            shared,
            synced: Arc::default(),
            tasks: JoinSet::new(),
        }
    }

    /// A watch of the upper cluster that tells `on` of changes.
    fn upper<K: Watched>(
        &mut self,
        name: &'static str,
        config: Config,
        on: impl FnMut(&Shared, Change<K>) + Send + 'static,
    ) {
        self.add((&self.engine.upper, self.engine.upper_minor), name, config, on);
    }

    /// A watch of the lower cluster that tells `on` of changes.
    fn lower<K: Watched>(
        &mut self,
        name: &'static str,
        config: Config,
        on: impl FnMut(&Shared, Change<K>) + Send + 'static,
    ) {
        self.add((&self.engine.lower, self.engine.lower_minor), name, config, on);
    }

    /// A watch over all namespaces of a cluster of this minor version.
    fn add<K: Watched>(
        &mut self,
        (cluster, minor): (&Cluster, u32),
        name: &'static str,
        config: Config,
        mut on: impl FnMut(&Shared, Change<K>) + Send + 'static,
    ) {
        self.synced.missing.fetch_add(1, Ordering::AcqRel);
        let (shared, synced) = (self.shared.clone(), self.synced.clone());
        let mut waited_for = true;
        let watch = Watch {
            api: Api::all(cluster.client.clone()),
            config: if minor >= STREAMING_LISTS_SINCE {
                config.streaming_lists()
            } else {
                config
            },
            name,
            ready: self.engine.readiness.condition(name),
            metrics: self.engine.watch_metrics.clone(),
        };
        self.tasks.spawn(watch.run(move |change| {
            let listed = matches!(change, Change::Reset(_));
            on(&shared, change);
            if listed && std::mem::take(&mut waited_for) {
                synced.done();
            }
        }));
    }

    /// Runs until dropped. A watch never ends by itself; if one panics, so do we.
    async fn run(mut self) {
        while let Some(ended) = self.tasks.join_next().await {
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

// === impl Engine ===

impl Engine {
    /// Runs until the future is dropped.
    pub async fn run(&self, context: &Context) {
        let capacity = context.shared.capacity.clone();
        *capacity.lock() = Capacity::new(context.settings.pool.clone());
        let (reach, reachability) = watch::channel(Reachability::Reachable);
        let publisher = Arc::new(Publisher::new(
            self.upper.client.clone(),
            self.identity.clone(),
            capacity,
            reachability,
            context.metrics.clone(),
        ));
        let heartbeat = Heartbeat::new(self.upper.client.clone(), &self.identity.name, publisher.uid());
        let mut watches = Watches::new(self, &context.shared);
        self.watch_pods(&mut watches, context);
        watch_objects(&mut watches, context);
        watch_services(&mut watches, context);
        self.watch_claims(&mut watches, context);
        self.watch_nodes(&mut watches, context, &publisher);
        let synced = watches.synced.clone();
        let work = async {
            synced.wait().await;
            tracing::info!(
                node = self.identity.name,
                pods = context.shared.lock().pods.len(),
                "in step with both clusters"
            );
            let (pods, objects, events) = (
                pods::Worker::new(context.clone()),
                objects::Worker::new(context.clone()),
                events::Worker::new(context.clone()),
            );
            tokio::join!(
                context.shared.pods.run(self.pod_workers, |key| pods.work(key)),
                context
                    .shared
                    .objects
                    .run(OBJECT_WORKERS, |key| objects.work(key)),
                context.shared.events.run(EVENT_WORKERS, |key| events.work(key)),
                publisher.run(),
                heartbeat.run(),
            );
        };
        let down = self.all_down.add(&self.identity.name);
        let silence = pods::follow_silence(context, reach.subscribe(), down);
        let watch_over = reach::watch_over(self.lower.client.clone(), self.grace, reach);
        tokio::join!(watches.run(), watch_over, silence, work);
    }

    fn watch_pods(&self, watches: &mut Watches<'_>, context: &Context) {
        let bound = Config::default().fields(&format!("spec.nodeName={}", self.identity.name));
        watches.upper("upper-pods", bound, Shared::upper_pod);
        watches.lower("lower-pods", ours(context), Shared::lower_pod);
        let told = Config::default().fields(events::SELECTOR);
        watches.lower("lower-events", told, Shared::lower_event);
    }

    fn watch_claims(&self, watches: &mut Watches<'_>, context: &Context) {
        let kind = Kind::PersistentVolumeClaim;
        let upper = move |shared: &Shared, change: Change<Meta<PersistentVolumeClaims>>| {
            shared.upper_object(kind, change);
        };
        watches.upper("upper-claims", Config::default(), upper);
        let lower = move |shared: &Shared, change: Change<Meta<PersistentVolumeClaims>>| {
            shared.lower_object(kind, change, |_, _, _| {});
        };
        watches.lower("lower-claims", ours(context), lower);
        let own = Config::default().labels(&format!("{}={}", names::ORIGIN_NODE, self.identity.name));
        watches.upper("upper-volumes", own, Shared::upper_volume);
    }

    fn watch_nodes(&self, watches: &mut Watches<'_>, context: &Context, publisher: &Arc<Publisher>) {
        let own = Config::default().fields(&format!("metadata.name={}", self.identity.name));
        let tell = publisher.clone();
        watches.upper("upper-node", own, move |_, change| tell.own_node(change));
        let tell = publisher.clone();
        watches.lower("lower-nodes", Config::default(), move |shared, change| {
            shared.capacity.lock().node(change);
            tell.notify();
        });
        let origin = &context.settings.origin_cluster;
        let others = Config::default().labels(&format!("{}!={origin}", names::ORIGIN_CLUSTER));
        let tell = publisher.clone();
        watches.lower("lower-other-pods", others, move |shared, change| {
            if shared.capacity.lock().other_pod(change) {
                tell.notify();
            }
        });
    }
}

fn watch_objects(watches: &mut Watches<'_>, context: &Context) {
    let all = Config::default;
    let config_maps = |shared: &Shared, change: Change<Meta<ConfigMaps>>| {
        shared.upper_object(Kind::ConfigMap, change);
    };
    watches.upper("upper-configmaps", all(), config_maps);
    let secrets = |shared: &Shared, change: Change<Meta<Secrets>>| {
        shared.upper_object(Kind::Secret, change);
    };
    watches.upper("upper-secrets", all(), secrets);
    let config_maps = |shared: &Shared, change: Change<Meta<ConfigMaps>>| {
        shared.lower_object(Kind::ConfigMap, change, |_, _, _| {});
    };
    watches.lower("lower-configmaps", ours(context), config_maps);
    watches.lower("lower-secrets", ours(context), Shared::lower_secret);
    watches.upper("upper-namespaces", all(), Shared::upper_namespace);
    let namespaces = |shared: &Shared, change: Change<Meta<Namespaces>>| {
        shared.lower_object(Kind::Namespace, change, |_, _, _| {});
    };
    watches.lower("lower-namespaces", all(), namespaces);
}

/// Below also when they are not mirrored: copies from before are then removed.
fn watch_services(watches: &mut Watches<'_>, context: &Context) {
    if context.settings.mirror_services {
        let services = |shared: &Shared, change: Change<Meta<Services>>| {
            shared.upper_object(Kind::Service, change);
        };
        watches.upper("upper-services", Config::default(), services);
        let slices = |shared: &Shared, change: Change<Meta<EndpointSlices>>| {
            shared.upper_object(Kind::EndpointSlice, change);
        };
        watches.upper("upper-endpointslices", Config::default(), slices);
    }
    let services = |shared: &Shared, change: Change<LowerService>| {
        shared.lower_object(Kind::Service, change, |state, key, service| {
            let copy = json!({"metadata": service.metadata, "spec": service.spec});
            state.objects.services.set(key, Some(&copy));
        });
    };
    watches.lower("lower-services", ours(context), services);
    let slices = |shared: &Shared, change: Change<Meta<EndpointSlices>>| {
        shared.lower_object(Kind::EndpointSlice, change, |_, _, _| {});
    };
    watches.lower("lower-endpointslices", ours(context), slices);
}

/// Selects lower objects of ours.
fn ours(context: &Context) -> Config {
    let origin = &context.settings.origin_cluster;
    Config::default().labels(&format!("{}={origin}", names::ORIGIN_CLUSTER))
}
