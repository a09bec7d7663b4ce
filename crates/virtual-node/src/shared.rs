//! What the watches fill and the workers empty: both indices behind one lock, and a queue for each.

use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};

use tensile_core::refs::Reference;
use tensile_runtime::key::Key;
use tensile_runtime::object::Meta;
use tensile_runtime::queue::Queue;
use tensile_runtime::watch::Change;

use crate::objects::{self, Kind, ObjectKey, Side};
use crate::pods::{self, LowerPod, LowerSide, References, UpperPod};

/// The indices. One lock for both, because a pod's next step depends on its objects.
#[derive(Debug, Default)]
pub struct State {
    /// Pods.
    pub pods: pods::Index,
    /// What pods need.
    pub objects: objects::Index,
}

/// The indices and the queues of what changed in them.
#[derive(Debug)]
pub struct Shared {
    state: Mutex<State>,
    /// Pods to look at.
    pub pods: Queue<Key>,
    /// Objects to look at.
    pub objects: Queue<ObjectKey>,
    /// Name of the virtual node, whose lower pods are ours to keep.
    node_name: String,
}

// === impl Shared ===

impl Shared {
    /// Empty indices for the virtual node `node_name`.
    #[must_use]
    pub fn new(node_name: &str) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::default(),
            pods: Queue::default(),
            objects: Queue::default(),
            node_name: node_name.to_owned(),
        })
    }

    /// The indices. Never held across an await.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Takes a change of an upper pod.
    pub fn upper_pod(&self, change: Change<UpperPod>) {
        let mut state = self.state.lock();
        match change {
            Change::Apply(pod) => {
                let key = Key::of(&pod);
                if let Some(references) = state.pods.apply_upper(&key, pod) {
                    self.changed(&mut state, key, &references);
                }
            }
            Change::Delete(pod) => self.upper_gone(&mut state, Key::of(&pod), pod.metadata.uid.as_deref()),
            Change::Reset(live) => {
                for key in state.pods.upper_not_in(&live) {
                    self.upper_gone(&mut state, key, None);
                }
            }
        }
    }

    fn upper_gone(&self, state: &mut State, key: Key, uid: Option<&str>) {
        let references = state.pods.delete_upper(&key, uid);
        self.changed(state, key, &references);
    }

    fn changed(&self, state: &mut State, key: Key, references: &References) {
        let (before, after) = (list(references.before.as_ref()), list(references.after.as_ref()));
        if before != after {
            for object in state.objects.set_users(&key, before, after) {
                self.objects.push(object);
            }
        }
        self.pods.push(key);
    }

    /// Takes a change of a lower pod of this upper cluster; those of other virtual nodes are not ours.
    pub fn lower_pod(&self, change: Change<LowerPod>) {
        match change {
            Change::Apply(pod) => {
                let key = Key::of(&pod);
                if label(&pod, tensile_core::names::ORIGIN_NODE) == Some(&self.node_name) {
                    let lower = LowerSide::new(pod);
                    self.state.lock().pods.apply_lower(&key, lower);
                    self.pods.push(key);
                }
            }
            Change::Delete(pod) => {
                let key = Key::of(&pod);
                let uid = pod.metadata.uid.as_deref();
                self.state.lock().pods.delete_lower(&key, uid);
                self.pods.push(key);
            }
            Change::Reset(live) => {
                let mut state = self.state.lock();
                for key in state.pods.lower_not_in(&live) {
                    state.pods.delete_lower(&key, None);
                    self.pods.push(key);
                }
            }
        }
    }

    /// Takes a change of an original; its version is its resourceVersion.
    pub fn upper_object<K: tensile_runtime::object::Kind>(&self, kind: Kind, change: Change<Meta<K>>) {
        let side = |object: &Meta<K>| Side {
            uid: object.metadata.uid.as_deref().unwrap_or_default().into(),
            version: object
                .metadata
                .resource_version
                .as_deref()
                .unwrap_or_default()
                .into(),
            ours: false,
        };
        self.object(
            kind,
            change,
            side,
            objects::Index::upper_not_in,
            objects::Index::set_upper,
        );
    }

    /// Takes a change of a copy; its version is the one of the original that it was made from.
    pub fn lower_object<K: tensile_runtime::object::Kind>(&self, kind: Kind, change: Change<Meta<K>>) {
        let side = |object: &Meta<K>| Side {
            uid: object.metadata.uid.as_deref().unwrap_or_default().into(),
            version: annotation(object, tensile_core::names::INTENT)
                .unwrap_or_default()
                .into(),
            ours: maker(object).is_none_or(|maker| maker == self.node_name),
        };
        self.object(
            kind,
            change,
            side,
            objects::Index::lower_not_in,
            objects::Index::set_lower,
        );
    }

    fn object<K: tensile_runtime::object::Kind>(
        &self,
        kind: Kind,
        change: Change<Meta<K>>,
        side: impl Fn(&Meta<K>) -> Side,
        not_in: fn(&objects::Index, Kind, &std::collections::HashSet<Key>) -> Vec<ObjectKey>,
        set: fn(&mut objects::Index, &ObjectKey, Option<Side>) -> Vec<Key>,
    ) {
        let mut state = self.state.lock();
        let changed = match change {
            Change::Apply(object) => vec![(
                ObjectKey {
                    kind,
                    key: Key::of(&object),
                },
                Some(side(&object)),
            )],
            Change::Delete(object) => vec![(
                ObjectKey {
                    kind,
                    key: Key::of(&object),
                },
                None,
            )],
            Change::Reset(live) => not_in(&state.objects, kind, &live)
                .into_iter()
                .map(|key| (key, None))
                .collect(),
        };
        for (key, side) in changed {
            let woken = set(&mut state.objects, &key, side);
            self.wake(woken);
            self.objects.push(key);
        }
    }

    /// Looks at these pods again.
    pub fn wake(&self, pods: Vec<Key>) {
        pods.into_iter().for_each(|pod| self.pods.push(pod));
    }
}

fn list(references: Option<&Arc<[Reference]>>) -> &[Reference] {
    references.map_or(&[], |references| references)
}

fn label<'a>(pod: &'a LowerPod, key: &str) -> Option<&'a String> {
    pod.metadata.labels.as_ref()?.get(key)
}

fn annotation<'a, K>(object: &'a Meta<K>, key: &str) -> Option<&'a str> {
    object.metadata.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The virtual node that made a copy.
fn maker<K>(copy: &Meta<K>) -> Option<&str> {
    let labels = copy.metadata.labels.as_ref()?;
    labels.get(tensile_core::names::ORIGIN_NODE).map(String::as_str)
}
