//! While the lower cluster is silent, nobody knows whether its pods work: they are shown as not ready, so that Services
//! above send their traffic elsewhere. The node controller does that only for nodes that it calls unreachable itself.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::context::Context;
use crate::node::{Down, Reachability, UNREACHABLE};

/// Time between two pods: 50 a second, so that a cluster of 1 000 pods is out of Services within 20 s and the upper API
/// server hardly notices.
const PACE: Duration = Duration::from_millis(20);
/// Time for the other clusters to be found silent too, which would mean that it is we who are cut off. Each is asked
/// every 10 s and has 5 s for its answer.
const HYSTERESIS: Duration = Duration::from_secs(15);

/// Shows the silence of the lower cluster on its pods, until dropped.
pub async fn follow(context: &Context, mut reachability: watch::Receiver<Reachability>, down: &Down) {
    let silent = |state: &Reachability| *state != Reachability::Reachable;
    while reachability.wait_for(silent).await.is_ok() {
        down.set(true);
        let mut back = reachability.clone();
        tokio::select! {
            () = show(context, down) => {}
            _ = back.wait_for(|state| !silent(state)) => {}
        }
        down.set(false);
        let doubted = context.shared.lock().pods.end_silence();
        context.shared.wake(doubted);
    }
}

/// Marks one pod after another, also those that come later, until dropped.
async fn show(context: &Context, down: &Down) {
    sleep(HYSTERESIS).await;
    let since: Arc<str> = jiff::Timestamp::now()
        .strftime("%Y-%m-%dT%H:%M:%SZ")
        .to_string()
        .into();
    let mut told = false;
    loop {
        if down.all() {
            if !std::mem::replace(&mut told, true) {
                tracing::warn!(
                    "every lower cluster is silent: it is rather we who are cut off, pods stay as they are"
                );
            }
        } else {
            let pods = context.shared.lock().pods.not_silent();
            for pod in pods {
                context.shared.lock().pods.set_silent(&pod, &since);
                context.shared.pods.push(pod);
                sleep(PACE).await;
            }
        }
        sleep(HYSTERESIS).await;
    }
}

/// Takes the readiness out of a status that the lower cluster reported before it fell silent.
pub(super) fn doubt(status: &mut Value, since: &str) {
    let conditions = status["conditions"].as_array_mut().into_iter().flatten();
    for ready in conditions.filter(|condition| condition["type"] == "Ready" && condition["status"] == "True")
    {
        ready["status"] = json!("False");
        ready["reason"] = json!(UNREACHABLE);
        ready["message"] = json!("the lower cluster does not answer; the pod may still run");
        ready["lastTransitionTime"] = json!(since);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_readiness_is_in_doubt() {
        let mut status = json!({"phase": "Running", "conditions": [
            {"type": "ContainersReady", "status": "True"}, {"type": "Ready", "status": "True"}]});
        doubt(&mut status, "2026-01-01T00:00:00Z");
        assert_eq!(status["phase"], "Running");
        assert_eq!(status["conditions"][0]["status"], "True");
        assert_eq!(
            (
                &status["conditions"][1]["status"],
                &status["conditions"][1]["reason"]
            ),
            (&json!("False"), &json!("LowerClusterUnreachable"))
        );
        let before = json!({"conditions": [{"type": "Ready", "status": "False", "reason": "PodCompleted"}]});
        let mut after = before.clone();
        doubt(&mut after, "2026-01-01T00:00:00Z");
        assert_eq!(after, before);
    }
}
