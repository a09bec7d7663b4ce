//! Everything that runs while we hold the lease of a lower cluster: when its future is dropped, all watches end
//! and requests under way are aborted, so that nothing is written after the lease is lost.
//!
//! Writers run inside the future itself, so that they stop the moment it is dropped; [`watches`](crate::watches) are
//! tasks that it owns.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use kube::runtime::watcher::Config;
use prometheus::IntGauge;
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tokio::sync::watch;

use tensile_core::names;
use tensile_runtime::admin::Readiness;
use tensile_runtime::object::{
    ConfigMaps, EndpointSlices, Meta, Namespaces, PersistentVolumeClaims, Secrets, Services, Slim,
};
use tensile_runtime::watch::Change;

use crate::context::Context;
use crate::events;
use crate::node::{AllDown, Heartbeat, Identity, LowerNode, OtherPod, Publisher, Reachability, reach};
use crate::objects::{self, Kind};
use crate::pods;
use crate::shared::Shared;
use crate::tokens;
use crate::watches::{Side, Watches};

/// Objects that are made or renewed at a time; a copy is two requests.
const OBJECT_WORKERS: usize = 8;
/// Events that are shown at a time; nobody waits for them.
const EVENT_WORKERS: usize = 2;

/// What the virtual nodes of one lower cluster run with.
#[derive(Debug)]
pub struct Engine {
    /// Id of the lower cluster.
    pub id: String,
    /// The upper cluster.
    pub upper: Side,
    /// The lower cluster.
    pub lower: Side,
    /// How long the lower cluster may be silent.
    pub grace: Duration,
    /// Pods that are worked on at a time, for each virtual node.
    pub pod_workers: usize,
    /// What readiness depends on.
    pub readiness: Readiness,
    /// Whether the lower cluster answers.
    pub reachable: IntGauge,
    /// Whether every lower cluster seems dead.
    pub all_down: AllDown,
}

/// One virtual node of the lower cluster.
pub struct Member {
    /// What its Node is.
    pub identity: Identity,
    /// What works for it.
    pub context: Context,
}

/// A copy of a Service: its spec has the address that the lower cluster gave it.
type LowerService = Slim<Services, Value, IgnoredAny>;

// === impl Engine ===

impl Engine {
    /// Runs until the future is dropped, or the lower cluster was set back to an earlier state, after which nothing of
    /// what is known here can be trusted. `members` is not empty.
    pub async fn run(&self, members: &[Member]) {
        let (reach, reachability) = watch::channel(Reachability::Reachable);
        let publishers: Vec<Arc<Publisher>> = members
            .iter()
            .map(|member| {
                let identity = member.identity.clone();
                Arc::new(Publisher::new(&member.context, identity, reachability.clone()))
            })
            .collect();
        let watches = self.watches(members, &publishers);
        let synced = watches.synced();
        let work = async {
            synced.wait().await;
            tracing::info!(cluster = self.id, "in step with both clusters");
            let nodes = members.iter().zip(&publishers);
            join_all(nodes.map(|(member, publisher)| self.work(member, publisher))).await;
        };
        let down = self.all_down.add(&self.id);
        let silence = join_all(
            members
                .iter()
                .map(|member| pods::follow_silence(&member.context, reach.subscribe(), &down)),
        );
        let show = show(reach.subscribe(), &self.reachable);
        let lower = self.lower.cluster.client.clone();
        let shared = || members.iter().map(|member| &member.context.shared);
        let seen = || shared().map(|shared| shared.newest()).max().unwrap_or_default();
        let answers_again = || shared().for_each(|shared| shared.hurry());
        let watch_over = reach::watch_over(&self.id, lower, self.grace, reach, seen, answers_again);
        let all = async { tokio::join!(watches.run(), show, silence, work) };
        tokio::select! { _ = all => {} () = watch_over => {} }
    }

    /// Works for one virtual node.
    async fn work(&self, member: &Member, publisher: &Publisher) {
        let context = &member.context;
        let heartbeat = Heartbeat::new(context.upper.clone(), &member.identity.name, publisher.uid());
        let (pods, objects, events) = (
            pods::Worker::new(context.clone()),
            objects::Worker::new(context.clone()),
            events::Worker::new(context.clone()),
        );
        let shared = &context.shared;
        tokio::join!(
            shared.pods.run(self.pod_workers, |key| pods.work(key)),
            shared.objects.run(OBJECT_WORKERS, |key| objects.work(key)),
            shared.events.run(EVENT_WORKERS, |key| events.work(key)),
            tokens::watch_over(shared),
            publisher.run(),
            heartbeat.run(),
        );
    }

    fn watches(&self, members: &[Member], publishers: &[Arc<Publisher>]) -> Watches<'_> {
        let all = members.iter().map(|member| member.context.shared.clone());
        let mut watches = Watches::new(&self.readiness, all.collect());
        for (member, publisher) in members.iter().zip(publishers) {
            self.watch_own(&mut watches, member, publisher);
        }
        // What virtual nodes of one cluster share does not differ between them.
        if let Some(member) = members.first() {
            self.watch_pods(&mut watches, &member.context);
            self.watch_objects(&mut watches, &member.context);
            self.watch_services(&mut watches, &member.context);
            self.watch_nodes(&mut watches, &member.context, publishers);
        }
        watches
    }

    /// What is about one virtual node alone.
    fn watch_own(&self, watches: &mut Watches<'_>, member: &Member, publisher: &Arc<Publisher>) {
        let name = &member.identity.name;
        let condition = |watch: &str| format!("{watch} of {name}");
        let bound = Config::default().fields(&format!("spec.nodeName={name}"));
        let shared = member.context.shared.clone();
        let on = move |change| shared.upper_pod(change);
        watches.add(&self.upper, "upper-pods", &condition("upper-pods"), bound, on);
        let own = Config::default().labels(&format!("{}={name}", names::ORIGIN_NODE));
        let shared = member.context.shared.clone();
        let on = move |change| shared.upper_volume(change);
        watches.add(&self.upper, "upper-volumes", &condition("upper-volumes"), own, on);
        let own = Config::default().fields(&format!("metadata.name={name}"));
        let publisher = publisher.clone();
        let on = move |change| publisher.own_node(change);
        watches.add(&self.upper, "upper-node", &condition("upper-node"), own, on);
    }

    fn watch_pods(&self, watches: &mut Watches<'_>, context: &Context) {
        watches.for_all(&self.lower, "lower-pods", ours(context), Shared::lower_pod);
        let told = Config::default().fields(events::SELECTOR);
        watches.for_all(&self.lower, "lower-events", told, Shared::lower_event);
    }

    fn watch_nodes(&self, watches: &mut Watches<'_>, context: &Context, publishers: &[Arc<Publisher>]) {
        let (capacity, tell) = (context.shared.capacity.clone(), publishers.to_vec());
        let on = move |change: Change<LowerNode>| {
            capacity.lock().node(change);
            tell.iter().for_each(|publisher| publisher.notify());
        };
        watches.add(&self.lower, "lower-nodes", "lower-nodes", Config::default(), on);
        let origin = &context.settings.origin_cluster;
        let others = Config::default().labels(&format!("{}!={origin}", names::ORIGIN_CLUSTER));
        let (capacity, tell) = (context.shared.capacity.clone(), publishers.to_vec());
        let on = move |change: Change<OtherPod>| {
            if capacity.lock().other_pod(change) {
                tell.iter().for_each(|publisher| publisher.notify());
            }
        };
        watches.add(&self.lower, "lower-other-pods", "lower-other-pods", others, on);
    }

    fn watch_objects(&self, watches: &mut Watches<'_>, context: &Context) {
        let (upper, lower) = (&self.upper, &self.lower);
        let (all, ours) = (Config::default, || ours(context));
        watches.for_all(
            upper,
            "upper-configmaps",
            all(),
            original::<ConfigMaps>(Kind::ConfigMap),
        );
        watches.for_all(upper, "upper-secrets", all(), original::<Secrets>(Kind::Secret));
        let claims = Kind::PersistentVolumeClaim;
        watches.for_all(
            upper,
            "upper-claims",
            all(),
            original::<PersistentVolumeClaims>(claims),
        );
        watches.for_all(upper, "upper-namespaces", all(), Shared::upper_namespace);
        watches.for_all(
            lower,
            "lower-configmaps",
            ours(),
            copy::<ConfigMaps>(Kind::ConfigMap),
        );
        watches.for_all(lower, "lower-secrets", ours(), Shared::lower_secret);
        watches.for_all(
            lower,
            "lower-claims",
            ours(),
            copy::<PersistentVolumeClaims>(claims),
        );
        watches.for_all(
            lower,
            "lower-namespaces",
            all(),
            copy::<Namespaces>(Kind::Namespace),
        );
    }

    /// Below also when they are not mirrored: copies from before are then removed.
    fn watch_services(&self, watches: &mut Watches<'_>, context: &Context) {
        let slices = Kind::EndpointSlice;
        if context.settings.mirror_services {
            let services = original::<Services>(Kind::Service);
            watches.for_all(&self.upper, "upper-services", Config::default(), services);
            let slices = original::<EndpointSlices>(slices);
            watches.for_all(&self.upper, "upper-endpointslices", Config::default(), slices);
        }
        let services = |shared: &Shared, change: Change<LowerService>| {
            shared.lower_object(Kind::Service, change, |state, key, service| {
                let copy = json!({"metadata": service.metadata, "spec": service.spec});
                state.objects.services.set(key, Some(&copy));
            });
        };
        watches.for_all(&self.lower, "lower-services", ours(context), services);
        let slices = copy::<EndpointSlices>(slices);
        watches.for_all(&self.lower, "lower-endpointslices", ours(context), slices);
    }
}

/// Selects lower objects of ours.
fn ours(context: &Context) -> Config {
    let origin = &context.settings.origin_cluster;
    Config::default().labels(&format!("{}={origin}", names::ORIGIN_CLUSTER))
}

/// Tells of originals of a kind.
fn original<K: tensile_runtime::object::Kind>(kind: Kind) -> impl Fn(&Shared, Change<Meta<K>>) {
    move |shared, change| shared.upper_object(kind, change)
}

/// Tells of copies of a kind.
fn copy<K: tensile_runtime::object::Kind>(kind: Kind) -> impl Fn(&Shared, Change<Meta<K>>)
where
    Meta<K>: kube::Resource,
{
    move |shared, change| shared.lower_object(kind, change, |_, _, _| {})
}

/// Shows whether the lower cluster answers, until dropped.
async fn show(mut reachability: watch::Receiver<Reachability>, gauge: &IntGauge) {
    loop {
        let answers = *reachability.borrow_and_update() == Reachability::Reachable;
        gauge.set(answers.into());
        if reachability.changed().await.is_err() {
            return;
        }
    }
}
