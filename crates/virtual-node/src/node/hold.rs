//! Keeps a Node alive, but not ready, while its lower cluster cannot be reached from the start.

use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::sync::watch;

use super::{Heartbeat, OwnNode, UNREACHABLE};

/// Says on the Node `name`, if it exists, why it is not ready, and renews its lease until dropped.
pub async fn hold(upper: &Client, name: &str, reason: &str) {
    let nodes: Api<OwnNode> = Api::all(upper.clone());
    let patch = Patch::Strategic(not_ready(reason, &jiff::Timestamp::now().to_string()));
    let uid = match nodes.patch_status(name, &PatchParams::default(), &patch).await {
        Ok(node) => node.metadata.uid,
        Err(error) => {
            tracing::debug!(node = name, %error, "there is no Node yet that could say that its cluster is unreachable");
            None
        }
    };
    let (_sender, uid) = watch::channel(uid);
    Heartbeat::new(upper.clone(), name, uid).run().await;
}

fn not_ready(reason: &str, now: &str) -> Value {
    let condition = json!({
        "type": "Ready", "status": "False", "reason": UNREACHABLE, "message": reason,
        "lastHeartbeatTime": now, "lastTransitionTime": now,
    });
    json!({"status": {"conditions": [condition]}})
}
