//! The clusters, the virtual node and the pod.

use std::time::Duration;

use anyhow::Result;
use e2e::virtual_node::{VirtualNode, VirtualNodeSpec};
use e2e::{BUSYBOX_IMAGE, Cluster, ClusterSpec, real_nodes_available, support};
use serde_json::json;

const NODE: &str = "vn-bench";
const DEADLINE: Duration = Duration::from_secs(120);

/// A pod that runs below and was created above.
pub(crate) struct Ground {
    pub(crate) upper: Cluster,
    pub(crate) lower: Cluster,
    pub(crate) node: VirtualNode,
    pub(crate) namespace: String,
}

/// The pod and its container.
pub(crate) const POD: &str = "bench";
pub(crate) const CONTAINER: &str = "main";

// === impl Ground ===

impl Ground {
    pub(crate) async fn start() -> Result<Self> {
        real_nodes_available().map_err(anyhow::Error::msg)?;
        let (upper, lower) = tokio::try_join!(
            Cluster::start(ClusterSpec::new("streams-upper").reachable_from_pods()),
            Cluster::start(ClusterSpec::new("streams-lower").with_real_node()),
        )?;
        let node = VirtualNodeSpec::new(NODE)
            .address(upper.address())
            .start(&upper, &lower)
            .await?;
        let client = upper.client().await?;
        let namespace = support::namespace_for_pods(&client).await?;
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": POD, "namespace": namespace},
            "spec": {
                "terminationGracePeriodSeconds": 1,
                "tolerations": [{"operator": "Exists"}],
                "containers": [{
                    "name": CONTAINER, "image": BUSYBOX_IMAGE,
                    "command": ["sh", "-c", "trap 'exit 0' TERM; sleep 86400 & wait"],
                }],
            },
        });
        upper.apply(&pod.to_string()).await?;
        support::pod_running(&client, &namespace, POD, DEADLINE).await?;
        Ok(Self {
            upper,
            lower,
            node,
            namespace,
        })
    }
}
