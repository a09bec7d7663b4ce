//! Several virtual nodes of one lower cluster.

use anyhow::{Result, ensure};
use e2e::{TestResult, support};
use serde_json::Value;

use crate::below::await_event;
use crate::{Site, condition, kubeconfig, mk_pod, on_site};

const POOLS: &str = "
nodes:
  - name: pool-ssd
    selector: {matchLabels: {disk: ssd}}
    excludeLabels: ['type']
    resources: {example.com/fixed: 3}
    overrides:
      - selector: {matchLabels: {app: patched}}
        patch: [{op: replace, path: /spec/containers/0/image, value: mirror/ours}]
      - selector: {matchLabels: {app: unfit}}
        patch: [{op: remove, path: /spec/runtimeClassName}]
  - name: pool-hdd
    selector: {matchLabels: {disk: hdd}}
    taints: [{key: slow, effect: NoSchedule}]
";
const OVERLAP: &str = "nodes: [{name: pool-ssd}, {name: pool-hdd, selector: {matchLabels: {disk: hdd}}}]";

async fn lower_node(site: &Site, name: &str) -> Result<Value> {
    let first = site.ground.first.client().await?;
    let pod = site.await_running(&first, name).await?;
    site.await_running(&site.upper, name).await?;
    Ok(pod)
}

#[test]
fn pools_share_a_cluster_and_patch_their_pods() -> TestResult {
    on_site("pools", async |site| {
        let _replica = site.replica(&[])?;
        site.secret("pool", &kubeconfig(&site.ground.first)?, POOLS)
            .await?;
        let counted = |node: &Value| {
            condition(node, "Ready")["status"] == "True" && node["status"]["capacity"]["cpu"] == "8"
        };
        let ssd = site
            .await_node("pool-ssd", "with the figures of two nodes", counted)
            .await?;
        let hdd = site
            .await_node("pool-hdd", "with the figures of one node", counted)
            .await?;
        ensure!(ssd["status"]["allocatable"]["example.com/fixed"] == "3", "{ssd}");
        ensure!(ssd["metadata"]["labels"]["disk"] == "ssd" && hdd["metadata"]["labels"]["disk"] == "hdd");
        ensure!(hdd["spec"]["taints"][0]["key"] == "slow", "{hdd}");
        ensure!(
            ssd["status"]["daemonEndpoints"]["kubeletEndpoint"]
                != hdd["status"]["daemonEndpoints"]["kubeletEndpoint"],
            "two virtual nodes have one port"
        );
        for (name, node, disk) in [
            ("fast", "pool-ssd", "ssd"),
            ("slow", "pool-hdd", "hdd"),
            ("patched", "pool-ssd", "ssd"),
        ] {
            support::create(&site.pods(&site.upper), mk_pod(name, node)).await?;
            let pod = lower_node(site, name).await?;
            let place = pod["spec"]["nodeName"].as_str().unwrap_or_default();
            ensure!(place.starts_with(disk), "{name} is on {place}");
            let image = if name == "patched" { "mirror/ours" } else { "ours" };
            ensure!(pod["spec"]["containers"][0]["image"] == image, "{pod}");
        }
        support::create(&site.pods(&site.upper), mk_pod("unfit", "pool-ssd")).await?;
        let says = |pod: &Value| {
            let message = pod["status"]["message"].as_str();
            message.is_some_and(|message| message.contains("overrides[1]"))
        };
        site.await_pod(&site.upper, "unfit", "to name the override", says)
            .await?;
        await_event(site, "unfit", "ProviderFailed").await?;
        let patched = site.await_running(&site.upper, "patched").await?;
        ensure!(
            patched["spec"]["containers"][0]["image"] == "ours",
            "an override shows above: {patched}"
        );

        site.secret("pool", &kubeconfig(&site.ground.first)?, OVERLAP)
            .await?;
        for name in ["pool-ssd", "pool-hdd"] {
            let names_both = |node: &Value| {
                let message = condition(node, "PoolProblem")["message"]
                    .as_str()
                    .unwrap_or_default();
                message.contains("pool-ssd") && message.contains("pool-hdd")
            };
            site.await_node(name, "to name both pools", names_both).await?;
        }
        Ok(())
    })
}
