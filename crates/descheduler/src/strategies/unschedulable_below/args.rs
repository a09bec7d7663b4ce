//! Arguments of UnschedulableBelow.

use serde::Deserialize;

use crate::policy::Namespaces;

/// Arguments of UnschedulableBelow.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Args {
    /// For how many seconds a lower cluster must have called the pod unschedulable. By default 60: an autoscaler
    /// below, or a pod that just ends, gets a chance.
    pub threshold_seconds: u64,
    /// Pods that are pending on a virtual node and older than this many seconds are moved whatever their cluster
    /// says. By default none is.
    pub max_pod_life_time_seconds: Option<u64>,
    /// Namespaces of the pods.
    pub namespaces: Namespaces,
}

// === impl Args ===

impl Default for Args {
    fn default() -> Self {
        Self {
            threshold_seconds: 60,
            max_pod_life_time_seconds: None,
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
        if self.max_pod_life_time_seconds == Some(0) {
            let problem = "maxPodLifeTimeSeconds is 0: no pod would have time to start".to_owned();
            return Err((problem, "give at least 1, or leave it out".to_owned()));
        }
        self.namespaces.check()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contradictions_are_refused() {
        let both = Namespaces {
            include: ["a".to_owned()].into(),
            exclude: ["b".to_owned()].into(),
        };
        for (namespaces, life, wanted) in [
            (Namespaces::default(), None, None),
            (Namespaces::default(), Some(1), None),
            (Namespaces::default(), Some(0), Some("maxPodLifeTimeSeconds")),
            (both, None, Some("include and exclude")),
        ] {
            let args = Args {
                max_pod_life_time_seconds: life,
                namespaces,
                ..Args::default()
            };
            let problem = args.check().err().map(|(problem, _)| problem);
            match wanted {
                None => assert_eq!(problem, None),
                Some(wanted) => assert!(problem.unwrap().contains(wanted)),
            }
        }
    }
}
