//! The Lease in kube-node-lease that says that the virtual node lives.

use std::time::Duration;

use kube::Client;
use serde_json::{Value, json};
use tokio::sync::watch;

use tensile_core::names;
use tensile_runtime::health::Health;

use crate::api::{self, ApiError};

/// `nodeLeaseDurationSeconds` of kubelets.
const DURATION_SECONDS: i64 = 40;
/// A quarter of it, as kubelets renew.
const INTERVAL: Duration = Duration::from_secs(10);
/// Delay after a failed renewal; kubelets wait 7 s at most.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);

/// Renews the lease of one node.
pub struct Heartbeat {
    client: Client,
    node: String,
    /// UID of the Node, which owns the lease.
    uid: watch::Receiver<Option<String>>,
    health: Health,
}

// === impl Heartbeat ===

impl Heartbeat {
    /// Heartbeats for `node`.
    #[must_use]
    pub fn new(client: Client, node: &str, uid: watch::Receiver<Option<String>>) -> Self {
        Self {
            client,
            node: node.to_owned(),
            uid,
            health: Health::new(&format!("node {node}")),
        }
    }

    /// Renews until the future is dropped.
    pub async fn run(mut self) {
        let mut last: Option<Value> = None;
        loop {
            let uid = self.uid.borrow_and_update().clone();
            let Some(uid) = uid else {
                // Before there is a Node there is nothing to own the lease.
                if self.uid.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let delay = match self.renew(last.take(), &uid).await {
                Ok(lease) => {
                    self.health.good("node lease");
                    last = Some(lease);
                    INTERVAL
                }
                Err(error) => {
                    self.health.bad("node lease", &error);
                    RETRY_INTERVAL
                }
            };
            tokio::time::sleep(delay).await;
        }
    }

    /// Writes over the lease as last seen; reads it first if it is not known.
    async fn renew(&self, last: Option<Value>, uid: &str) -> Result<Value, ApiError> {
        let collection = format!(
            "/apis/coordination.k8s.io/v1/namespaces/{}/leases",
            names::NODE_LEASE_NAMESPACE
        );
        let known = match last {
            Some(lease) => Some(lease),
            None => api::get(&self.client, &collection, &self.node).await?,
        };
        let now = jiff::Timestamp::now();
        let lease = lease(known.as_ref(), &self.node, uid, &format!("{now:.6}"));
        match known {
            Some(_) => api::replace(&self.client, &collection, &self.node, &lease).await,
            None => api::create(&self.client, &collection, &lease).await,
        }
    }
}

/// The lease as it should be at `now`, made from what is there.
fn lease(known: Option<&Value>, node: &str, uid: &str, now: &str) -> Value {
    let mut lease = known.cloned().unwrap_or_else(|| {
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": node, "namespace": names::NODE_LEASE_NAMESPACE},
        })
    });
    lease["metadata"]["ownerReferences"] =
        json!([{"apiVersion": "v1", "kind": "Node", "name": node, "uid": uid}]);
    lease["spec"] =
        json!({"holderIdentity": node, "leaseDurationSeconds": DURATION_SECONDS, "renewTime": now});
    lease
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_keeps_the_resource_version_and_owns_the_lease_anew() {
        let known =
            json!({"metadata": {"name": "vn", "resourceVersion": "7", "ownerReferences": [{"uid": "old"}]}});
        let lease = lease(Some(&known), "vn", "new", "2026-01-01T00:00:00.000000Z");
        assert_eq!(lease["metadata"]["resourceVersion"], "7");
        assert_eq!(lease["metadata"]["ownerReferences"][0]["uid"], "new");
        assert_eq!(lease["spec"]["leaseDurationSeconds"], 40);
    }
}
