//! Keeps the Node object as it should be: made if missing, patched when something changes, renewed now and then.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;

use tensile_core::names;
use tensile_runtime::health::Health;
use tensile_runtime::object::{Nodes, Viewed};
use tensile_runtime::watch::Change;

use super::{Capacity, Desired, Identity, Reachability};
use crate::api::{self, ApiError};
use crate::context::Context;
use crate::metrics::Metrics;
use crate::pools::Pool;

/// Figures are published at most this often.
const PUBLISH_INTERVAL: Duration = Duration::from_secs(1);
/// An unchanged status is written again after this time, as kubelets do (`nodeStatusReportFrequency`).
const REPORT_INTERVAL: Duration = Duration::from_secs(300);
/// Delay after a failed write.
const RETRY_INTERVAL: Duration = Duration::from_secs(2);
const FIELD_MANAGER: &str = "tensile-virtual-node";
const COLLECTION: &str = "/api/v1/nodes";

/// Our Node as its watch delivers it.
pub type OwnNode = Viewed<Nodes, Value>;

/// Why a virtual node cannot have its Node.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The name belongs to another kind of node.
    #[error(
        "node {name} exists and is no virtual node (label {label}={value} is missing); choose another --nodename or delete it",
        label = names::NODE_TYPE, value = names::NODE_TYPE_VALUE
    )]
    Foreign {
        /// The name.
        name: String,
    },
    /// The upper cluster does not let us.
    #[error("cannot read or create node {name}: {source}")]
    Api {
        /// The name.
        name: String,
        /// What it says.
        #[source]
        source: ApiError,
    },
}

/// Publishes one Node.
pub struct Publisher {
    client: Client,
    identity: Identity,
    capacity: Arc<Mutex<Capacity>>,
    pool: Pool,
    reachability: watch::Receiver<Reachability>,
    changed: Notify,
    current: Mutex<Value>,
    /// UID of the Node, for the lease's owner.
    uid: watch::Sender<Option<String>>,
    metrics: Metrics,
    health: Health,
}

/// What was written last, and when.
struct Written {
    desired: Desired,
    at: Instant,
}

// === impl Publisher ===

impl Publisher {
    /// A publisher; nothing is written yet.
    #[must_use]
    pub fn new(context: &Context, identity: Identity, reachability: watch::Receiver<Reachability>) -> Self {
        let uid = watch::channel(None).0;
        let current = Mutex::new(Value::Null);
        Self {
            client: context.upper.clone(),
            health: Health::new(&format!("node {}", identity.name)),
            identity,
            capacity: context.shared.capacity.clone(),
            pool: context.settings.pool.clone(),
            reachability,
            changed: Notify::new(),
            current,
            uid,
            metrics: context.metrics.clone(),
        }
    }

    /// The UID of the Node while it exists.
    #[must_use]
    pub fn uid(&self) -> watch::Receiver<Option<String>> {
        self.uid.subscribe()
    }

    /// Says that figures may have changed.
    pub fn notify(&self) {
        self.changed.notify_one();
    }

    /// Takes a change of our own Node.
    pub fn own_node(&self, change: Change<OwnNode>) {
        match change {
            Change::Apply(node) => {
                let drifted = drifted(&self.desired(), &node.view);
                self.set_current(node.view);
                if drifted {
                    self.changed.notify_one();
                }
            }
            Change::Delete(_) => self.gone(),
            Change::Reset(live) if live.is_empty() => self.gone(),
            Change::Reset(_) => {}
        }
    }

    fn gone(&self) {
        self.set_current(Value::Null);
        self.changed.notify_one();
    }

    fn set_current(&self, node: Value) {
        let uid = node["metadata"]["uid"].as_str().map(str::to_owned);
        *self.current.lock() = node;
        self.uid
            .send_if_modified(|known| std::mem::replace(known, uid.clone()) != uid);
    }

    fn desired(&self) -> Desired {
        Desired {
            identity: self.identity.clone(),
            summary: self.capacity.lock().summary(&self.pool),
            reachability: self.reachability.borrow().clone(),
        }
    }

    /// Publishes until the future is dropped.
    pub async fn run(&self) {
        let mut reachability = self.reachability.clone();
        let mut written: Option<Written> = None;
        loop {
            let desired = self.desired();
            if self.due(&desired, written.as_ref()) {
                match self.write(&desired).await {
                    Ok(()) => {
                        self.health.good("writing the Node");
                        written = Some(Written {
                            desired,
                            at: Instant::now(),
                        });
                    }
                    Err(error) => {
                        self.health.bad("writing the Node", &error);
                        written = None;
                        tokio::time::sleep(RETRY_INTERVAL).await;
                        continue;
                    }
                }
            }
            let next = written.as_ref().map_or_else(Instant::now, |written| written.at) + REPORT_INTERVAL;
            tokio::select! {
                () = self.changed.notified() => {}
                _ = reachability.changed() => {}
                () = tokio::time::sleep_until(next) => {}
            }
            tokio::time::sleep(PUBLISH_INTERVAL).await;
        }
    }

    fn due(&self, desired: &Desired, written: Option<&Written>) -> bool {
        written.is_none_or(|written| written.desired != *desired || written.at.elapsed() >= REPORT_INTERVAL)
            || drifted(desired, &self.current.lock())
    }

    async fn write(&self, desired: &Desired) -> Result<(), ApiError> {
        if self.current.lock().is_null() {
            self.create(desired).await?;
        }
        self.keep_taints(desired).await?;
        let params = PatchParams::apply(FIELD_MANAGER).force();
        let nodes: Api<OwnNode> = Api::all(self.client.clone());
        let name = &self.identity.name;
        nodes
            .patch(name, &params, &Patch::Apply(desired.metadata()))
            .await?;
        let status = desired.status(&self.current.lock().clone(), &jiff::Timestamp::now().to_string());
        let node = nodes.patch_status(name, &params, &Patch::Apply(status)).await?;
        self.set_current(node.view);
        self.metrics.node_writes.inc();
        Ok(())
    }

    async fn create(&self, desired: &Desired) -> Result<(), ApiError> {
        let found: Option<Value> = api::get(&self.client, COLLECTION, &self.identity.name).await?;
        let node = match found {
            Some(node) => node,
            None => api::create(&self.client, COLLECTION, &desired.node()).await?,
        };
        self.set_current(node);
        Ok(())
    }

    /// Puts our taints back if somebody took them away; others' taints stay.
    async fn keep_taints(&self, desired: &Desired) -> Result<(), ApiError> {
        if has_taints(desired, &self.current.lock()) {
            return Ok(());
        }
        let mut node: Value = api::get(&self.client, COLLECTION, &self.identity.name)
            .await?
            .ok_or_else(|| ApiError::NotFound(format!("node {}", self.identity.name)))?;
        let ours = &desired.identity.taints;
        let mut taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        let is_ours = |other: &Value| {
            ours.iter()
                .any(|taint| other["key"] == taint["key"] && other["effect"] == taint["effect"])
        };
        taints.retain(|other| !is_ours(other));
        taints.extend(ours.iter().cloned());
        node["spec"]["taints"] = Value::Array(taints);
        // The resourceVersion that was read goes with it, so that nobody else's change is overwritten.
        let node = api::replace(&self.client, COLLECTION, &self.identity.name, &node).await?;
        self.set_current(node);
        Ok(())
    }
}

/// Checks that the name of a virtual node is free or a virtual node's.
///
/// # Errors
/// When another kind of node has it, or the upper cluster cannot be asked.
pub async fn check_owner(client: &Client, name: &str) -> Result<(), NodeError> {
    let node: Option<Value> = api::get(client, COLLECTION, name)
        .await
        .map_err(|source| NodeError::Api {
            name: name.to_owned(),
            source,
        })?;
    match node {
        Some(node) if node["metadata"]["labels"][names::NODE_TYPE] != names::NODE_TYPE_VALUE => {
            Err(NodeError::Foreign {
                name: name.to_owned(),
            })
        }
        _ => Ok(()),
    }
}

/// Whether `current` shows something else than we want, in what is ours to say.
fn drifted(desired: &Desired, current: &Value) -> bool {
    if current.is_null() {
        return true;
    }
    let labels = &current["metadata"]["labels"];
    let wanted = desired.status(current, "");
    let (wanted, shown) = (&wanted["status"], &current["status"]);
    let conditions = wanted["conditions"].as_array().into_iter().flatten();
    desired.labels().iter().any(|(key, value)| labels[key] != **value)
        || !has_taints(desired, current)
        || ["capacity", "allocatable", "daemonEndpoints"]
            .iter()
            .any(|key| shown[key] != wanted[key])
        || conditions.into_iter().any(|wanted| !has_condition(shown, wanted))
}

fn has_taints(desired: &Desired, current: &Value) -> bool {
    let shown = current["spec"]["taints"]
        .as_array()
        .map_or(&[][..], Vec::as_slice);
    desired.identity.taints.iter().all(|taint| {
        shown
            .iter()
            .any(|other| ["key", "value", "effect"].iter().all(|k| other[k] == taint[k]))
    })
}

fn has_condition(status: &Value, wanted: &Value) -> bool {
    let conditions = status["conditions"].as_array();
    let same = |shown: &Value| {
        ["type", "status", "reason"]
            .iter()
            .all(|key| shown[key] == wanted[key])
    };
    conditions.is_some_and(|conditions| conditions.iter().any(same))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::Summary;
    use super::*;

    fn mk_desired() -> Desired {
        let identity = Identity {
            name: "vn".into(),
            cluster_id: "a".into(),
            ip: "10.0.0.1".into(),
            external_ip: None,
            port: 10250,
            labels: std::collections::BTreeMap::new(),
            taints: vec![json!({"key": names::PROVIDER_TAINT, "value": "tensile", "effect": "NoSchedule"})],
            namespace_prefix: None,
            version: "v1.36.3".into(),
            upper_minor: 36,
        };
        Desired {
            identity,
            summary: Summary::default(),
            reachability: Reachability::Reachable,
        }
    }

    fn mk_node(desired: &Desired) -> Value {
        let mut node = desired.node();
        node["status"] = desired.status(&Value::Null, "now")["status"].clone();
        node
    }

    #[test]
    fn what_others_add_is_no_drift() {
        let desired = mk_desired();
        let mut node = mk_node(&desired);
        assert!(!drifted(&desired, &node));
        node["metadata"]["labels"]["theirs"] = json!("x");
        node["spec"]["unschedulable"] = json!(true);
        node["spec"]["taints"]
            .as_array_mut()
            .unwrap()
            .push(json!({"key": "theirs", "effect": "NoExecute"}));
        node["status"]["conditions"]
            .as_array_mut()
            .unwrap()
            .push(json!({"type": "Theirs", "status": "True"}));
        assert!(!drifted(&desired, &node));
    }

    #[test]
    fn what_others_take_or_change_of_ours_is_drift() {
        let desired = mk_desired();
        for (pointer, value) in [
            ("/metadata/labels", json!({})),
            ("/spec/taints", json!([])),
            ("/status/capacity", json!({})),
            ("/status/conditions/0/status", json!("Unknown")),
        ] {
            let mut node = mk_node(&desired);
            *node.pointer_mut(pointer).unwrap() = value;
            assert!(drifted(&desired, &node), "{pointer}");
        }
        assert!(drifted(&desired, &Value::Null));
    }
}
