//! Whether a pending pod has waited long enough.

use std::fmt;

use super::Args;
use crate::pod::Pod;
use crate::refused::Refusal;

/// Why a pod should be moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Its lower cluster has called it unschedulable for too long.
    Unschedulable {
        /// Since when, in seconds since the Unix epoch.
        since: u64,
        /// For how many seconds.
        seconds: u64,
        /// What the lower scheduler says.
        message: String,
    },
    /// It has been pending for too long.
    Old {
        /// When it was made, in seconds since the Unix epoch.
        since: u64,
        /// Its age in seconds.
        seconds: u64,
    },
}

// === impl Due ===

impl Due {
    /// Since when the pod waits, in seconds since the Unix epoch.
    pub(super) fn since(&self) -> u64 {
        match self {
            Self::Unschedulable { since, .. } | Self::Old { since, .. } => *since,
        }
    }
}

impl fmt::Display for Due {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unschedulable { seconds, message, .. } => {
                write!(f, "unschedulable in its lower cluster for {seconds} s: {message}")
            }
            Self::Old { seconds, .. } => write!(f, "pending for {seconds} s"),
        }
    }
}

/// Why this pending pod should be moved, if it should. Times from the future count as now.
pub(super) fn due(args: &Args, pod: &Pod, refusal: Option<&Refusal>, now: u64) -> Option<Due> {
    let refused = refusal.and_then(|refusal| {
        let seconds = now.checked_sub(refusal.since)?;
        (seconds >= args.threshold_seconds).then(|| Due::Unschedulable {
            since: refusal.since,
            seconds,
            message: refusal.message.to_string(),
        })
    });
    refused.or_else(|| {
        let age = pod.age(now);
        let too_old = args.max_pod_life_time_seconds.is_some_and(|max| age > max);
        too_old.then_some(Due::Old {
            since: pod.created,
            seconds: age,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::Templates;
    use crate::testing::mk_replica;

    #[test]
    fn a_pod_is_due_by_its_clusters_word_or_by_its_age() {
        let pod = Pod::read(&mk_replica("p", "1", "va"), &mut Templates::default());
        let pod = Pod { created: 1000, ..pod };
        let refusal = |since: u64| Refusal {
            origin: "p".into(),
            since,
            message: "no".into(),
        };
        for (refused, life, now, wanted) in [
            (None, None, 99_999, None),
            (Some(2000), None, 2059, None),
            (
                Some(2000),
                None,
                2060,
                Some("unschedulable in its lower cluster for 60 s: no"),
            ),
            (Some(u64::MAX), None, 2060, None),
            (Some(3000), None, 2000, None),
            (None, Some(100), 1100, None),
            (None, Some(100), 1101, Some("pending for 101 s")),
            (None, Some(100), 10, None),
            (Some(2000), Some(100), 2030, Some("pending for 1030 s")),
            (
                Some(2000),
                Some(100),
                2060,
                Some("unschedulable in its lower cluster for 60 s: no"),
            ),
        ] {
            let args = Args {
                max_pod_life_time_seconds: life,
                ..Args::default()
            };
            let due = due(&args, &pod, refused.map(refusal).as_ref(), now);
            let text = due.as_ref().map(ToString::to_string);
            assert_eq!(text.as_deref(), wanted, "{refused:?} {life:?} {now}");
            if let Some(due) = due {
                assert_eq!(
                    due.since(),
                    if text.unwrap().starts_with('u') {
                        2000
                    } else {
                        1000
                    }
                );
            }
        }
    }
}
