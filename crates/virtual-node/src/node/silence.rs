//! Whether it is a lower cluster that is silent, or we who are cut off from all of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

/// Which lower clusters this process cannot reach; clones share it.
#[derive(Clone, Debug, Default)]
pub struct AllDown(Arc<Mutex<BTreeMap<String, bool>>>);

/// One cluster's entry; forgotten when dropped.
#[derive(Debug)]
pub struct Down {
    cluster: String,
    all: AllDown,
}

// === impl AllDown ===

impl AllDown {
    /// Counts the cluster `id`, which answers so far.
    #[must_use]
    pub fn add(&self, id: &str) -> Down {
        self.0.lock().insert(id.to_owned(), false);
        Down {
            cluster: id.to_owned(),
            all: self.clone(),
        }
    }
}

// === impl Down ===

impl Down {
    /// Says whether the cluster is silent.
    pub fn set(&self, down: bool) {
        self.all.0.lock().insert(self.cluster.clone(), down);
    }

    /// Whether every cluster of several is silent: then nothing can be said about any of the clusters.
    #[must_use]
    pub fn all(&self) -> bool {
        let state = self.all.0.lock();
        state.len() > 1 && state.values().all(|down| *down)
    }
}

impl Drop for Down {
    fn drop(&mut self) {
        self.all.0.lock().remove(&self.cluster);
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
