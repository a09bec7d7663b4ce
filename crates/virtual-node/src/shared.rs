//! What the watches fill and the workers empty: both indices behind one lock, and a queue for each.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use parking_lot::{Mutex, MutexGuard};

use tensile_runtime::key::Key;
use tensile_runtime::object::{Meta, Namespaces, PersistentVolumes, Secrets};
use tensile_runtime::queue::Queue;
use tensile_runtime::watch::Change;

use crate::claims;
use crate::context::Settings;
use crate::events::{self, LowerEvent};
use crate::lag::Lag;
use crate::metrics::Metrics;
use crate::namespaces;
use crate::node::Capacity;
use crate::objects::{self, Kind, ObjectKey, Side};
use crate::origin::{lower_key, upper_key};
use crate::pods::{self, LowerPod, LowerSide, References, UpperPod};
use crate::tokens;

/// Label of an EndpointSlice: the Service that it belongs to.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The indices. One lock for both, because a pod's next step depends on its objects.
#[derive(Debug, Default)]
pub struct State {
    /// Pods.
    pub pods: pods::Index,
    /// What pods need.
    pub objects: objects::Index,
    /// Secrets with tokens of pods.
    pub tokens: tokens::Index,
    /// Claims that are ours to look at, beside those that pods use.
    pub claims: claims::Index,
    /// Lower events that wait to be shown.
    pub events: events::Index,
    /// What namespaces say about their pods.
    pub namespaces: namespaces::Index,
    /// How far the watch of upper pods is behind.
    pub upper_lag: Lag,
    /// How far the watch of lower pods is behind.
    pub lower_lag: Lag,
}

/// The indices and the queues of what changed in them.
#[derive(Debug)]
pub struct Shared {
    state: Mutex<State>,
    /// Pods to look at.
    pub pods: Queue<Key>,
    /// Objects to look at.
    pub objects: Queue<ObjectKey>,
    /// Lower events to look at.
    pub events: Queue<Key>,
    /// The lower nodes of all pools, and what others hold of them.
    pub capacity: Arc<Mutex<Capacity>>,
    /// The highest resourceVersion of a lower pod that was seen.
    newest: AtomicU64,
    settings: Arc<Settings>,
    metrics: Metrics,
}

// === impl Shared ===

impl Shared {
    /// Empty indices of one virtual node; `capacity` is that of its cluster.
    #[must_use]
    pub fn new(settings: Arc<Settings>, capacity: Arc<Mutex<Capacity>>, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                namespaces: namespaces::Index::new(settings.mapping.clone()),
                ..State::default()
            }),
            pods: Queue::default(),
            objects: Queue::default(),
            events: Queue::default(),
            capacity,
            newest: AtomicU64::new(0),
            settings,
            metrics,
        })
    }

    /// The indices. Never held across an await.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// What does not change while the virtual node runs.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The lower nodes of the pool by name, and whether each is usable.
    #[must_use]
    pub fn node_names(&self) -> BTreeMap<String, bool> {
        self.capacity.lock().node_names(&self.settings.pool)
    }

    /// The highest resourceVersion of a lower pod that was seen.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.newest.load(Ordering::Relaxed)
    }

    /// The lower cluster answers again: what failed meanwhile is tried again at once.
    pub fn hurry(&self) {
        self.pods.hurry();
        self.objects.hurry();
        self.events.hurry();
    }

    /// The pods that run below, by their lower key: the upper key and UID.
    #[must_use]
    pub fn running_pods(&self) -> HashMap<Key, (Key, Box<str>)> {
        let state = self.state.lock();
        let ours = state.pods.iter().filter(|(_, entry)| entry.belongs());
        ours.filter_map(|(key, entry)| {
            let uid = entry.upper.as_ref()?.uid.clone();
            Some((lower_key(key, &self.settings.mapping), (key.clone(), uid)))
        })
        .collect()
    }

    /// Takes a change of an upper pod.
    pub fn upper_pod(&self, change: Change<UpperPod>) {
        let mut state = self.state.lock();
        match change {
            Change::Apply(pod) => {
                let key = Key::of(&pod);
                let version = pods::version(pod.metadata.resource_version.as_deref());
                if let Some(lag) = state.upper_lag.shown(&key, Some(version), Instant::now()) {
                    self.lagged("upper-pods", lag);
                }
                if let Some(references) = state.pods.apply_upper(&key, pod) {
                    self.changed(&mut state, key, &references);
                }
            }
            Change::Delete(pod) => self.upper_gone(&mut state, Key::of(&pod), pod.metadata.uid.as_deref()),
            Change::Reset(live) => {
                state.upper_lag.forget();
                for key in state.pods.upper_not_in(&live) {
                    self.upper_gone(&mut state, key, None);
                }
            }
        }
    }

    fn upper_gone(&self, state: &mut State, key: Key, uid: Option<&str>) {
        state.upper_lag.shown(&key, None, Instant::now());
        let references = state.pods.delete_upper(&key, uid);
        self.changed(state, key, &references);
    }

    fn changed(&self, state: &mut State, key: Key, references: &References) {
        let (before, after) = (references.before.as_deref(), references.after.as_deref());
        if before != after {
            for object in state.objects.set_users(&key, before, after) {
                self.objects.push(object);
            }
        }
        self.pods.push(key);
    }

    /// Takes a change of a lower pod of this upper cluster; those of other virtual nodes are not ours.
    pub fn lower_pod(&self, change: Change<LowerPod>) {
        if let Change::Apply(pod) | Change::Delete(pod) = &change {
            let version = pods::version(pod.metadata.resource_version.as_deref());
            self.newest.fetch_max(version, Ordering::Relaxed);
        }
        match change {
            Change::Apply(pod) => {
                if label(&pod.metadata, tensile_core::names::ORIGIN_NODE) == Some(&self.settings.node_name)
                    && let Some(key) = upper_key(&pod.metadata, &self.settings.mapping)
                {
                    self.lower_shown(&key, pod);
                    self.pods.push(key);
                }
            }
            Change::Delete(pod) => {
                if let Some(key) = upper_key(&pod.metadata, &self.settings.mapping) {
                    let uid = pod.metadata.uid.as_deref();
                    let mut state = self.state.lock();
                    state.lower_lag.shown(&key, None, Instant::now());
                    state.pods.delete_lower(&key, uid);
                    drop(state);
                    self.left(&key.namespace);
                    self.pods.push(key);
                }
            }
            Change::Reset(live) => {
                let mut state = self.state.lock();
                state.lower_lag.forget();
                let is_live = |key: &Key| live.contains(&lower_key(key, &self.settings.mapping));
                for key in state.pods.lower_not_in(is_live) {
                    state.pods.delete_lower(&key, None);
                    self.left(&key.namespace);
                    self.pods.push(key);
                }
            }
        }
    }

    fn lower_shown(&self, key: &Key, pod: LowerPod) {
        let (version, now) = (
            pods::version(pod.metadata.resource_version.as_deref()),
            Instant::now(),
        );
        let lower = LowerSide::new(pod);
        let mut state = self.state.lock();
        if let Some(lag) = state.lower_lag.shown(key, Some(version), now) {
            self.lagged("lower-pods", lag);
        }
        state.pods.apply_lower(key, lower);
        state.pods.lower_changed(key, now);
    }

    fn lagged(&self, watch: &str, lag: std::time::Duration) {
        let histogram = self.metrics.watch_lag.with_label_values(&[watch]);
        histogram.observe(lag.as_secs_f64());
    }

    /// Something left a lower namespace, which may go if it was the last thing in it.
    fn left(&self, namespace: &str) {
        self.objects.push(ObjectKey::namespace(namespace));
    }

    /// Takes a change of a lower Secret of this upper cluster: a copy, or the tokens of a pod.
    pub fn lower_secret(&self, change: Change<Meta<Secrets>>) {
        let mut state = self.state.lock();
        match &change {
            Change::Apply(secret) if tokens::is_token_secret(secret) => {
                if maker(&secret.metadata) == Some(&self.settings.node_name) {
                    self.wake(state.tokens.apply(secret).into_iter().collect());
                }
                return;
            }
            Change::Delete(secret) if tokens::is_token_secret(secret) => {
                let pod = state.tokens.delete(secret);
                pod.iter().for_each(|pod| self.left(&pod.namespace));
                self.wake(pod.into_iter().collect());
                return;
            }
            Change::Reset(live) => {
                let lost_some = state.tokens.retain(live);
                let pods = state.pods.keys().filter(|_| lost_some).cloned().collect();
                self.wake(pods);
            }
            _ => {}
        }
        drop(state);
        self.lower_object(Kind::Secret, change, |_, _, _| {});
    }

    /// Looks again at the pods whose tokens are due at `now`.
    pub fn tokens_due(&self, now: Timestamp) {
        let state = self.state.lock();
        let is_due = |entry: &pods::Entry| {
            let token = entry
                .upper
                .as_ref()
                .and_then(|upper| state.tokens.get(&upper.uid));
            token.is_some_and(|token| token.refresh_at <= now)
        };
        let due = state.pods.iter().filter(|(_, entry)| is_due(entry));
        self.wake(due.map(|(key, _)| key.clone()).collect());
    }

    /// Takes a change of an upper namespace. Pods that were made keep what they have.
    pub fn upper_namespace(&self, change: Change<Meta<Namespaces>>) {
        let mut state = self.state.lock();
        match change {
            Change::Apply(namespace) => {
                if state.namespaces.apply(&namespace) {
                    let name = namespace.metadata.name.unwrap_or_default();
                    state
                        .pods
                        .keys_in(&name)
                        .for_each(|pod| self.pods.push(pod.clone()));
                }
            }
            Change::Delete(namespace) => state
                .namespaces
                .delete(namespace.metadata.name.as_deref().unwrap_or_default()),
            Change::Reset(live) => state.namespaces.retain(&live),
        }
    }

    /// Takes a change of an original; its version is its resourceVersion.
    pub fn upper_object<K: tensile_runtime::object::Kind>(&self, kind: Kind, change: Change<Meta<K>>) {
        let mut state = self.state.lock();
        match change {
            Change::Apply(object) => {
                let key = ObjectKey {
                    kind,
                    key: Key::of(&object),
                };
                let metadata = &object.metadata;
                let version = match kind {
                    Kind::PersistentVolumeClaim => metadata.uid.as_deref(),
                    _ => metadata.resource_version.as_deref(),
                };
                let side = Side {
                    uid: metadata.uid.as_deref().unwrap_or_default().into(),
                    version: version.unwrap_or_default().into(),
                    ours: false,
                };
                self.set_upper(&mut state, &key, Some((side, metadata)));
            }
            Change::Delete(object) => {
                let key = ObjectKey {
                    kind,
                    key: Key::of(&object),
                };
                self.set_upper(&mut state, &key, None);
            }
            Change::Reset(live) => {
                for key in state.objects.upper_not_in(kind, |key| live.contains(key)) {
                    self.set_upper(&mut state, &key, None);
                }
            }
        }
    }

    fn set_upper(&self, state: &mut State, key: &ObjectKey, side: Option<(Side, &ObjectMeta)>) {
        let (side, metadata) = side.unzip();
        let woken = state.objects.set_upper(key, side);
        match (key.kind, metadata) {
            (Kind::EndpointSlice, Some(metadata)) => state.objects.set_service(key, service_of(metadata)),
            (Kind::PersistentVolumeClaim, metadata) => {
                state
                    .claims
                    .set_upper(&key.key, metadata, &self.settings.node_name);
            }
            _ => {}
        }
        self.wake(woken);
        self.objects.push(key.clone());
    }

    /// Takes a change of a copy; its version is the one of the original that it was made from.
    pub fn lower_object<R>(&self, kind: Kind, change: Change<R>, on_apply: impl Fn(&mut State, &Key, &R))
    where
        R: kube::Resource,
    {
        let key =
            |object: &R| upper_key(object.meta(), &self.settings.mapping).map(|key| ObjectKey { kind, key });
        let mut state = self.state.lock();
        match change {
            Change::Apply(object) => {
                let Some(key) = key(&object) else { return };
                let metadata = object.meta();
                let version = match kind {
                    Kind::PersistentVolumeClaim => label(metadata, tensile_core::names::ORIGIN_UID),
                    _ => annotation(metadata, tensile_core::names::INTENT),
                };
                let side = Side {
                    uid: metadata.uid.as_deref().unwrap_or_default().into(),
                    version: version.unwrap_or_default().into(),
                    ours: match kind {
                        Kind::Namespace => is_of_tensile(metadata),
                        _ => maker(metadata).is_none_or(|maker| maker == self.settings.node_name),
                    },
                };
                on_apply(&mut state, &key.key, &object);
                self.set_lower(&mut state, &key, Some(side));
                if kind == Kind::EndpointSlice {
                    state.objects.set_service(&key, service_of(metadata));
                }
            }
            Change::Delete(object) => {
                if let Some(key) = key(&object) {
                    self.set_lower(&mut state, &key, None);
                }
            }
            Change::Reset(live) => {
                let is_live = |key: &Key| live.contains(&lower_key(key, &self.settings.mapping));
                for key in state.objects.lower_not_in(kind, is_live) {
                    self.set_lower(&mut state, &key, None);
                }
            }
        }
    }

    /// Takes a change of a lower event.
    pub fn lower_event(&self, change: Change<LowerEvent>) {
        if let Change::Apply(event) = change {
            let key = Key::of(&event);
            if self.state.lock().events.apply(&key, event) {
                self.events.push(key);
            }
        }
    }

    /// Takes a change of an upper volume of ours.
    pub fn upper_volume(&self, change: Change<Meta<PersistentVolumes>>) {
        let mut state = self.state.lock();
        let claim = match change {
            Change::Apply(volume) => state.claims.apply_volume(&volume),
            Change::Delete(volume) => state.claims.delete_volume(&volume),
            Change::Reset(live) => {
                state.claims.retain_volumes(&live);
                None
            }
        };
        if let Some(key) = claim {
            let kind = Kind::PersistentVolumeClaim;
            self.objects.push(ObjectKey { kind, key });
        }
    }

    /// Our copy is there or gone: looks again at it, at the pods that wait for it, and at what follows it.
    pub fn set_lower(&self, state: &mut State, key: &ObjectKey, side: Option<Side>) {
        let (was_there, is_there) = (
            state
                .objects
                .get(key)
                .is_some_and(|object| object.lower.is_some()),
            side.is_some(),
        );
        let woken = state.objects.set_lower(key, side);
        self.wake(woken);
        if was_there && !is_there {
            self.left(&key.key.namespace);
        }
        if key.kind == Kind::Namespace && was_there != is_there {
            // What failed in a namespace that ends works in the next one.
            self.wake(state.objects.users(key));
        }
        if key.kind == Kind::Service && was_there != is_there {
            if !is_there {
                state.objects.services.set(&key.key, None);
            }
            for slice in state.objects.slices_in(&key.key.namespace) {
                self.objects.push(slice);
            }
        }
        self.objects.push(key.clone());
    }

    /// Looks at these pods again.
    pub fn wake(&self, pods: Vec<Key>) {
        pods.into_iter().for_each(|pod| self.pods.push(pod));
    }
}

fn label<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.labels.as_ref()?.get(key).map(String::as_str)
}

fn annotation<'a>(metadata: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The virtual node that made a copy.
fn maker(copy: &ObjectMeta) -> Option<&str> {
    label(copy, tensile_core::names::ORIGIN_NODE)
}

/// Whether a Tensile made the object, for any upper cluster.
fn is_of_tensile(metadata: &ObjectMeta) -> bool {
    label(metadata, tensile_core::names::ORIGIN_CLUSTER).is_some()
}

/// The Service that an EndpointSlice belongs to.
fn service_of(slice: &ObjectMeta) -> Option<&str> {
    label(slice, SERVICE_NAME)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Indices of a virtual node `vn` without any cluster.
    pub(crate) fn mk_shared() -> Arc<Shared> {
        let settings = Settings {
            node_name: "vn".to_owned(),
            origin_cluster: "upper".to_owned(),
            node_ip: "10.0.0.1".to_owned(),
            node_labels: BTreeMap::new(),
            ignored_keys: std::collections::BTreeSet::new(),
            ignore_labels: Vec::new(),
            policy: tensile_core::translate::pod::Policy::default(),
            pool: crate::pools::Pool::default(),
            mapping: tensile_core::translate::namespace::Mapping::SameName,
            mirror_services: true,
            service_account: tensile_core::translate::service_account::ServiceAccount::None,
            upper_api: None,
            force_delete_after: None,
        };
        let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
        Shared::new(Arc::new(settings), Arc::default(), metrics)
    }

    #[test]
    fn a_pod_is_looked_at_again_when_its_tokens_are_due() {
        let (shared, key) = (mk_shared(), Key::new("ns", "p"));
        let pod = serde_json::json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {}});
        let pod = serde_json::from_str(&pod.to_string()).unwrap();
        let second = |second| Timestamp::from_second(second).unwrap();
        let (uid, refresh_at) = ("s".into(), second(600));
        {
            let mut state = shared.lock();
            state.pods.apply_upper(&key, pod);
            state.tokens.insert("u", tokens::Token { uid, refresh_at });
        }
        shared.tokens_due(second(599));
        assert_eq!(shared.pods.depth().fresh, 0);
        shared.tokens_due(second(600));
        assert_eq!(shared.pods.depth().fresh, 1);
    }
}
