//! Nodes of a lower cluster, as the model keeps them.

use std::sync::Arc;

use tensile_core::hash::Fnv;
use tensile_core::labels::Labels;
use tensile_core::resources::Resources;
use tensile_core::taints::Taint;
use tensile_core::view::NodeView;

use crate::intern::Interner;
use crate::labels::SharedLabels;
use crate::pod::Shape;

/// Number of a node within its cluster's model; given out again after the node is gone.
pub(crate) type NodeId = u32;

/// Which of several nodes that do equally well comes first: a hash of the name, so that no name needs to be looked at,
/// and so that it does not depend on the order in which nodes were heard of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn(u64);

/// What the API server told about a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeFacts {
    /// `metadata.labels`.
    pub labels: SharedLabels,
    /// `spec.taints`.
    pub taints: Box<[Taint]>,
    /// `spec.unschedulable`.
    pub unschedulable: bool,
    /// `status.allocatable`.
    pub allocatable: Resources,
}

/// A node with the pods on it. Pods can be heard of before their node is; then the node has no facts.
#[derive(Clone, Debug)]
pub(crate) struct NodeState {
    pub(crate) name: Arc<str>,
    pub(crate) turn: Turn,
    pub(crate) facts: Option<NodeFacts>,
    /// Sum of the requests of `pods`.
    pub(crate) used: Resources,
    /// Shapes of the pods that hold resources here, each with how many there are.
    pub(crate) pods: Vec<(Arc<Shape>, u32)>,
}

/// A node that the API server knows, with the pods on it.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    /// `metadata.name`.
    pub name: &'a Arc<str>,
    /// What the API server told.
    pub facts: &'a NodeFacts,
    /// Sum of the requests of the pods on it, reservations included.
    pub used: &'a Resources,
    pub(crate) turn: Turn,
    pods: &'a [(Arc<Shape>, u32)],
}

// === impl Turn ===

impl Turn {
    fn of(name: &str) -> Self {
        Self(Fnv::of(name.as_bytes()))
    }
}

// === impl NodeFacts ===

impl NodeFacts {
    pub(crate) fn new(view: &NodeView, interner: &mut Interner) -> Self {
        let labels: &Labels = &view.labels;
        Self {
            labels: SharedLabels::new(labels, |_| false, interner),
            taints: view.taints.clone(),
            unschedulable: view.unschedulable,
            allocatable: view.allocatable.clone(),
        }
    }
}

// === impl NodeState ===

impl NodeState {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            turn: Turn::of(&name),
            name,
            facts: None,
            used: Resources::default(),
            pods: Vec::new(),
        }
    }

    /// The node, if the API server knows it.
    pub(crate) fn known(&self) -> Option<Node<'_>> {
        let facts = self.facts.as_ref()?;
        Some(Node {
            name: &self.name,
            turn: self.turn,
            facts,
            used: &self.used,
            pods: &self.pods,
        })
    }

    pub(crate) fn add(&mut self, shape: &Arc<Shape>) {
        self.used.add(&shape.request);
        match self.pods.iter_mut().find(|(known, _)| Arc::ptr_eq(known, shape)) {
            Some((_, count)) => *count += 1,
            None => self.pods.push((shape.clone(), 1)),
        }
    }

    pub(crate) fn remove(&mut self, shape: &Arc<Shape>) {
        let Some(index) = self.pods.iter().position(|(known, _)| Arc::ptr_eq(known, shape)) else {
            return;
        };
        self.used.sub(&shape.request);
        self.pods[index].1 -= 1;
        if self.pods[index].1 == 0 {
            self.pods.swap_remove(index);
        }
    }

    /// Whether nothing is known about the node any more.
    pub(crate) fn is_vacant(&self) -> bool {
        self.facts.is_none() && self.pods.is_empty()
    }
}

// === impl Node ===

impl<'a> Node<'a> {
    /// Shapes of the pods that hold resources here, reservations included, each with how many there are.
    pub fn pods(&self) -> impl Iterator<Item = (&'a Arc<Shape>, u32)> + use<'a> {
        self.pods.iter().map(|(shape, count)| (shape, *count))
    }

    /// What is allocatable and not used; lanes are negative where the node is overdrawn.
    #[must_use]
    pub fn free(&self) -> Resources {
        let mut free = self.facts.allocatable.clone();
        free.sub(self.used);
        free
    }
}
