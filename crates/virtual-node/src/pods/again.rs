//! Upper pods that ran below before we looked on, and whose lower pod is gone: it was deleted while no process of ours
//! was there, or the lower cluster lost it. Where the restart policy allows it they go on in a new lower pod, as
//! containers do that a kubelet finds dead; else they have failed.

use std::time::Duration;

use serde_json::Value;

use tensile_core::status::{self, Fingerprint, go_on, interrupted, is_terminal, may_start_again, vanished};

use super::work::{Target, Worker};
use crate::api::{self, ApiError};

/// How it goes on with such a pod.
pub(super) enum Before {
    /// In a new lower pod, which follows upon this status of the upper pod.
    GoesOn(Value),
    /// Not at all, or not as far as we know now: its watch tells.
    Ends,
}

// === impl Worker ===

impl Worker {
    /// Looks at the upper pod as it is, and says on it that it is interrupted, or that it has ended.
    pub(super) async fn before(&self, target: &Target<'_>) -> Result<Before, ApiError> {
        let collection = api::collection(&target.key.namespace, "pods");
        let upper = api::get::<Value>(&self.context.upper, &collection, &target.key.name).await?;
        let is_it = |upper: &Value| {
            upper["metadata"]["uid"] == target.uid && upper["metadata"]["deletionTimestamp"].is_null()
        };
        let Some(mut upper) = upper.filter(is_it) else {
            return Ok(Before::Ends);
        };
        let phase = upper["status"]["phase"].as_str().unwrap_or_default();
        if is_terminal(phase) {
            return Ok(Before::Ends);
        }
        let now = now();
        if !may_start_again(&upper["spec"], &upper["status"]) {
            tracing::info!(pod = %target.key, "the lower pod is gone and must not start again");
            self.say(target, &upper, &vanished(&upper["status"], &now))
                .await?;
            return Ok(Before::Ends);
        }
        if phase != "Pending" {
            tracing::info!(pod = %target.key, "the lower pod is gone; making it again");
            self.say(target, &upper, &interrupted(&now)).await?;
        }
        Ok(Before::GoesOn(upper["status"].take()))
    }

    async fn say(&self, target: &Target<'_>, upper: &Value, desired: &Value) -> Result<(), ApiError> {
        match status::patch(target.uid, desired, None, &Fingerprint::of(&upper["status"])) {
            Some(patch) => self.patch_status(target, patch).await.map(drop),
            None => Ok(()),
        }
    }
}

/// Lets the translated pod `lower` follow upon the status that its upper pod had.
pub(super) fn follow_upon(lower: &mut Value, before: &Value) {
    go_on(lower, before, ran(before, jiff::Timestamp::now()));
}

/// How long ago a pod with this status started; nothing for one that did not.
fn ran(status: &Value, now: jiff::Timestamp) -> Duration {
    let started = status["startTime"]
        .as_str()
        .and_then(|started| started.parse::<jiff::Timestamp>().ok());
    started
        .and_then(|started| Duration::try_from(now.duration_since(started)).ok())
        .unwrap_or_default()
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_deadline_counts_from_the_first_start() {
        let now: jiff::Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        for (started, seconds) in [
            (json!("2026-01-01T00:00:20Z"), 40),
            (json!("2026-01-01T00:02:00Z"), 0),
            (json!("nonsense"), 0),
            (Value::Null, 0),
        ] {
            let status = json!({"startTime": started});
            assert_eq!(ran(&status, now), Duration::from_secs(seconds), "{started}");
        }
    }
}
