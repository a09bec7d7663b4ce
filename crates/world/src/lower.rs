//! Feeds the model of one cluster.

use std::collections::{BTreeSet, HashSet};
use std::fmt::{self, Debug};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use kube::{Api, Client, Resource};
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use tensile_core::labels::Labels;
use tensile_core::view::NodeView;
use tensile_placement::storage::{Claim, Class, CsiNode, Driver, Keyed, Storage, Table, Volume};
use tensile_placement::{Cluster as Model, Pod, PodKey};
use tensile_runtime::admin::Readiness;
use tensile_runtime::cluster::{Cluster, ClusterError, Source};
use tensile_runtime::clusters::Kubeconfig;
use tensile_runtime::key::Key;
use tensile_runtime::object::{Meta, Namespaces, Nodes, Pods, Viewed};
use tensile_runtime::shutdown::Shutdown;
use tensile_runtime::watch::{Change, Metrics, Watch};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::kinds::{Claims, Classes, CsiNodes, Drivers, Volumes};
use crate::shared::Shared;

/// Watches of a lower cluster that must have listed before its model is complete.
const WATCHES: usize = 8;
/// How often a lower cluster is asked whether it is there, and how long it may take.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// Failed probes in a row after which the model is in doubt: 10 to 15 s, a third of the node grace period.
const PROBE_FAILURES: u32 = 2;
/// How long the models' first lists are waited for; 1 000 nodes with 10 000 pods take some seconds. A cluster that
/// answers but cannot be listed is unknown after that.
const START_GRACE: Duration = Duration::from_secs(30);
/// Time between attempts to read a kubeconfig that cannot be used.
const OPEN_INTERVAL: Duration = Duration::from_secs(10);

/// What a component does with each cluster besides feeding its model, as long as the cluster is there: it gets the
/// cluster's id and client. The future is dropped when the cluster leaves.
#[derive(Clone)]
pub struct Companion(Arc<Accompany>);

type Accompany = dyn Fn(&str, Client) -> Company + Send + Sync;
type Company = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Where the credentials of a cluster come from.
#[derive(Clone, Debug)]
pub enum Credentials {
    /// A source that is followed from here.
    Source(Source),
    /// Kubeconfigs that somebody else follows and hands over.
    Given(watch::Receiver<Kubeconfig>),
}

/// The feed of one cluster.
#[derive(Clone, Debug)]
pub struct Feed {
    /// Id of the cluster.
    pub id: String,
    /// Its credentials.
    pub credentials: Credentials,
    /// Where the model is.
    pub shared: Shared,
    /// Where the watches count.
    pub metrics: Metrics,
    /// What else is done with the cluster.
    pub companion: Companion,
}

/// What speaks against trusting the model.
#[derive(Debug)]
struct Health {
    listed: BTreeSet<&'static str>,
    unreachable: Option<String>,
    since: Instant,
}

/// The feed while its cluster is open.
#[derive(Clone)]
struct Open {
    feed: Feed,
    client: Client,
    health: Arc<Mutex<Health>>,
    /// A cluster that is down must not keep the whole component from being ready.
    readiness: Readiness,
}

// === impl Companion ===

impl Companion {
    /// Runs `accompany` for each cluster.
    pub fn new<F: Future<Output = ()> + Send + 'static>(
        accompany: impl Fn(&str, Client) -> F + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(move |id, client| Box::pin(accompany(id, client))))
    }
}

impl Default for Companion {
    /// Does nothing.
    fn default() -> Self {
        Self::new(|_, _| std::future::ready(()))
    }
}

impl Debug for Companion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Companion")
    }
}

// === impl Feed ===

impl Feed {
    /// Feeds in a task of its own. From now on the cluster is known as one that is being listed.
    pub fn spawn(self) -> JoinHandle<()> {
        self.doubt("not listed yet".to_owned(), true);
        tokio::spawn(self.run())
    }

    /// Feeds until the future is dropped.
    pub async fn run(self) {
        self.doubt("not listed yet".to_owned(), true);
        let cluster = self.open().await;
        let company = (self.companion.0)(&self.id, cluster.client.clone());
        let open = Open {
            client: cluster.client.clone(),
            health: Arc::new(Mutex::new(Health::new())),
            readiness: Readiness::default(),
            feed: self,
        };
        tokio::join!(
            open.feed.follow(&cluster),
            company,
            open.probe(),
            open.watch_nodes(),
            open.watch_pods(),
            open.watch_namespaces(),
            open.watch_table::<Volumes, Volume>("lower-volumes", |storage| &mut storage.volumes),
            open.watch_table::<Claims, Claim>("lower-claims", |storage| &mut storage.claims),
            open.watch_table::<Classes, Class>("lower-classes", |storage| &mut storage.classes),
            open.watch_table::<CsiNodes, CsiNode>("lower-csinodes", |storage| &mut storage.csi_nodes),
            open.watch_table::<Drivers, Driver>("lower-csidrivers", |storage| &mut storage.drivers),
        );
    }

    /// Tries until the kubeconfig can be used; says so once.
    async fn open(&self) -> Cluster {
        let mut reported = false;
        loop {
            match self.try_open().await {
                Ok(cluster) => return cluster,
                Err(error) => {
                    if !std::mem::replace(&mut reported, true) {
                        tracing::error!(cluster = self.id, %error, "lower cluster cannot be opened, trying on");
                    }
                    self.doubt(error.to_string(), false);
                }
            }
            sleep(OPEN_INTERVAL).await;
        }
    }

    async fn try_open(&self) -> Result<Cluster, ClusterError> {
        match &self.credentials {
            Credentials::Source(source) => Cluster::open(source.clone()).await,
            Credentials::Given(current) => {
                let kubeconfig = current.borrow().clone();
                Cluster::given(&self.id, kubeconfig.content()).await
            }
        }
    }

    /// Takes over new credentials; does not end.
    async fn follow(&self, cluster: &Cluster) {
        // Dropping this future ends it; nobody triggers this one.
        let never = Shutdown::default();
        let Credentials::Given(current) = &self.credentials else {
            return cluster.follow(&never).await;
        };
        let mut current = current.clone();
        // What came while the cluster was being opened counts as new.
        current.mark_changed();
        while current.changed().await.is_ok() {
            let kubeconfig = current.borrow_and_update().clone();
            if let Err(error) = cluster.take_over(kubeconfig.content()).await {
                tracing::warn!(cluster = self.id, %error, "changed kubeconfig not taken over");
            }
        }
        never.wait().await;
    }

    fn doubt(&self, doubt: String, starting: bool) {
        let mut world = self.shared.world();
        let cluster = world.cluster_mut(&self.id);
        (cluster.doubt, cluster.starting) = (Some(doubt), starting);
    }
}

// === impl Health ===

impl Health {
    fn new() -> Self {
        Self {
            listed: BTreeSet::new(),
            unreachable: None,
            since: Instant::now(),
        }
    }

    /// Whether the first lists are still to be waited for.
    fn is_starting(&self) -> bool {
        self.unreachable.is_none() && self.listed.len() < WATCHES && self.since.elapsed() < START_GRACE
    }

    fn doubt(&self) -> Option<String> {
        let unlisted = || format!("not listed yet, {} of {WATCHES} watches have", self.listed.len());
        self.unreachable
            .clone()
            .or_else(|| (self.listed.len() < WATCHES).then(unlisted))
    }
}

// === impl Open ===

impl Open {
    /// Asks the cluster again and again whether it is there.
    async fn probe(&self) {
        let mut tick = interval(PROBE_INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failures = 0;
        loop {
            tick.tick().await;
            let answer = timeout(PROBE_INTERVAL, self.client.apiserver_version()).await;
            let error = match answer {
                Ok(Ok(_)) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("no answer within {PROBE_INTERVAL:?}")),
            };
            failures = if error.is_some() { failures + 1 } else { 0 };
            if failures == 0 || failures >= PROBE_FAILURES {
                self.update(|health| {
                    health.unreachable = error.map(|error| format!("cannot be reached: {error}"));
                });
            }
        }
    }

    async fn watch_nodes(&self) {
        self.watch::<Viewed<Nodes, NodeView>>("lower-nodes", |model, change| match change {
            Change::Apply(node) => model.apply_node(&node.view),
            Change::Delete(node) => model.delete_node(&node.view.name),
            Change::Reset(keys) => model.retain_nodes(|name| keys.contains(&Key::new("", name))),
        })
        .await;
    }

    async fn watch_pods(&self) {
        self.watch::<Viewed<Pods, Pod>>("lower-pods", |model, change| match change {
            Change::Apply(pod) => model.apply_pod(&pod.view),
            Change::Delete(pod) => model.delete_pod(pod.view.key),
            Change::Reset(keys) => {
                let existing: HashSet<PodKey> = keys
                    .iter()
                    .map(|key| PodKey::new(&key.namespace, &key.name))
                    .collect();
                model.retain_pods(&existing)
            }
        })
        .await;
    }

    async fn watch_namespaces(&self) {
        self.watch::<Meta<Namespaces>>("lower-namespaces", |model, change| match change {
            Change::Apply(namespace) => {
                let labels: Labels = namespace
                    .metadata
                    .labels
                    .unwrap_or_default()
                    .into_iter()
                    .collect();
                model.apply_namespace(namespace.metadata.name.as_deref().unwrap_or_default(), &labels)
            }
            Change::Delete(namespace) => {
                model.delete_namespace(namespace.metadata.name.as_deref().unwrap_or_default())
            }
            Change::Reset(keys) => model.retain_namespaces(|name| keys.contains(&Key::new("", name))),
        })
        .await;
    }

    async fn watch_table<K, T>(&self, name: &'static str, table: fn(&mut Storage) -> &mut Table<T>)
    where
        K: tensile_runtime::object::Kind,
        T: Keyed + PartialEq + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        self.watch::<Viewed<K, T>>(name, move |model, change| {
            let table = table(model.storage_mut());
            match change {
                Change::Apply(object) => table.apply(object.view),
                Change::Delete(object) => table.delete(&object.view.key()),
                Change::Reset(keys) => {
                    let existing: HashSet<String> = keys.iter().map(ToString::to_string).collect();
                    table.retain(|key| existing.contains(key))
                }
            }
        })
        .await;
    }

    async fn watch<K>(&self, name: &'static str, on: impl Fn(&mut Model, Change<K>) -> bool)
    where
        K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
    {
        let watch = Watch {
            api: Api::<K>::all(self.client.clone()),
            config: kube::runtime::watcher::Config::default(),
            name,
            ready: self.readiness.condition(name),
            metrics: self.feed.metrics.clone(),
        };
        let apply = |change: Change<K>| {
            let listed = matches!(change, Change::Reset(_));
            on(
                &mut self.feed.shared.world().cluster_mut(&self.feed.id).model,
                change,
            );
            if listed {
                self.update(|health| {
                    health.listed.insert(name);
                });
            }
        };
        watch.run(apply).await;
    }

    /// Changes what is known about the model's health, and says so when it can be trusted again.
    fn update(&self, change: impl FnOnce(&mut Health)) {
        let (doubt, starting) = {
            let mut health = self.health.lock();
            change(&mut health);
            (health.doubt(), health.is_starting())
        };
        let mut world = self.feed.shared.world();
        let cluster = world.cluster_mut(&self.feed.id);
        cluster.starting = starting;
        if cluster.doubt == doubt {
            return;
        }
        let trusted = doubt.is_none();
        if trusted || cluster.doubt.is_none() {
            tracing::info!(
                cluster = self.feed.id,
                trusted,
                doubt,
                "model of the lower cluster"
            );
        }
        cluster.doubt = doubt;
        drop(world);
        if trusted {
            self.feed.shared.resync();
        }
    }
}
