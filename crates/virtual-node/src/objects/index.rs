//! Both sides of every object that pods may need, and which pods need it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tensile_core::refs::Reference;
use tensile_core::status::Problem;
use tensile_core::translate::service;
use tensile_runtime::key::Key;

use super::{Kind, ObjectKey, Services};

/// How long a namespace is kept that no pod needs any more.
const NAMESPACE_REST: Duration = Duration::from_secs(30);

/// One side of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// Above: `metadata.resourceVersion`, of a claim its UID. Below: that of the original that the copy was made from.
    pub version: Box<str>,
    /// Below: whether this virtual node made the copy, and so removes it. Another one in front of the same lower
    /// cluster may need it for a pod that is not there yet.
    pub ours: bool,
}

/// An object and who needs it.
#[derive(Debug, Default)]
pub struct Object {
    /// The original.
    pub upper: Option<Side>,
    /// Our copy.
    pub lower: Option<Side>,
    /// Pods that refer to it.
    pub users: HashSet<Key>,
    /// Of an EndpointSlice: the Service that it belongs to.
    pub service: Option<Box<str>>,
    /// Why there is no copy, after an attempt failed.
    pub problem: Option<Box<str>>,
    /// Of a namespace: since when no pod needs it.
    pub idle_since: Option<Instant>,
    /// Pods that wait for the copy.
    pub(super) waiting: HashSet<Key>,
}

/// What a pod finds when it asks for its objects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// All there.
    Met,
    /// Being made; the pod is told when that changes.
    Pending(Vec<ObjectKey>),
    /// Cannot be made now, for this reason.
    Unmet(Problem),
}

/// Objects by kind and name.
#[derive(Debug, Default)]
pub struct Index {
    objects: HashMap<ObjectKey, Object>,
    /// Services and EndpointSlices by namespace.
    of_namespace: HashMap<Arc<str>, HashSet<ObjectKey>>,
    /// What the environment of pods says of our Services.
    pub services: Services,
}

// === impl Object ===

impl Object {
    /// Whether the copy is there and made from the present original. A namespace only has to be there.
    fn is_current(&self, key: &ObjectKey) -> bool {
        match (&self.upper, &self.lower) {
            (_, Some(_)) if key.kind == Kind::Namespace => true,
            (Some(upper), Some(lower)) => upper.version == lower.version,
            _ => false,
        }
    }

    fn is_idle(&self) -> bool {
        self.upper.is_none() && self.lower.is_none() && self.users.is_empty()
    }
}

// === impl Index ===

impl Index {
    /// Number of objects.
    #[must_use]
    pub fn len(&self) -> usize {
        self.objects.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }

    /// The object under `key`.
    #[must_use]
    pub fn get(&self, key: &ObjectKey) -> Option<&Object> {
        self.objects.get(key)
    }

    /// Whether pods of ours need the object.
    #[must_use]
    pub fn is_needed(&self, key: &ObjectKey) -> bool {
        let (namespace, name) = (&*key.key.namespace, &*key.key.name);
        match key.kind {
            Kind::Service => service::is_mirrored(namespace, name) && self.has_pods(namespace),
            Kind::EndpointSlice => {
                let service = self.get(key).and_then(|slice| slice.service.as_deref());
                let service = service.map(|name| ObjectKey {
                    kind: Kind::Service,
                    key: Key::new(namespace, name),
                });
                service.is_some_and(|service| {
                    self.is_needed(&service) && self.get(&service).is_some_and(|copy| copy.lower.is_some())
                })
            }
            _ => self.get(key).is_some_and(|object| !object.users.is_empty()),
        }
    }

    /// Pods that refer to the object, or are in the namespace.
    #[must_use]
    pub fn users(&self, key: &ObjectKey) -> Vec<Key> {
        self.get(key)
            .map_or_else(Vec::new, |object| object.users.iter().cloned().collect())
    }

    fn has_pods(&self, namespace: &str) -> bool {
        self.get(&ObjectKey::namespace(namespace))
            .is_some_and(|namespace| !namespace.users.is_empty())
    }

    /// How much longer a namespace that no pod needs is kept at `now`: pods come back soon, as those of a CronJob, and a
    /// namespace takes seconds to end. None when it is over.
    pub fn rest(&mut self, namespace: &ObjectKey, now: Instant) -> Option<Duration> {
        let object = self.objects.get_mut(namespace)?;
        let since = *object.idle_since.get_or_insert(now);
        NAMESPACE_REST
            .checked_sub(now.duration_since(since))
            .filter(|rest| !rest.is_zero())
    }

    /// Says which Service an EndpointSlice belongs to.
    pub fn set_service(&mut self, slice: &ObjectKey, service: Option<&str>) {
        if let Some(object) = self.objects.get_mut(slice) {
            object.service = service.map(Box::from);
        }
    }

    /// The EndpointSlices of a namespace, which follow its Services.
    #[must_use]
    pub fn slices_in(&self, namespace: &str) -> Vec<ObjectKey> {
        let all = self.of_namespace.get(namespace).into_iter().flatten();
        all.filter(|key| key.kind == Kind::EndpointSlice)
            .cloned()
            .collect()
    }

    /// The original is there or gone; returns the pods that waited for it.
    pub fn set_upper(&mut self, key: &ObjectKey, side: Option<Side>) -> Vec<Key> {
        self.change(key, |object| object.upper = side)
    }

    /// Our copy is there or gone; returns the pods that waited for it.
    pub fn set_lower(&mut self, key: &ObjectKey, side: Option<Side>) -> Vec<Key> {
        self.change(key, |object| object.lower = side)
    }

    /// An attempt to make the copy failed; returns the pods that waited for it.
    pub fn set_problem(&mut self, key: &ObjectKey, problem: &str) -> Vec<Key> {
        let Some(object) = self.objects.get_mut(key) else {
            return Vec::new();
        };
        object.problem = Some(problem.into());
        std::mem::take(&mut object.waiting).into_iter().collect()
    }

    fn change(&mut self, key: &ObjectKey, change: impl FnOnce(&mut Object)) -> Vec<Key> {
        let object = self.objects.entry(key.clone()).or_default();
        change(object);
        object.problem = None;
        let woken = std::mem::take(&mut object.waiting).into_iter().collect();
        let is_idle = object.is_idle();
        if is_idle {
            self.objects.remove(key);
        }
        if key.kind.is_of_namespace() {
            self.list(key, !is_idle);
        }
        woken
    }

    /// Lists an object with its namespace, or takes it off the list.
    fn list(&mut self, key: &ObjectKey, there: bool) {
        let namespace = &key.key.namespace;
        let all = self.of_namespace.entry(namespace.clone()).or_default();
        if there {
            all.insert(key.clone());
        } else {
            all.remove(key);
        }
        if all.is_empty() {
            self.of_namespace.remove(namespace);
        }
    }

    /// Objects of `kind` with an original that is not live any more.
    #[must_use]
    pub fn upper_not_in(&self, kind: Kind, is_live: impl Fn(&Key) -> bool) -> Vec<ObjectKey> {
        self.not_in(kind, is_live, |object| object.upper.is_some())
    }

    /// Objects of `kind` with a copy that is not live any more.
    #[must_use]
    pub fn lower_not_in(&self, kind: Kind, is_live: impl Fn(&Key) -> bool) -> Vec<ObjectKey> {
        self.not_in(kind, is_live, |object| object.lower.is_some())
    }

    fn not_in(
        &self,
        kind: Kind,
        is_live: impl Fn(&Key) -> bool,
        there: impl Fn(&Object) -> bool,
    ) -> Vec<ObjectKey> {
        let gone = self
            .objects
            .iter()
            .filter(|(key, object)| key.kind == kind && there(object));
        gone.map(|(key, _)| key)
            .filter(|key| !is_live(&key.key))
            .cloned()
            .collect()
    }

    /// `pod` referred to `before` and refers to `after` now, none when there is no such pod; returns the objects
    /// that may have become needed, or not needed.
    pub fn set_users(
        &mut self,
        pod: &Key,
        before: Option<&[Reference]>,
        after: Option<&[Reference]>,
    ) -> Vec<ObjectKey> {
        let keys = |references: Option<&[Reference]>| -> HashSet<ObjectKey> {
            let named = references
                .into_iter()
                .flatten()
                .map(|reference| ObjectKey::of(&pod.namespace, reference));
            let namespace = references.map(|_| ObjectKey::namespace(&pod.namespace));
            named.chain(namespace).collect()
        };
        let (before, after) = (keys(before), keys(after));
        let had_pods = self.has_pods(&pod.namespace);
        for key in after.difference(&before) {
            let object = self.objects.entry(key.clone()).or_default();
            object.users.insert(pod.clone());
            object.idle_since = None;
        }
        for key in before.difference(&after) {
            if let Some(object) = self.objects.get_mut(key) {
                object.users.remove(pod);
                if object.is_idle() {
                    self.objects.remove(key);
                }
            }
        }
        let mut changed: Vec<_> = before.symmetric_difference(&after).cloned().collect();
        if had_pods != self.has_pods(&pod.namespace) {
            changed.extend(
                self.of_namespace
                    .get(&pod.namespace)
                    .into_iter()
                    .flatten()
                    .cloned(),
            );
        }
        changed
    }

    /// Services whose copies a pod of their namespace waits for, so that its environment tells of them. One that
    /// cannot be copied keeps no pod waiting.
    fn services_to_wait_for(&self, namespace: &str) -> Vec<ObjectKey> {
        let all = self.of_namespace.get(namespace).into_iter().flatten();
        let is_pending = |key: &&ObjectKey| {
            key.kind == Kind::Service
                && service::is_mirrored(&key.key.namespace, &key.key.name)
                && self.get(key).is_some_and(|object| {
                    object.upper.is_some() && object.lower.is_none() && object.problem.is_none()
                })
        };
        all.filter(is_pending).cloned().collect()
    }

    /// What of the things that a pod needs is not there yet, for those who ask why it waits.
    #[must_use]
    pub fn missing(&self, pod: &Key, references: &[Reference]) -> Vec<ObjectKey> {
        let named = references.iter().map(|one| ObjectKey::of(&pod.namespace, one));
        let needed = std::iter::once(ObjectKey::namespace(&pod.namespace)).chain(named);
        let is_missing = |key: &ObjectKey| !self.get(key).is_some_and(|object| object.is_current(key));
        needed
            .filter(is_missing)
            .chain(self.services_to_wait_for(&pod.namespace))
            .collect()
    }

    /// Whether everything is there that a pod refers to; if not, the pod is remembered and woken later.
    pub fn need(&mut self, pod: &Key, references: &[Reference]) -> Need {
        let mut pending = Vec::new();
        let mut problem = None;
        let namespace = (ObjectKey::namespace(&pod.namespace), None);
        let objects = references
            .iter()
            .map(|reference| (ObjectKey::of(&pod.namespace, reference), Some(reference)));
        for (key, reference) in std::iter::once(namespace).chain(objects) {
            let object = self.objects.entry(key.clone()).or_default();
            let missing = reference.filter(|_| object.upper.is_none());
            if object.is_current(&key) || missing.is_some_and(|reference| reference.optional) {
                continue;
            }
            object.waiting.insert(pod.clone());
            if let Some(reference) = missing {
                problem.get_or_insert_with(|| missing_above(reference));
            } else if let Some(error) = &object.problem {
                problem.get_or_insert_with(|| Problem::Dependency {
                    what: key.to_string(),
                    error: error.to_string(),
                });
            }
            pending.push(key);
        }
        for key in self.services_to_wait_for(&pod.namespace) {
            if let Some(object) = self.objects.get_mut(&key) {
                object.waiting.insert(pod.clone());
                pending.push(key);
            }
        }
        match problem {
            Some(problem) => Need::Unmet(problem),
            None if pending.is_empty() => Need::Met,
            None => Need::Pending(pending),
        }
    }
}

fn missing_above(reference: &Reference) -> Problem {
    Problem::Missing {
        kind: reference.kind,
        name: reference.name.clone(),
    }
}

#[cfg(test)]
mod tests {
    use tensile_core::refs::RefKind;

    use super::*;

    fn mk_side(version: &str) -> Option<Side> {
        Some(Side {
            uid: "u".into(),
            version: version.into(),
            ours: true,
        })
    }

    fn mk_reference(name: &str, optional: bool) -> Reference {
        Reference {
            kind: RefKind::ConfigMap,
            name: name.to_owned(),
            optional,
        }
    }

    fn mk_key(name: &str) -> ObjectKey {
        ObjectKey {
            kind: Kind::ConfigMap,
            key: Key::new("ns", name),
        }
    }

    fn mk_index() -> Index {
        let mut index = Index::default();
        index.set_lower(&ObjectKey::namespace("ns"), mk_side(""));
        index
    }

    #[test]
    fn a_pod_waits_for_its_namespace_and_for_current_copies() {
        let pod = Key::new("ns", "pod");
        let mut index = Index::default();
        let references = [mk_reference("a", false)];
        assert_eq!(
            index.need(&pod, &[]),
            Need::Pending(vec![ObjectKey::namespace("ns")])
        );
        assert_eq!(
            index.set_lower(&ObjectKey::namespace("ns"), mk_side("")),
            std::slice::from_ref(&pod)
        );
        index.set_upper(&mk_key("a"), mk_side("2"));
        for stale in [None, mk_side("1")] {
            index.set_lower(&mk_key("a"), stale);
            assert_eq!(index.need(&pod, &references), Need::Pending(vec![mk_key("a")]));
        }
        assert_eq!(
            index.set_lower(&mk_key("a"), mk_side("2")),
            std::slice::from_ref(&pod)
        );
        assert_eq!(index.need(&pod, &references), Need::Met);
    }

    #[test]
    fn a_missing_original_is_named_unless_it_is_optional() {
        let pod = Key::new("ns", "pod");
        let mut index = mk_index();
        let Need::Unmet(problem) = index.need(&pod, &[mk_reference("a", false)]) else {
            panic!("must be unmet")
        };
        assert_eq!(problem.to_string(), "configmap \"a\" not found");
        assert_eq!(index.need(&pod, &[mk_reference("a", true)]), Need::Met);
        assert_eq!(index.set_upper(&mk_key("a"), mk_side("1")), [pod]);
    }

    #[test]
    fn a_failed_copy_is_told_until_something_changes() {
        let pod = Key::new("ns", "pod");
        let mut index = mk_index();
        index.set_upper(&mk_key("a"), mk_side("1"));
        index.need(&pod, &[mk_reference("a", false)]);
        assert_eq!(
            index.set_problem(&mk_key("a"), "foreign"),
            std::slice::from_ref(&pod)
        );
        assert!(matches!(
            index.need(&pod, &[mk_reference("a", false)]),
            Need::Unmet(_)
        ));
        index.set_upper(&mk_key("a"), mk_side("2"));
        assert!(matches!(
            index.need(&pod, &[mk_reference("a", false)]),
            Need::Pending(_)
        ));
    }

    #[test]
    fn users_come_and_go_with_the_references() {
        let pod = Key::new("ns", "pod");
        let mut index = mk_index();
        let (a, b) = (mk_reference("a", false), mk_reference("b", true));
        let changed = index.set_users(&pod, None, Some(std::slice::from_ref(&a)));
        assert_eq!(
            HashSet::from_iter(changed),
            HashSet::from([mk_key("a"), ObjectKey::namespace("ns")])
        );
        assert!(index.is_needed(&mk_key("a")) && !index.is_needed(&mk_key("b")));
        assert_eq!(
            index.set_users(
                &pod,
                Some(std::slice::from_ref(&a)),
                Some(&[a.clone(), b.clone()])
            ),
            [mk_key("b")]
        );
        index.set_users(&pod, Some(&[a, b]), None);
        assert!(index.get(&mk_key("a")).is_none() && index.get(&mk_key("b")).is_none());
        assert!(!index.is_needed(&ObjectKey::namespace("ns")));
    }

    #[test]
    fn a_namespace_rests_until_nobody_came_for_a_while() {
        let (mut index, key, pod) = (mk_index(), ObjectKey::namespace("ns"), Key::new("ns", "pod"));
        let start = Instant::now();
        let seconds = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(index.rest(&key, start), Some(NAMESPACE_REST));
        assert_eq!(index.rest(&key, seconds(20)), Some(Duration::from_secs(10)));
        assert_eq!(index.rest(&key, seconds(30)), None);
        index.set_users(&pod, None, Some(&[]));
        index.set_users(&pod, Some(&[]), None);
        assert_eq!(index.rest(&key, seconds(40)), Some(NAMESPACE_REST), "a pod came");
    }

    fn mk_of_namespace(kind: Kind, name: &str) -> ObjectKey {
        ObjectKey {
            kind,
            key: Key::new("ns", name),
        }
    }

    #[test]
    fn services_go_with_the_pods_of_their_namespace_and_slices_with_their_services() {
        let pod = Key::new("ns", "pod");
        let mut index = mk_index();
        let (service, slice) = (
            mk_of_namespace(Kind::Service, "web"),
            mk_of_namespace(Kind::EndpointSlice, "web-1"),
        );
        index.set_upper(&service, mk_side("1"));
        index.set_upper(&slice, mk_side("1"));
        index.set_service(&slice, Some("web"));
        assert!(!index.is_needed(&service));

        let changed = index.set_users(&pod, None, Some(&[]));
        assert!(
            changed.contains(&service) && changed.contains(&slice),
            "{changed:?}"
        );
        assert!(index.is_needed(&service));
        assert!(!index.is_needed(&slice), "its Service is not there yet");
        assert_eq!(index.need(&pod, &[]), Need::Pending(vec![service.clone()]));
        assert_eq!(
            index.set_lower(&service, mk_side("1")),
            std::slice::from_ref(&pod)
        );
        assert_eq!(index.need(&pod, &[]), Need::Met);
        assert!(index.is_needed(&slice));
        assert_eq!(index.slices_in("ns"), std::slice::from_ref(&slice));

        let changed = index.set_users(&pod, Some(&[]), None);
        assert!(changed.contains(&service) && !index.is_needed(&service) && !index.is_needed(&slice));
    }

    #[test]
    fn a_service_that_cannot_be_copied_keeps_no_pod_waiting() {
        let pod = Key::new("ns", "pod");
        let mut index = mk_index();
        let service = mk_of_namespace(Kind::Service, "web");
        index.set_upper(&service, mk_side("1"));
        index.set_users(&pod, None, Some(&[]));
        index.need(&pod, &[]);
        assert_eq!(index.set_problem(&service, "foreign"), std::slice::from_ref(&pod));
        assert_eq!(index.need(&pod, &[]), Need::Met);
    }
}
