//! Arguments of SpreadViolation.

use serde::Deserialize;

use crate::policy::Namespaces;

/// Arguments of SpreadViolation.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Args {
    /// For how many seconds no pod that counts must have come. By default 60, as of UnschedulableBelow: while an owner
    /// scales or rolls out, its pods are where they are for a moment only.
    pub threshold_seconds: u64,
    /// Namespaces of the pods.
    pub namespaces: Namespaces,
}

// === impl Args ===

impl Default for Args {
    fn default() -> Self {
        Self {
            threshold_seconds: 60,
            namespaces: Namespaces::default(),
        }
    }
}

impl Args {
    /// Whether the arguments can be meant.
    ///
    /// # Errors
    /// What is wrong, and what to do about it.
    pub fn check(&self) -> Result<(), (String, String)> {
        self.namespaces.check()
    }
}
