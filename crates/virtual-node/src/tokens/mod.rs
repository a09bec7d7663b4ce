//! Tokens of the upper cluster for the programs in lower pods.
//!
//! ```text
//! TokenRequest above, bound to the upper pod ──▶ Secret below, owned by the lower pod
//! ```
//!
//! A token is asked for before its pod is made, so that a refusal keeps the pod Pending and is told; the Secret
//! follows right behind the pod, because it is owned by it: the lower garbage collector takes it with the pod, also
//! when nobody of us is there. When a Secret is due is written on the Secret, so that a restart asks for nothing. A
//! token is work for its pod's key in the queue of pods: there is never more than one at it.

mod address;
mod index;
mod issue;
mod keep;

pub use address::{ApiAddress, ApiAddressError};
pub use index::{Index, Token, is_token_secret};
pub use issue::{Issued, Issuer};
pub use keep::Keeper;

use std::time::Duration;

use jiff::Timestamp;

use crate::pods::Entry;
use crate::shared::Shared;

/// How often tokens that are due are looked for. A token with the shortest life that API servers grant, ten minutes, is
/// due two minutes before its end.
const LOOK: Duration = Duration::from_secs(20);

/// What a pod's Secret needs now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing: the pod reads none, or is not there, or ends, or its tokens are fresh.
    Nothing,
    /// To be made.
    Make,
    /// To be given new tokens; with its UID.
    Renew(Box<str>),
}

/// What should happen next with the Secret of a pod.
#[must_use]
pub fn decide(entry: &Entry, token: Option<&Token>, now: Timestamp) -> Step {
    let (Some(upper), Some(lower)) = (&entry.upper, &entry.lower) else {
        return Step::Nothing;
    };
    let ends = upper.deletion.is_some() || lower.deletion.is_some() || upper.is_terminal();
    if !entry.belongs() || !lower.reads_token || ends {
        return Step::Nothing;
    }
    match token {
        None => Step::Make,
        Some(token) if token.refresh_at <= now => Step::Renew(token.uid.clone()),
        Some(_) => Step::Nothing,
    }
}

/// Has the pods looked at whose tokens are due, until dropped. To go through all of them now and then costs less than
/// a timer for each, which would be kept for most of an hour.
pub async fn watch_over(shared: &Shared) {
    let mut tick = tokio::time::interval(LOOK);
    loop {
        tick.tick().await;
        shared.tokens_due(Timestamp::now());
    }
}

/// Time from `now` to `at`; none when it is over.
fn until(at: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(at.duration_since(now)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::pods::{LowerSide, UpperSide};

    fn mk_entry(upper: &Value, lower: &Value) -> Entry {
        let mut pods = [
            json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "spec": {}, "status": {"phase": "Running"}}),
            json!({"metadata": {"name": "p", "namespace": "ns", "uid": "l", "labels": {"tensile.dev/origin-uid": "u"},
                                "annotations": {"tensile.dev/service-account": "upper"}}}),
        ];
        json_patch::merge(&mut pods[0], upper);
        json_patch::merge(&mut pods[1], lower);
        let [upper, lower] = pods.map(|pod| pod.to_string());
        Entry {
            upper: Some(UpperSide::new(serde_json::from_str(&upper).unwrap(), None)),
            lower: Some(LowerSide::new(serde_json::from_str(&lower).unwrap())),
            ..Entry::default()
        }
    }

    fn mk_token(refresh_at: i64) -> Token {
        Token {
            uid: "s".into(),
            refresh_at: Timestamp::from_second(refresh_at).unwrap(),
        }
    }

    #[test]
    fn a_secret_is_made_once_and_renewed_when_it_is_due() {
        let entry = mk_entry(&json!({}), &json!({}));
        let now = Timestamp::from_second(1000).unwrap();
        for (token, step) in [
            (None, Step::Make),
            (Some(mk_token(1600)), Step::Nothing),
            (Some(mk_token(1000)), Step::Renew("s".into())),
            (Some(mk_token(10)), Step::Renew("s".into())),
        ] {
            assert_eq!(decide(&entry, token.as_ref(), now), step);
        }
    }

    #[test]
    fn a_pod_that_reads_none_or_ends_gets_none() {
        let deleted = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
        let unmarked = json!({"metadata": {"annotations": null}});
        let of_another = json!({"metadata": {"labels": {"tensile.dev/origin-uid": "other"}}});
        for (upper, lower) in [
            (&deleted, &json!({})),
            (&json!({"status": {"phase": "Failed"}}), &json!({})),
            (&json!({}), &deleted),
            (&json!({}), &unmarked),
            (&json!({}), &of_another),
        ] {
            let entry = mk_entry(upper, lower);
            assert_eq!(
                decide(&entry, None, Timestamp::UNIX_EPOCH),
                Step::Nothing,
                "{upper} {lower}"
            );
        }
    }
}
