//! Room is there, but in fragments: as many pods are moved as must be, and the big ones run.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use e2e::{TestResult, support};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;

use crate::fleet::{DEADLINE, FILLERS, NODES, Site, node_of, on_site};
use crate::stuck::is_refused;

/// Big pods that wait, of three CPUs: on a node two others must go for one. All come from the first cluster, since its
/// owner avoids that one from then on; the holes of the second are enough for as many.
const BIG: usize = 3;
const EVICTIONS: usize = 2 * BIG;
/// Pods of one CPU of which two are on each node of both clusters.
const MOVABLE: usize = 4 * NODES;
/// Pods of two CPUs that would take what is free after the first eviction of each node.
const GREEDY: usize = 4;

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
fn room_is_made_for_big_pods_with_the_fewest_evictions_and_nobody_else_takes_it() -> TestResult {
    on_site(async |site| {
        fragment(site).await?;
        site.deploy("big", BIG, site.mk_template("big", "3")?).await?;
        refused(site, "big", BIG).await?;
        // Not for the descheduler to look at, and tried again with every change of a node.
        let mut greedy = site.mk_template("greedy", "2")?;
        greedy["metadata"]["labels"]["virtual-pod"] = json!("false");
        greedy["spec"]["tolerations"] = json!([{"operator": "Exists"}]);
        site.deploy("greedy", GREEDY, greedy).await?;
        refused(site, "greedy", GREEDY).await?;

        let dry = site.descheduler(POLICY, &["--dry-run"])?;
        support::await_condition("a plan", DEADLINE, || async {
            dry.component.check_running()?;
            let report = dry.report().await?;
            let moves = report["moves"].as_array().map_or(0, Vec::len);
            ensure!(moves > 0, "{report}");
            Ok(Some(()))
        })
        .await?;
        ensure!(promised(site).await?.is_none(), "a dry run writes nothing");
        site.end(dry).await?;

        let descheduler = site.descheduler(POLICY, &[])?;
        support::await_condition("all to run", DEADLINE, || async {
            descheduler.component.check_running()?;
            let (big, movable) = (site.of("big").await?, site.of("movable").await?);
            let running = |pods: &[Pod]| pods.iter().filter(|pod| support::is_ready(pod)).count();
            let (of_big, of_movable) = (running(&big), running(&movable));
            ensure!(
                of_big == BIG && of_movable == MOVABLE,
                "{of_big} big, {of_movable} others"
            );
            Ok(Some(()))
        })
        .await?;
        let evictions = descheduler.evictions().await?;
        println!("{evictions} evictions for {BIG} pods, {EVICTIONS} at least");
        ensure!(evictions == EVICTIONS, "{evictions} evictions");
        let greedy = site.of("greedy").await?;
        ensure!(
            greedy.iter().all(|pod| node_of(pod).is_empty()),
            "room that was made for the big ones went to others"
        );
        support::await_condition("nothing to be promised any more", DEADLINE, || async {
            let left = promised(site).await?.context("there is no ConfigMap")?;
            Ok(left.is_empty().then_some(()))
        })
        .await?;
        site.end(descheduler).await
    })
}

/// Waits until no node takes the pods of the app.
pub(crate) async fn refused(site: &Site<'_>, app: &str, pods: usize) -> Result<()> {
    support::await_condition(&format!("{app} to find no node"), DEADLINE, || async {
        let refused = site.of(app).await?;
        let refused = refused.iter().filter(|pod| is_refused(pod)).count();
        ensure!(refused == pods, "{refused} of {pods}");
        Ok(Some(()))
    })
    .await
}

/// What is promised, by UID; `None` if nothing ever was.
async fn promised(site: &Site<'_>) -> Result<Option<BTreeMap<String, String>>> {
    let map = site.maps().get_opt("tensile-promises").await?;
    Ok(map.map(|map| map.data.unwrap_or_default()))
}

/// Every node has 1.2 of its 4 CPUs free: 0.8 are the lower cluster's own, two have a pod of ours each.
async fn fragment(site: &Site<'_>) -> Result<()> {
    for node in ["va", "vb"] {
        let client = site.cluster(node).client().await?;
        support::service_account(&client, FILLERS).await?;
        let fillers: Api<Pod> = Api::namespaced(client.clone(), FILLERS);
        for lower in Api::<Node>::all(client).list(&ListParams::default()).await? {
            let name = lower.metadata.name.unwrap_or_default();
            let container = json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": "800m"}}});
            let spec = json!({"nodeName": name, "containers": [container]});
            support::create(&fillers, json!({"metadata": {"name": name}, "spec": spec})).await?;
        }
        let nodes: Api<Node> = Api::all(site.client.clone());
        support::await_condition("the virtual node to show what is left", DEADLINE, || async {
            let status = nodes.get(node).await?.status.unwrap_or_default();
            let shown = status.allocatable.unwrap_or_default();
            let shown = shown.get("cpu").map(|cpu| cpu.0.clone()).unwrap_or_default();
            let wanted = format!("{}m", NODES * (4000 - 800));
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
    site.deploy("movable", MOVABLE, site.mk_template("movable", "1")?)
        .await?;
    site.running("movable", &[("va", MOVABLE / 2), ("vb", MOVABLE / 2)])
        .await?;
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
