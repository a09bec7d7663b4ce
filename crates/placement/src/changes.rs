//! Which nodes changed lately, so that an answer can be brought up to date instead of being asked for anew.

use std::collections::VecDeque;

use crate::node::NodeId;

/// Changes of nodes that are remembered. With more of them between two questions of a kind, a large part of the pieces
/// of a cluster of thousand nodes would be asked again anyway.
const KEPT: usize = 256;

/// Counts the changes of a cluster, and remembers the last ones of nodes.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    /// Goes up with every change that a filter could notice.
    state: u64,
    /// Nodes that changed, each with the state that this made, the oldest first.
    nodes: VecDeque<(u64, NodeId)>,
    /// All nodes that changed after this state are remembered.
    forgotten: u64,
}

// === impl Changes ===

impl Changes {
    /// What an answer holds in.
    pub(crate) fn state(&self) -> u64 {
        self.state
    }

    /// A node, or what is on it, has changed.
    pub(crate) fn node(&mut self, id: NodeId) {
        self.state += 1;
        self.nodes.push_back((self.state, id));
        if self.nodes.len() > KEPT {
            self.forgotten = self.nodes.pop_front().map_or(self.state, |(state, _)| state);
        }
    }

    /// Something has changed that belongs to no node.
    pub(crate) fn other(&mut self) {
        self.state += 1;
    }

    /// The nodes that changed after `state`, some perhaps more than once; `None` if that is not remembered.
    pub(crate) fn since(&self, state: u64) -> Option<impl Iterator<Item = NodeId>> {
        let later = move |change: &&(u64, NodeId)| change.0 > state;
        (state >= self.forgotten).then(|| self.nodes.iter().rev().take_while(later).map(|(_, id)| *id))
    }

    /// All is as it was in `state`.
    pub(crate) fn rewind(&mut self, state: u64) {
        let kept = self.nodes.partition_point(|change| change.0 <= state);
        self.nodes.truncate(kept);
        self.forgotten = self.forgotten.min(state);
        self.state = state;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn since(changes: &Changes, state: u64) -> Option<Vec<NodeId>> {
        changes.since(state).map(Iterator::collect)
    }

    #[test]
    fn nodes_that_changed_later_are_named() {
        let mut changes = Changes::default();
        changes.node(7);
        changes.other();
        changes.node(8);
        for (state, nodes) in [(0, vec![8, 7]), (1, vec![8]), (2, vec![8]), (3, vec![])] {
            assert_eq!(since(&changes, state), Some(nodes), "{state}");
        }
    }

    #[test]
    fn only_so_many_changes_are_remembered() {
        let mut changes = Changes::default();
        (0..=KEPT).for_each(|_| changes.node(1));
        assert_eq!(since(&changes, 0), None);
        assert_eq!(since(&changes, 1), Some(vec![1; KEPT]));
    }

    #[test]
    fn what_was_taken_back_is_forgotten() {
        let mut changes = Changes::default();
        changes.node(1);
        (0..=KEPT).for_each(|_| changes.node(2));
        changes.rewind(1);
        changes.node(3);
        assert_eq!(changes.state(), 2);
        assert_eq!(since(&changes, 1), Some(vec![3]));
        assert_eq!(since(&changes, 0), None, "its own change made room");
    }
}
