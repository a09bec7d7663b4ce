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
use parking_lot::Mutex;
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

/// Counts the watches that have not listed yet.
#[derive(Debug, Default)]
struct Synced {
    missing: AtomicUsize,
    all: Notify,
}

/// The watches of an engine; they end when this is dropped.
struct Watches<'a> {
    engine: &'a Engine,
    synced: Arc<Synced>,
    tasks: JoinSet<()>,
}

/// Where to look, and how lists are read there.
#[derive(Clone, Copy)]
struct Side<'a> {
    cluster: &'a Cluster,
    streaming: bool,
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
    fn new(cluster: &'a Cluster, minor: u32) -> Self {
        Self {
            cluster,
            streaming: minor >= STREAMING_LISTS_SINCE,
        }
    }
}

// === impl Watches ===

impl<'a> Watches<'a> {
    fn new(engine: &'a Engine) -> Self {
        Self {
            engine,
            synced: Arc::default(),
            tasks: JoinSet::new(),
        }
    }

    /// A watch over all namespaces that tells `on` of changes.
    fn add<K>(
        &mut self,
        side: Side<'_>,
        name: &'static str,
        config: Config,
        mut on: impl FnMut(Change<K>) + Send + 'static,
    ) where
        K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned + Send + Sync + 'static,
    {
        self.synced.missing.fetch_add(1, Ordering::AcqRel);
        let synced = self.synced.clone();
        let mut waited_for = true;
        let watch = Watch {
            api: Api::all(side.cluster.client.clone()),
            config: if side.streaming {
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
            on(change);
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
            capacity.clone(),
            reachability,
            context.metrics.clone(),
        ));
        let heartbeat = Heartbeat::new(self.upper.client.clone(), &self.identity.name, publisher.uid());
        let upper = Side::new(&self.upper, self.upper_minor);
        let lower = Side::new(&self.lower, self.lower_minor);
        let mut watches = Watches::new(self);
        self.watch_pods(&mut watches, upper, lower, context);
        self.watch_objects(&mut watches, upper, lower, context);
        self.watch_services(&mut watches, upper, lower, context);
        self.watch_claims(&mut watches, upper, lower, context);
        self.watch_nodes(&mut watches, upper, lower, context, &publisher, &capacity);
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

    fn watch_pods(&self, watches: &mut Watches<'_>, upper: Side<'_>, lower: Side<'_>, context: &Context) {
        let bound = Config::default().fields(&format!("spec.nodeName={}", self.identity.name));
        let shared = context.shared.clone();
        watches.add(upper, "upper-pods", bound, move |change| shared.upper_pod(change));
        let shared = context.shared.clone();
        watches.add(lower, "lower-pods", ours(context), move |change| {
            shared.lower_pod(change);
        });
        let shared = context.shared.clone();
        let told = Config::default().fields(events::SELECTOR);
        watches.add(lower, "lower-events", told, move |change| {
            shared.lower_event(change);
        });
    }

    fn watch_objects(&self, watches: &mut Watches<'_>, upper: Side<'_>, lower: Side<'_>, context: &Context) {
        let all = Config::default;
        let shared = context.shared.clone();
        let config_maps =
            move |change: Change<Meta<ConfigMaps>>| shared.upper_object(Kind::ConfigMap, change);
        watches.add(upper, "upper-configmaps", all(), config_maps);
        let shared = context.shared.clone();
        let secrets = move |change: Change<Meta<Secrets>>| shared.upper_object(Kind::Secret, change);
        watches.add(upper, "upper-secrets", all(), secrets);
        let shared = context.shared.clone();
        let config_maps = move |change: Change<Meta<ConfigMaps>>| {
            shared.lower_object(Kind::ConfigMap, change, |_, _, _| {});
        };
        watches.add(lower, "lower-configmaps", ours(context), config_maps);
        let shared = context.shared.clone();
        watches.add(lower, "lower-secrets", ours(context), move |change| {
            shared.lower_secret(change);
        });
        let shared = context.shared.clone();
        watches.add(upper, "upper-namespaces", all(), move |change| {
            shared.upper_namespace(change);
        });
        let shared = context.shared.clone();
        let namespaces = move |change: Change<Meta<Namespaces>>| {
            shared.lower_object(Kind::Namespace, change, |_, _, _| {});
        };
        watches.add(lower, "lower-namespaces", all(), namespaces);
    }

    /// Below also when they are not mirrored: copies from before are then removed.
    fn watch_services(&self, watches: &mut Watches<'_>, upper: Side<'_>, lower: Side<'_>, context: &Context) {
        if context.settings.mirror_services {
            let shared = context.shared.clone();
            watches.add(
                upper,
                "upper-services",
                Config::default(),
                move |change: Change<Meta<Services>>| {
                    shared.upper_object(Kind::Service, change);
                },
            );
            let shared = context.shared.clone();
            watches.add(
                upper,
                "upper-endpointslices",
                Config::default(),
                move |change: Change<Meta<EndpointSlices>>| {
                    shared.upper_object(Kind::EndpointSlice, change);
                },
            );
        }
        let shared = context.shared.clone();
        watches.add(
            lower,
            "lower-services",
            ours(context),
            move |change: Change<LowerService>| {
                shared.lower_object(Kind::Service, change, |state, key, service| {
                    let copy = json!({"metadata": service.metadata, "spec": service.spec});
                    state.objects.services.set(key, Some(&copy));
                });
            },
        );
        let shared = context.shared.clone();
        watches.add(
            lower,
            "lower-endpointslices",
            ours(context),
            move |change: Change<Meta<EndpointSlices>>| {
                shared.lower_object(Kind::EndpointSlice, change, |_, _, _| {});
            },
        );
    }

    fn watch_claims(&self, watches: &mut Watches<'_>, upper: Side<'_>, lower: Side<'_>, context: &Context) {
        let kind = Kind::PersistentVolumeClaim;
        let shared = context.shared.clone();
        watches.add(
            upper,
            "upper-claims",
            Config::default(),
            move |change: Change<Meta<PersistentVolumeClaims>>| {
                shared.upper_object(kind, change);
            },
        );
        let shared = context.shared.clone();
        watches.add(
            lower,
            "lower-claims",
            ours(context),
            move |change: Change<Meta<PersistentVolumeClaims>>| {
                shared.lower_object(kind, change, |_, _, _| {});
            },
        );
        let own = Config::default().labels(&format!("{}={}", names::ORIGIN_NODE, self.identity.name));
        let shared = context.shared.clone();
        watches.add(upper, "upper-volumes", own, move |change| {
            shared.upper_volume(change);
        });
    }

    fn watch_nodes(
        &self,
        watches: &mut Watches<'_>,
        upper: Side<'_>,
        lower: Side<'_>,
        context: &Context,
        publisher: &Arc<Publisher>,
        capacity: &Arc<Mutex<Capacity>>,
    ) {
        let own = Config::default().fields(&format!("metadata.name={}", self.identity.name));
        let origin = &context.settings.origin_cluster;
        let others = Config::default().labels(&format!("{}!={origin}", names::ORIGIN_CLUSTER));
        let tell = publisher.clone();
        watches.add(upper, "upper-node", own, move |change| tell.own_node(change));
        let (tell, count) = (publisher.clone(), capacity.clone());
        watches.add(lower, "lower-nodes", Config::default(), move |change| {
            count.lock().node(change);
            tell.notify();
        });
        let (tell, count) = (publisher.clone(), capacity.clone());
        watches.add(lower, "lower-other-pods", others, move |change| {
            if count.lock().other_pod(change) {
                tell.notify();
            }
        });
    }
}

/// Selects lower objects of ours.
fn ours(context: &Context) -> Config {
    let origin = &context.settings.origin_cluster;
    Config::default().labels(&format!("{}={origin}", names::ORIGIN_CLUSTER))
}
