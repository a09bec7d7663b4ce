//! Room is there, but in fragments: as many pods are moved as must be, and the big ones run.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use e2e::{TestResult, support};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

use crate::fleet::{DEADLINE, FILLERS, NODES, Site, on_site, uid_of};
use crate::stuck::is_refused;

/// Big pods that wait.
const BIG: usize = 4;

const POLICY: &str = "
apiVersion: descheduler/v1alpha2
kind: DeschedulerPolicy
profiles:
- name: live
  pluginConfig:
  - name: MakeRoom
    args: {thresholdSeconds: 1}
  plugins:
    balance: {enabled: [MakeRoom]}
";

#[test]
fn big_pods_get_room_among_fragments_with_one_move_for_each() -> TestResult {
    on_site(async |site| {
        fragment(site).await?;
        let before = site.of("movable").await?;
        site.deploy("big", BIG, site.mk_template("big", "2")?).await?;
        support::await_condition("the big pods to find no node", DEADLINE, || async {
            let refused = site.of("big").await?;
            let refused = refused.iter().filter(|pod| is_refused(pod)).count();
            ensure!(refused == BIG, "{refused} of {BIG}");
            Ok(Some(()))
        })
        .await?;
        let descheduler = site.descheduler(POLICY, &[])?;
        let (big, movable) = support::await_condition("all to run", DEADLINE, || async {
            descheduler.component.check_running()?;
            let (big, movable) = (site.of("big").await?, site.of("movable").await?);
            let running = |pods: &[Pod]| pods.iter().filter(|pod| support::is_ready(pod)).count();
            let (of_big, of_movable) = (running(&big), running(&movable));
            ensure!(
                of_big == BIG && of_movable == 2 * NODES,
                "{of_big} big, {of_movable} others"
            );
            Ok(Some((big, movable)))
        })
        .await?;
        ensure!(
            big.len() == BIG && movable.len() == 2 * NODES,
            "{} and {}",
            big.len(),
            movable.len()
        );
        let known = uids(&before)?;
        let moved = uids(&movable)?.difference(&known).count();
        ensure!(moved == BIG, "{moved} moves for {BIG} pods");
        site.end(descheduler).await
    })
}

/// Every node has 1.2 of its 4 CPUs free: 1.8 are the lower cluster's own, 1 has a pod of ours.
async fn fragment(site: &Site<'_>) -> Result<()> {
    for node in ["va", "vb"] {
        let client = site.cluster(node).client().await?;
        support::service_account(&client, FILLERS).await?;
        let fillers: Api<Pod> = Api::namespaced(client.clone(), FILLERS);
        for lower in Api::<Node>::all(client).list(&ListParams::default()).await? {
            let name = lower.metadata.name.unwrap_or_default();
            let container = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": "1800m"}}});
            let spec = json!({"nodeName": name, "containers": [container]});
            support::create(&fillers, json!({"metadata": {"name": name}, "spec": spec})).await?;
        }
        let nodes: Api<Node> = Api::all(site.client.clone());
        support::await_condition("the virtual node to show what is left", DEADLINE, || async {
            let status = nodes.get(node).await?.status.unwrap_or_default();
            let shown = status.allocatable.unwrap_or_default();
            let shown = shown.get("cpu").map(|cpu| cpu.0.clone()).unwrap_or_default();
            let wanted = format!("{}m", NODES * (4000 - 1800));
            ensure!(shown == wanted, "{shown}, not {wanted}");
            Ok(Some(()))
        })
        .await?;
    }
    // One on each node for as long as it takes to put one of the others there.
    let mut holes = site.mk_template("holes", "1")?;
    let apart = json!([{"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "holes"}}}]);
    holes["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] = apart;
    site.deploy("holes", 2 * NODES, holes).await?;
    site.running("holes", &[("va", NODES), ("vb", NODES)]).await?;
    site.deploy("movable", 2 * NODES, site.mk_template("movable", "1")?)
        .await?;
    site.running("movable", &[("va", NODES), ("vb", NODES)]).await?;
    site.deployments()
        .delete("holes", &DeleteParams::background())
        .await?;
    for node in ["va", "vb"] {
        let below = site.below(node).await?;
        support::await_condition("the holes to be there", DEADLINE, || async {
            let left = below
                .list(&ListParams::default().labels("app=holes"))
                .await?
                .items
                .len();
            ensure!(left == 0, "{left} are filled");
            Ok(Some(()))
        })
        .await?;
    }
    Ok(())
}

fn uids(pods: &[Pod]) -> Result<BTreeSet<String>> {
    pods.iter().map(|pod| Ok(uid_of(pod)?.to_owned())).collect()
}
