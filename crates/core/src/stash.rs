//! The stash: scheduling constraints on their way to the lower cluster, in the annotation `clusterSelector`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// The four scheduling members of a lower pod's spec; `None` leaves the member out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Constraints {
    /// `spec.nodeSelector`.
    pub node_selector: Option<Value>,
    /// `spec.affinity`.
    pub affinity: Option<Value>,
    /// `spec.tolerations`.
    pub tolerations: Option<Value>,
    /// `spec.topologySpreadConstraints`.
    pub topology_spread_constraints: Option<Value>,
}

/// Why a stash cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum StashError {
    /// The annotation is not the JSON that it should be.
    #[error("annotation clusterSelector, at {path}: {problem}")]
    Malformed {
        /// Where in the annotation.
        path: String,
        /// What is wrong there.
        problem: String,
    },
}

/// The constraints that the lower pod gets: those of the stash, with the ignored keys resolved against the
/// virtual node's own labels; without a stash, what the upper pod itself says, less what only acts above.
///
/// # Errors
/// When the annotation is there and cannot be read.
pub fn lower_constraints(
    _upper: &Value,
    _node_labels: &BTreeMap<String, String>,
    _ignored_keys: &BTreeSet<String>,
) -> Result<Constraints, StashError> {
    Ok(Constraints::default())
}
