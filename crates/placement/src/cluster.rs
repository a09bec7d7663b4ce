//! The model of one lower cluster: its nodes, the pods on them and what is promised on top.
//!
//! Events come in any order and more than once; the figures depend only on the last state of each object, so
//! that they always equal what a fresh start would compute. Nodes are kept in one row and scanned; pods are
//! found by key; shapes know their nodes, so that counting the pods that a selector matches touches no others.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tensile_core::labels::{Labels, Selector};
use tensile_core::view::NodeView;

use crate::candidate::Candidate;
use crate::changes::Changes;
use crate::fit::Fit;
use crate::fits::Fits;
use crate::intern::Interner;
use crate::labels::SharedLabels;
use crate::node::{Node, NodeFacts, NodeId, NodeState};
use crate::pod::{Pod, PodKey, Shape, Uid};
use crate::standing::PIECE;
use crate::storage::Storage;

/// The model of one lower cluster.
#[derive(Debug, Default)]
pub struct Cluster {
    interner: Interner,
    nodes: Vec<NodeState>,
    vacant: Vec<NodeId>,
    node_ids: HashMap<Arc<str>, NodeId>,
    namespaces: HashMap<Arc<str>, Namespace>,
    /// Shapes whose anti-affinity keeps other pods away.
    repelling: HashSet<Arc<Shape>>,
    pods: HashMap<PodKey, PodEntry>,
    /// Upper pods whose lower pod, given here, is bound or over: nothing needs to be promised to them.
    settled: HashMap<Uid, PodKey>,
    /// What is promised to upper pods, by their UID.
    reservations: HashMap<Uid, Placed>,
    storage: Storage,
    changes: Changes,
    fits: Fits,
    hints: Hints,
}

/// How often lower pods took the node that was promised to them, since the model was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hints {
    /// They did.
    pub kept: u64,
    /// The lower scheduler chose another one.
    pub missed: u64,
}

/// A namespace with the pods in it. Pods can be heard of before their namespace is.
#[derive(Debug, Default)]
struct Namespace {
    labels: SharedLabels,
    known: bool,
    /// Every shape that holds resources somewhere, with its nodes in order and how many pods are on each.
    shapes: HashMap<Arc<Shape>, Vec<(NodeId, u32)>>,
}

/// A pod: where it holds resources, and whom it stands for. Boxed, since most pods are not ours.
#[derive(Debug)]
struct PodEntry {
    placed: Option<Placed>,
    settles: Option<Box<Uid>>,
}

/// Resources held on a node.
#[derive(Clone, Debug, PartialEq)]
struct Placed {
    shape: Arc<Shape>,
    node: NodeId,
}

// === impl Cluster: nodes ===

impl Cluster {
    /// Takes in a node as it is now. Says whether that changed anything.
    pub fn apply_node(&mut self, view: &NodeView) -> bool {
        let facts = Some(NodeFacts::new(view, &mut self.interner));
        let id = self.node_id(&view.name);
        let node = &mut self.nodes[id as usize];
        let changed = node.facts != facts;
        node.facts = facts;
        if changed {
            self.changes.node(id);
        }
        changed
    }

    /// Forgets a node. Pods on it stay, unseen, until they are deleted themselves.
    pub fn delete_node(&mut self, name: &str) -> bool {
        let Some(&id) = self.node_ids.get(name) else {
            return false;
        };
        let was_known = self.nodes[id as usize].facts.take().is_some();
        if was_known {
            self.changes.node(id);
        }
        self.drop_if_vacant(id);
        was_known
    }

    /// Forgets all nodes but those that `exists` names.
    pub fn retain_nodes(&mut self, exists: impl Fn(&str) -> bool) -> bool {
        let gone: Vec<Arc<str>> = self
            .nodes()
            .map(|node| node.name.clone())
            .filter(|name| !exists(name))
            .collect();
        gone.iter()
            .fold(false, |changed, name| self.delete_node(name) | changed)
    }

    /// Nodes that the API server knows.
    pub fn nodes(&self) -> impl Iterator<Item = Node<'_>> {
        self.nodes.iter().filter_map(NodeState::known)
    }

    /// Number of nodes, about: some that only pods tell of may be counted.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// The node of this name, if the API server knows it.
    #[must_use]
    pub fn node(&self, name: &str) -> Option<Node<'_>> {
        self.nodes[*self.node_ids.get(name)? as usize].known()
    }

    /// The number of the node of this name, which becomes known if it was not.
    fn node_id(&mut self, name: &str) -> NodeId {
        if let Some(&id) = self.node_ids.get(name) {
            return id;
        }
        let name = self.interner.get(name);
        let state = NodeState::new(name.clone());
        let id = match self.vacant.pop() {
            Some(id) => {
                self.nodes[id as usize] = state;
                id
            }
            None => {
                self.nodes.push(state);
                NodeId::try_from(self.nodes.len() - 1).unwrap_or(NodeId::MAX)
            }
        };
        self.node_ids.insert(name, id);
        id
    }

    fn drop_if_vacant(&mut self, id: NodeId) {
        let node = &self.nodes[id as usize];
        if node.is_vacant() && self.node_ids.remove(&node.name).is_some() {
            self.vacant.push(id);
        }
    }
}

// === impl Cluster: namespaces ===

impl Cluster {
    /// Takes in a namespace's labels.
    pub fn apply_namespace(&mut self, name: &str, labels: &Labels) -> bool {
        let labels = SharedLabels::new(labels, |_| false, &mut self.interner);
        let name = self.interner.get(name);
        let namespace = self.namespaces.entry(name).or_default();
        let changed = !namespace.known || namespace.labels != labels;
        (namespace.labels, namespace.known) = (labels, true);
        if changed {
            self.changes.other();
        }
        changed
    }

    /// Forgets a namespace. Pods in it stay until they are deleted themselves.
    pub fn delete_namespace(&mut self, name: &str) -> bool {
        let Some(namespace) = self.namespaces.get_mut(name) else {
            return false;
        };
        let was_known = std::mem::take(&mut namespace.known);
        namespace.labels = SharedLabels::default();
        if was_known {
            self.changes.other();
        }
        self.drop_namespace_if_vacant(name);
        was_known
    }

    /// Forgets all namespaces but those that `exists` names.
    pub fn retain_namespaces(&mut self, exists: impl Fn(&str) -> bool) -> bool {
        let known = self.namespaces.iter().filter(|(_, namespace)| namespace.known);
        let gone: Vec<Arc<str>> = known
            .map(|(name, _)| name)
            .filter(|name| !exists(name))
            .cloned()
            .collect();
        gone.iter()
            .fold(false, |changed, name| self.delete_namespace(name) | changed)
    }

    /// Labels of a namespace; none if it is not known, as in kube-scheduler.
    #[must_use]
    pub fn namespace_labels(&self, name: &str) -> SharedLabels {
        self.namespaces
            .get(name)
            .map(|namespace| namespace.labels.clone())
            .unwrap_or_default()
    }

    fn drop_namespace_if_vacant(&mut self, name: &str) {
        if self
            .namespaces
            .get(name)
            .is_some_and(|namespace| !namespace.known && namespace.shapes.is_empty())
        {
            self.namespaces.remove(name);
        }
    }
}

// === impl Cluster: pods ===

impl Cluster {
    /// Takes in a pod as it is now. Says whether that changed any figure.
    pub fn apply_pod(&mut self, pod: &Pod) -> bool {
        let placed = pod.occupied_node().map(|node| self.placed(pod, node));
        let settles = pod.origin.filter(|_| placed.is_some() || pod.phase.is_terminal());
        self.note_hint(settles, placed.as_ref());
        let known = self
            .pods
            .get(&pod.key)
            .map_or((None, None), |entry| (entry.placed.as_ref(), entry.origin()));
        let changed = known != (placed.as_ref(), settles) && self.replace_pod(pod.key, placed, settles);
        settles.is_some_and(|origin| self.release(origin)) | changed
    }

    fn note_hint(&mut self, origin: Option<Uid>, placed: Option<&Placed>) {
        let promised = origin.and_then(|origin| self.reservations.get(&origin));
        if let (Some(promised), Some(placed)) = (promised, placed) {
            let same = promised.node == placed.node;
            self.hints.kept += u64::from(same);
            self.hints.missed += u64::from(!same);
        }
    }

    /// What is new is held before what was is given back, so that a shape or node in use by both stays.
    fn replace_pod(&mut self, key: PodKey, placed: Option<Placed>, settles: Option<Uid>) -> bool {
        let holds = placed.is_some();
        if let Some(placed) = &placed {
            self.hold(placed);
        }
        let held = self.delete_pod(key);
        self.settled.extend(settles.map(|origin| (origin, key)));
        if holds || settles.is_some() {
            self.pods.insert(
                key,
                PodEntry {
                    placed,
                    settles: settles.map(Box::new),
                },
            );
        }
        held || holds
    }

    /// Forgets a pod.
    pub fn delete_pod(&mut self, key: PodKey) -> bool {
        let Some(entry) = self.pods.remove(&key) else {
            return false;
        };
        if let Some(origin) = entry.origin() {
            self.settled.remove(&origin);
        }
        entry.placed.is_some_and(|placed| {
            self.give_back(&placed);
            true
        })
    }

    /// Forgets all pods but these. Reservations stay.
    pub fn retain_pods(&mut self, existing: &HashSet<PodKey>) -> bool {
        let gone: Vec<PodKey> = self
            .pods
            .keys()
            .filter(|key| !existing.contains(key))
            .copied()
            .collect();
        gone.into_iter()
            .fold(false, |changed, key| self.delete_pod(key) | changed)
    }

    /// Number of pods that hold resources, without reservations.
    #[must_use]
    pub fn pod_count(&self) -> usize {
        self.pods.values().filter(|entry| entry.placed.is_some()).count()
    }

    /// The place of `pod` on `node`: the shape is that of its like, if there is one.
    fn placed(&mut self, pod: &Pod, node: &str) -> Placed {
        let shape = pod.shape(&mut self.interner);
        let namespace = self.namespaces.get(&shape.namespace);
        let known = namespace.and_then(|namespace| namespace.shapes.get_key_value(&shape));
        let shape = known.map(|(shape, _)| shape.clone());
        let shape = shape.unwrap_or_else(|| Arc::new(pod.shape(&mut self.interner)));
        Placed {
            shape,
            node: self.node_id(node),
        }
    }

    fn hold(&mut self, Placed { shape, node }: &Placed) {
        self.changes.node(*node);
        self.nodes[*node as usize].add(shape);
        if !shape.anti_affinity.is_empty() {
            self.repelling.insert(shape.clone());
        }
        let namespace = self.namespaces.entry(shape.namespace.clone()).or_default();
        let nodes = namespace.shapes.entry(shape.clone()).or_default();
        match nodes.binary_search_by_key(node, |(id, _)| *id) {
            Ok(index) => nodes[index].1 += 1,
            Err(index) => nodes.insert(index, (*node, 1)),
        }
    }

    fn give_back(&mut self, Placed { shape, node }: &Placed) {
        self.changes.node(*node);
        self.nodes[*node as usize].remove(shape);
        self.drop_if_vacant(*node);
        let Some(namespace) = self.namespaces.get_mut(&shape.namespace) else {
            return;
        };
        let Some(nodes) = namespace.shapes.get_mut(shape) else {
            return;
        };
        if let Ok(index) = nodes.binary_search_by_key(node, |(id, _)| *id) {
            nodes[index].1 -= 1;
            if nodes[index].1 == 0 {
                nodes.remove(index);
            }
        }
        if nodes.is_empty() {
            namespace.shapes.remove(shape);
            self.repelling.remove(shape);
            self.drop_namespace_if_vacant(&shape.namespace);
        }
    }
}

// === impl Cluster: reservations ===

impl Cluster {
    /// Promises a place on `node` to the upper pod `origin`. Without effect once its lower pod is bound or
    /// over; a new promise replaces an older one. Says whether the promise stands.
    pub fn reserve(&mut self, origin: Uid, candidate: &Candidate, node: &str) -> bool {
        if self.settled.contains_key(&origin) {
            return false;
        }
        let placed = self.placed(&candidate.pod, node);
        self.hold(&placed);
        self.release(origin);
        self.reservations.insert(origin, placed);
        true
    }

    /// Takes a promise back. Says whether there was one.
    pub fn release(&mut self, origin: Uid) -> bool {
        let placed = self.reservations.remove(&origin);
        placed.is_some_and(|placed| {
            self.give_back(&placed);
            true
        })
    }

    /// Whether the upper pod's lower pod is bound or over.
    #[must_use]
    pub fn is_settled(&self, origin: Uid) -> bool {
        self.settled.contains_key(&origin)
    }

    /// Whether a place is promised to the upper pod.
    #[must_use]
    pub fn is_promised(&self, origin: Uid) -> bool {
        self.reservations.contains_key(&origin)
    }

    /// How often promises were kept by the lower scheduler.
    #[must_use]
    pub fn hints(&self) -> Hints {
        self.hints
    }

    /// The promises: upper pod and node.
    pub fn reservations(&self) -> impl ExactSizeIterator<Item = (Uid, &Arc<str>)> {
        self.reservations
            .iter()
            .map(|(origin, placed)| (*origin, &self.nodes[placed.node as usize].name))
    }
}

// === impl Cluster: answers ===

impl Cluster {
    /// What the nodes that `pool` selects (`None`: all of them) say to `candidate`, as [`Fit::of`]: asked anew only
    /// as far as the cluster has changed since such a pod was asked about.
    #[must_use]
    pub fn fit(&self, candidate: &Arc<Candidate>, pool: Option<&Selector>) -> Fit {
        self.known_fit(candidate, pool)
            .unwrap_or_else(|| self.asked_fit(candidate, pool))
    }

    /// As [`Cluster::fit`]; `None` if that would ask all nodes.
    #[must_use]
    pub fn known_fit(&self, candidate: &Candidate, pool: Option<&Selector>) -> Option<Fit> {
        self.fits.known(self, candidate, pool)
    }

    /// As [`Cluster::fit`], where [`Cluster::known_fit`] gave nothing: asks all nodes, and keeps what they say.
    #[must_use]
    pub fn asked_fit(&self, candidate: &Arc<Candidate>, pool: Option<&Selector>) -> Fit {
        self.fits.ask(self, candidate, pool)
    }

    /// What the cluster would say to `candidate` if these upper pods were not in it, promises included.
    pub fn fit_without(
        &mut self,
        origins: &[Uid],
        candidate: &Arc<Candidate>,
        pool: Option<&Selector>,
    ) -> Fit {
        let held: Vec<Placed> = origins
            .iter()
            .filter_map(|origin| self.held_for(*origin))
            .collect();
        if held.is_empty() {
            return self.fit(candidate, pool);
        }
        let state = self.state();
        held.iter().for_each(|placed| self.give_back(placed));
        let fit = Fit::of(self, candidate, pool);
        held.iter().for_each(|placed| self.hold(placed));
        self.changes.rewind(state);
        fit
    }

    /// What the lower pod of `origin` holds on a node that is known, or what is promised to it there.
    fn held_for(&self, origin: Uid) -> Option<Placed> {
        let lower = self
            .settled
            .get(&origin)
            .and_then(|key| self.pods.get(key)?.placed.as_ref());
        let placed = lower.or_else(|| self.reservations.get(&origin))?;
        self.nodes[placed.node as usize]
            .known()
            .is_some()
            .then(|| placed.clone())
    }
}

// === impl Cluster: what filters ask ===

impl Cluster {
    /// Changes with everything that a filter could notice.
    pub(crate) fn state(&self) -> u64 {
        self.changes.state()
    }

    /// The nodes that changed after this state; `None` if that is not remembered.
    pub(crate) fn changed_since(&self, state: u64) -> Option<impl Iterator<Item = NodeId>> {
        self.changes.since(state)
    }

    /// The known nodes in pieces: those numbered from 0, from [`PIECE`] and so on.
    pub(crate) fn pieces(&self) -> impl ExactSizeIterator<Item = impl Iterator<Item = Node<'_>>> {
        self.nodes
            .chunks(PIECE)
            .map(|nodes| nodes.iter().filter_map(NodeState::known))
    }

    /// Volumes, claims and classes.
    #[must_use]
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Volumes, claims and classes, to be changed.
    pub fn storage_mut(&mut self) -> &mut Storage {
        self.changes.other();
        &mut self.storage
    }

    /// The shared copy of a label's key; `None` if no node can have the label.
    pub(crate) fn shared(&self, key: &str) -> Option<&Arc<str>> {
        self.interner.find(key)
    }

    /// The pods of a namespace: their shape, the nodes they are on and how many are there.
    pub(crate) fn pods_in<'a>(
        &'a self,
        namespace: &str,
    ) -> impl Iterator<Item = (&'a Arc<Shape>, impl Iterator<Item = (Node<'a>, u32)>)> {
        let shapes = self
            .namespaces
            .get(namespace)
            .into_iter()
            .flat_map(|namespace| &namespace.shapes);
        shapes.map(|(shape, nodes)| (shape, self.located(nodes)))
    }

    /// Names of all namespaces with pods, and their labels.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = (&Arc<str>, &SharedLabels)> {
        self.namespaces
            .iter()
            .map(|(name, namespace)| (name, &namespace.labels))
    }

    /// Pods that keep others away, with their nodes.
    pub(crate) fn repelling(&self) -> impl Iterator<Item = (&Arc<Shape>, impl Iterator<Item = Node<'_>>)> {
        self.repelling.iter().map(|shape| {
            let namespace = self.namespaces.get(&shape.namespace);
            let nodes = namespace.and_then(|namespace| namespace.shapes.get(shape));
            (
                shape,
                nodes
                    .into_iter()
                    .flat_map(|nodes| self.located(nodes))
                    .map(|(node, _)| node),
            )
        })
    }

    fn located<'a>(&'a self, nodes: &'a [(NodeId, u32)]) -> impl Iterator<Item = (Node<'a>, u32)> {
        nodes
            .iter()
            .filter_map(|(id, count)| Some((self.nodes[*id as usize].known()?, *count)))
    }
}

// === impl PodEntry ===

impl PodEntry {
    fn origin(&self) -> Option<Uid> {
        self.settles.as_deref().copied()
    }
}

mod passing;
#[cfg(test)]
mod tests;
