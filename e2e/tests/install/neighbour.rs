//! A second release: the lower cluster b is the upper one of its own, before the lower cluster a that both share.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Cluster, support};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use serde_json::json;

use crate::ground::{Ground, mk_containers};

const DEADLINE: Duration = Duration::from_secs(120);
const POD: &str = "neighbour";

/// Installs it and runs a pod through it; the pod as the shared lower cluster has it.
pub(crate) async fn moves_in(ground: &Ground) -> Result<Pod> {
    let upper = upper(ground);
    let small = json!({"virtualNode": {"replicas": 1}, "webhook": {"enabled": false}});
    ground.install(upper, 1, &small).await?;
    let pod = json!({
        "metadata": {"name": POD},
        "spec": {
            "terminationGracePeriodSeconds": 1, "nodeName": "a", "containers": mk_containers(),
            "tolerations": [{"key": "virtual-kubelet.io/provider", "operator": "Exists"}],
        },
    });
    let client = upper.client().await?;
    support::create(&Api::<Pod>::namespaced(client.clone(), "default"), pod).await?;
    support::pod_running(&client, "default", POD, DEADLINE).await?;
    below(ground).await
}

/// Its pod has noticed nothing of what the first release did; then it goes too, and nothing of it is left.
pub(crate) async fn is_undisturbed_and_leaves(ground: &Ground, before: &Pod) -> Result<()> {
    let after = below(ground).await?;
    ensure!(
        after.metadata.uid == before.metadata.uid,
        "the other release's pod was replaced"
    );
    ensure!(
        support::is_ready(&after),
        "the other release's pod does not run: {after:?}"
    );
    ground.uninstall(upper(ground)).await?;
    let pods: Api<Pod> = Api::namespaced(ground.lower[0].client().await?, "default");
    ensure!(pods.get_opt(POD).await?.is_none(), "the pod is left below");
    let nodes: Api<Node> = Api::all(upper(ground).client().await?);
    ensure!(nodes.get_opt("a").await?.is_none(), "the Node is left");
    Ok(())
}

fn upper(ground: &Ground) -> &Cluster {
    &ground.lower[1]
}

async fn below(ground: &Ground) -> Result<Pod> {
    let pods: Api<Pod> = Api::namespaced(ground.lower[0].client().await?, "default");
    Ok(pods.get(POD).await?)
}
