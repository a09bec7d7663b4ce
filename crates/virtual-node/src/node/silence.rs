//! Whether it is a lower cluster that is silent, or we who are cut off from all of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Which virtual nodes of this process cannot reach their cluster; clones share it.
#[derive(Clone, Debug, Default)]
pub struct AllDown(Arc<Mutex<BTreeMap<String, bool>>>);

/// One virtual node's entry; forgotten when dropped.
#[derive(Debug)]
pub struct Down {
    node: String,
    all: AllDown,
}

// === impl AllDown ===

impl AllDown {
    /// Counts the virtual node `node`, whose cluster answers so far.
    #[must_use]
    pub fn add(&self, node: &str) -> Down {
        self.0.lock().insert(node.to_owned(), false);
        Down {
            node: node.to_owned(),
            all: self.clone(),
        }
    }
}

// === impl Down ===

impl Down {
    /// Says whether the cluster of this virtual node is silent.
    pub fn set(&self, down: bool) {
        self.all.0.lock().insert(self.node.clone(), down);
    }

    /// Whether every virtual node of several is cut off: then nothing can be said about any of the clusters.
    #[must_use]
    pub fn all(&self) -> bool {
        let state = self.all.0.lock();
        state.len() > 1 && state.values().all(|down| *down)
    }
}

impl Drop for Down {
    fn drop(&mut self) {
        self.all.0.lock().remove(&self.node);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_down_only_when_there_are_several_and_each_is() {
        let all = AllDown::default();
        let one = all.add("one");
        one.set(true);
        assert!(!one.all(), "the only one may well be dead");
        let two = all.add("two");
        assert!(!one.all());
        two.set(true);
        assert!(one.all());
        drop(two);
        assert!(!one.all());
    }
}
