//! Arguments of MakeRoom.

use serde::Deserialize;

use crate::policy::Namespaces;

/// The most victims that may be asked for. Beyond, the sets to be looked at on a node are too many, and the
/// disruption is hardly worth it.
const MOST_VICTIMS: usize = 5;

/// Arguments of MakeRoom.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Args {
    /// For how many seconds a pod must have fitted nowhere. By default 60, as of UnschedulableBelow.
    pub threshold_seconds: u64,
    /// The most pods that are moved for one. By default 3.
    pub max_victims: usize,
    /// Namespaces of the pods that room is made for.
    pub namespaces: Namespaces,
}

// === impl Args ===

impl Default for Args {
    fn default() -> Self {
        Self {
            threshold_seconds: 60,
            max_victims: 3,
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
        if !(1..=MOST_VICTIMS).contains(&self.max_victims) {
            let problem = format!("maxVictims is {}", self.max_victims);
            return Err((problem, format!("give 1 to {MOST_VICTIMS}")));
        }
        self.namespaces.check()
    }
}
