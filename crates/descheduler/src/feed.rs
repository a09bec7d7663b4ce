//! What the descheduler knows, and the watches that keep it up to date.

use std::collections::BTreeMap;
use std::sync::Arc;

use kube::runtime::watcher;
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::Value;
use tensile_core::names;
use tensile_runtime::admin::Readiness;
use tensile_runtime::object::{self, Viewed};
use tensile_runtime::watch::{Change, Metrics, Watch};
use tensile_world::lower::Companion;
use tensile_world::{Settings, Shared, World};
use tokio::sync::Notify;

use crate::pods::Pods;
use crate::refused::{Refused, Unplaced};
use crate::waiting::Waiting;

/// The id under which the upper cluster's own model is kept.
pub const ABOVE: &str = "upper";

/// What the descheduler knows. Clones share it.
#[derive(Clone)]
pub struct Known {
    /// Virtual nodes and models of the lower clusters.
    pub world: Shared,
    /// One cluster, [`ABOVE`]: the model of the upper cluster.
    pub above: Shared,
    /// The upper pods on virtual nodes.
    pub pods: Arc<Mutex<Pods>>,
    /// What lower clusters refused.
    pub refused: Arc<Mutex<Refused>>,
    /// Upper pods that no node takes.
    pub waiting: Arc<Mutex<Waiting>>,
    /// The lower clusters that can be asked.
    pub clients: Arc<Mutex<BTreeMap<String, Client>>>,
    /// A pod was refused that was not before.
    pub news: Arc<Notify>,
}

/// A lower cluster while it is there; forgotten when dropped.
struct Presence {
    known: Known,
    cluster: String,
}

// === impl Known ===

impl Known {
    /// Nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            world: Shared::new(World::new(settings)),
            above: Shared::new(World::default()),
            pods: Arc::default(),
            refused: Arc::default(),
            waiting: Arc::default(),
            clients: Arc::default(),
            news: Arc::default(),
        }
    }

    /// Takes over a change of an upper pod.
    pub fn pod_changed(&self, change: &Change<Viewed<object::Pods, Value>>) {
        let world = self.world.world();
        self.pods
            .lock()
            .changed(change, |node| world.virtual_node(node).is_some());
    }

    /// What is done with each lower cluster besides feeding its model: its word on pods of the upper cluster with this
    /// UID is heard. Only pods that wait for a node are asked for, so that this stays small.
    #[must_use]
    pub fn companion(&self, upper_uid: &str, metrics: Metrics) -> Companion {
        let (known, label) = (self.clone(), format!("{}={upper_uid}", names::ORIGIN_CLUSTER));
        Companion::new(move |cluster, client| {
            let presence = Presence::new(known.clone(), cluster, client.clone());
            let watch = Watch {
                api: Api::<Viewed<object::Pods, Unplaced>>::all(client),
                config: watcher::Config::default()
                    .labels(&label)
                    .fields("spec.nodeName=,status.phase=Pending"),
                name: "lower-waiting-pods",
                ready: Readiness::default().condition("lower-waiting-pods"),
                metrics: metrics.clone(),
            };
            async move { watch.run(|change| presence.changed(change)).await }
        })
    }

    /// Follows the upper pods that no node takes, until the future is dropped. Only those that may go to virtual nodes
    /// have the label.
    pub async fn watch_waiting(&self, upper: Client, readiness: &Readiness, metrics: Metrics) {
        let watch = Watch {
            api: Api::<Viewed<object::Pods, Value>>::all(upper),
            config: watcher::Config::default()
                .labels(&format!("{}=true", names::VIRTUAL_POD))
                .fields("spec.nodeName=,status.phase=Pending"),
            name: "upper-waiting-pods",
            ready: readiness.condition("upper-waiting-pods"),
            metrics,
        };
        watch.run(|change| self.waiting.lock().changed(&change)).await;
    }

    /// Why no plan can be made now; `None` if one can.
    #[must_use]
    pub fn doubt(&self) -> Option<String> {
        if !self.world.world().is_listed() {
            return Some("the nodes of the upper cluster have not been listed yet".to_owned());
        }
        let mut above = self.above.world();
        let doubt = above.cluster_mut(ABOVE).doubt.clone();
        doubt.map(|doubt| format!("upper cluster: {doubt}"))
    }

    /// Whether every lower cluster can be judged.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let world = self.world.world();
        let mut clusters = world.clusters();
        clusters.all(|(_, cluster)| cluster.doubt.is_none())
    }
}

// === impl Presence ===

impl Presence {
    fn new(known: Known, cluster: &str, client: Client) -> Self {
        known.clients.lock().insert(cluster.to_owned(), client);
        Self {
            known,
            cluster: cluster.to_owned(),
        }
    }

    fn changed(&self, change: Change<Viewed<object::Pods, Unplaced>>) {
        if self.known.refused.lock().changed(&self.cluster, change) {
            self.known.news.notify_one();
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.known.clients.lock().remove(&self.cluster);
        self.known.refused.lock().delete_cluster(&self.cluster);
    }
}
