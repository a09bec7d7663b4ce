//! Virtual nodes as the upper cluster shows them.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::ListParams;
use serde::Serialize;
use tensile_core::names;

use crate::connect::Upper;
use crate::error::CliError;

/// A virtual node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct VirtualNode {
    pub(crate) name: String,
    /// Id of the lower cluster that it stands for.
    pub(crate) cluster: String,
    pub(crate) ready: bool,
    /// Reason of the condition Ready.
    pub(crate) reason: String,
    pub(crate) unschedulable: bool,
    /// Seconds since its last heartbeat, if it has ever sent one.
    pub(crate) heartbeat_age: Option<i64>,
}

/// All virtual nodes, sorted by name.
pub(crate) async fn list(upper: &Upper) -> Result<Vec<VirtualNode>, CliError> {
    let nodes: Api<Node> = Api::all(upper.client.clone());
    let leases: Api<Lease> = Api::namespaced(upper.client.clone(), names::NODE_LEASE_NAMESPACE);
    let selector = format!("{}={}", names::NODE_TYPE, names::NODE_TYPE_VALUE);
    let (of_type, everything) = (ListParams::default().labels(&selector), ListParams::default());
    let (nodes, leases) = tokio::try_join!(nodes.list(&of_type), leases.list(&everything))
        .map_err(CliError::api("cannot list the virtual nodes"))?;
    let now = Timestamp::now();
    let heartbeat = |name: &str| {
        let lease = leases
            .iter()
            .find(|lease| lease.metadata.name.as_deref() == Some(name))?;
        let renewed = lease.spec.as_ref()?.renew_time.as_ref()?;
        Some(now.duration_since(renewed.0).as_secs())
    };
    let mut found: Vec<VirtualNode> = nodes.iter().map(|node| of(node, heartbeat)).collect();
    found.sort_by(|left, right| left.name.cmp(&right.name));
    Ok(found)
}

fn of(node: &Node, heartbeat: impl Fn(&str) -> Option<i64>) -> VirtualNode {
    let name = node.metadata.name.clone().unwrap_or_default();
    let labels = node.metadata.labels.as_ref();
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let ready = conditions
        .into_iter()
        .flatten()
        .find(|condition| condition.type_ == "Ready");
    VirtualNode {
        cluster: labels
            .and_then(|labels| labels.get(names::CLUSTER_ID))
            .cloned()
            .unwrap_or_default(),
        ready: ready.is_some_and(|condition| condition.status == "True"),
        reason: ready
            .and_then(|condition| condition.reason.clone())
            .unwrap_or_default(),
        unschedulable: node
            .spec
            .as_ref()
            .is_some_and(|spec| spec.unschedulable == Some(true)),
        heartbeat_age: heartbeat(&name),
        name,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_is_read_with_its_condition_and_heartbeat() {
        let node = serde_json::from_value(json!({
            "metadata": {"name": "vn-a", "labels": {"type": "virtual-kubelet", "clusterID": "a"}},
            "spec": {"unschedulable": true},
            "status": {"conditions": [{"type": "Ready", "status": "False", "reason": "LowerClusterUnreachable"}]},
        }))
        .unwrap();
        let expected = VirtualNode {
            name: "vn-a".to_owned(),
            cluster: "a".to_owned(),
            ready: false,
            reason: "LowerClusterUnreachable".to_owned(),
            unschedulable: true,
            heartbeat_age: Some(7),
        };
        assert_eq!(of(&node, |name| (name == "vn-a").then_some(7)), expected);
    }
}
