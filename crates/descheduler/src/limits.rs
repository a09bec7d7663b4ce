//! How much of the allowed evictions of a round is spent.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

use crate::policy::Limits;

/// Evictions of a round, counted where limits count.
#[derive(Debug, Default)]
pub struct Spent {
    by_node: HashMap<Arc<str>, u32>,
    by_namespace: HashMap<Arc<str>, u32>,
    total: u32,
}

/// A limit that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
pub enum Limit {
    /// `maxNoOfPodsToEvictPerNode`
    #[error("maxNoOfPodsToEvictPerNode is reached in this round")]
    Node,
    /// `maxNoOfPodsToEvictPerNamespace`
    #[error("maxNoOfPodsToEvictPerNamespace is reached in this round")]
    Namespace,
    /// `maxNoOfPodsToEvictTotal`
    #[error("maxNoOfPodsToEvictTotal is reached in this round")]
    Total,
}

// === impl Spent ===

impl Spent {
    /// Whether `count` more evictions from this node and namespace are allowed.
    ///
    /// # Errors
    /// The limit that they would exceed.
    pub fn check(&self, limits: &Limits, node: &str, namespace: &str, count: u32) -> Result<(), Limit> {
        let over = |limit: Option<u32>, spent: u32| limit.is_some_and(|limit| spent + count > limit);
        let of = |spent: &HashMap<Arc<str>, u32>, key: &str| spent.get(key).copied().unwrap_or(0);
        if over(limits.total, self.total) {
            Err(Limit::Total)
        } else if over(limits.per_node, of(&self.by_node, node)) {
            Err(Limit::Node)
        } else if over(limits.per_namespace, of(&self.by_namespace, namespace)) {
            Err(Limit::Namespace)
        } else {
            Ok(())
        }
    }

    /// Counts an eviction.
    pub fn add(&mut self, node: &Arc<str>, namespace: &Arc<str>) {
        self.total += 1;
        *self.by_node.entry(node.clone()).or_default() += 1;
        *self.by_namespace.entry(namespace.clone()).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_holds_for_itself() {
        let limits = Limits {
            per_node: Some(1),
            per_namespace: Some(2),
            total: Some(3),
        };
        let mut spent = Spent::default();
        for (node, namespace, wanted) in [
            ("a", "x", Ok(())),
            ("a", "y", Err(Limit::Node)),
            ("b", "x", Ok(())),
            ("c", "x", Err(Limit::Namespace)),
            ("c", "y", Ok(())),
            ("d", "z", Err(Limit::Total)),
        ] {
            assert_eq!(
                spent.check(&limits, node, namespace, 1),
                wanted,
                "{node} {namespace}"
            );
            if wanted.is_ok() {
                spent.add(&node.into(), &namespace.into());
            }
        }
        let none = Limits {
            total: None,
            ..Limits::default()
        };
        assert_eq!(spent.check(&none, "d", "z", 99), Ok(()));
    }
}
