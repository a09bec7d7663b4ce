//! Three clusters of twenty nodes of which seven tenths are in use, and twenty big pods that fit nowhere: all of them run in
//! the end, with not many more evictions than a perfect packing would need. It takes minutes, so that CI does not run it.

#[path = "../../../crates/descheduler/tests/support/bound.rs"]
mod bound;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, ensure};
use bound::{Random, fewest, mk_nodes};
use e2e::{TestResult, support};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};

use crate::fleet::{Site, on_wide_site};
use crate::room::refused;

/// Says that the test is to be made; its value is the start of the random numbers.
const VARIABLE: &str = "TENSILE_DESCHEDULER_PACKING";
/// What the pods that wait ask for, in thousandths of a CPU.
const SIZE_VARIABLE: &str = "TENSILE_DESCHEDULER_PACKING_CPU";
/// Nodes of each cluster.
const NODES: usize = 20;
/// Pods that wait.
const BIG: usize = 20;
/// What they ask for if nobody says otherwise, in thousandths of a CPU.
const BIG_MILLI_CPU: u64 = 3000;
/// Requests at a time.
const PARALLEL: usize = 8;
/// Time for some hundred pods on two processors.
const LONG: Duration = Duration::from_secs(300);

const POLICY: &str = "
apiVersion: descheduler/v1alpha2
kind: DeschedulerPolicy
profiles:
- name: live
  pluginConfig:
  - name: MakeRoom
    args: {thresholdSeconds: 1, maxVictims: 5}
  plugins:
    balance: {enabled: [MakeRoom]}
";

#[test]
fn twenty_big_pods_get_room_with_not_many_more_evictions_than_a_perfect_packing_needs() -> TestResult {
    let Ok(seed) = std::env::var(VARIABLE) else {
        println!("not made without {VARIABLE}");
        return Ok(());
    };
    let seed = seed.parse()?;
    on_wide_site(NODES, async |site| {
        let size = size()?;
        let small = fill(site, seed, size).await?;
        let layout = layout(site).await?;
        let least = fewest(&layout, size, BIG);
        site.deploy("big", BIG, site.mk_template("big", &format!("{size}m"))?)
            .await?;
        refused(site, "big", BIG).await?;
        let descheduler = site.descheduler(POLICY, &[])?;
        let all_run = support::await_condition("all to run", LONG, || async {
            descheduler.component.check_running()?;
            let (big, others) = (running(site, "big").await?, running(site, "small").await?);
            ensure!(
                big == BIG && others == small,
                "{big} of {BIG} big, {others} of {small} others, {} evictions",
                descheduler.evictions().await?
            );
            Ok(Some(()))
        })
        .await;
        let evictions = descheduler.evictions().await?;
        println!("seed {seed}: {evictions} evictions for {BIG} pods among {small}, {least} at least");
        all_run?;
        ensure!(
            evictions * 10 <= least * most_tenths(size),
            "{evictions} evictions, {least} at least"
        );
        site.end(descheduler).await
    })
}

fn size() -> Result<u64> {
    let given = std::env::var(SIZE_VARIABLE).ok();
    Ok(given.map_or(Ok(BIG_MILLI_CPU), |size| size.parse())?)
}

/// Evictions that are allowed, in tenths of the least. That bound does not ask where the evicted pods go: with pods of 3 CPUs more
/// than nine tenths of everything are in use in the end, and they fill nodes from which fewer would have had to go.
fn most_tenths(size: u64) -> usize {
    if size < BIG_MILLI_CPU { 11 } else { 14 }
}

async fn running(site: &Site<'_>, app: &str) -> Result<usize> {
    Ok(site
        .of(app)
        .await?
        .iter()
        .filter(|pod| support::is_ready(pod))
        .count())
}

/// Puts pods on all nodes, each with an owner of its own that makes it again anywhere; says how many. The first ones are
/// bound to their virtual nodes, and hinted to their nodes.
async fn fill(site: &Site<'_>, seed: u64, size: u64) -> Result<usize> {
    let virtual_nodes: Vec<&str> = site.virtual_nodes().collect();
    let nodes = mk_nodes(&mut Random(seed), virtual_nodes.len() * NODES, size);
    let mut lower = Vec::new();
    for virtual_node in virtual_nodes {
        let nodes: Api<Node> = Api::all(site.cluster(virtual_node).client().await?);
        let nodes = nodes.list(&ListParams::default()).await?.items.into_iter();
        lower.extend(nodes.filter_map(|node| Some((virtual_node, node.metadata.name?))));
    }
    ensure!(lower.len() == nodes.len(), "{} nodes", lower.len());
    let pods = lower
        .iter()
        .zip(&nodes)
        .flat_map(|(place, pods)| pods.iter().map(move |cpu| (place, *cpu)));
    let small = pods.clone().count();
    let made = pods
        .enumerate()
        .map(|(index, (place, cpu))| mk_pod(site, index, place, cpu));
    let templates: Vec<(String, Value)> = stream::iter(made)
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await?;
    support::await_condition("the small pods to run", LONG, || async {
        let running = running(site, "small").await?;
        ensure!(running == small, "{running} of {small}");
        Ok(Some(()))
    })
    .await?;
    let adopted = templates
        .into_iter()
        .map(|(name, template)| adopt(site, name, template));
    stream::iter(adopted)
        .buffer_unordered(PARALLEL)
        .try_collect::<Vec<()>>()
        .await?;
    support::await_condition("all to have an owner", LONG, || async {
        let pods = site.of("small").await?;
        let owned = pods
            .iter()
            .filter(|pod| pod.metadata.owner_references.is_some())
            .count();
        ensure!(
            owned == small && pods.len() == small,
            "{owned} of {}, not {small}",
            pods.len()
        );
        Ok(Some(()))
    })
    .await?;
    Ok(small)
}

/// Makes a pod that nobody owns yet; gives the name of its owner to be, and the template for it.
async fn mk_pod(
    site: &Site<'_>,
    index: usize,
    (virtual_node, lower): &(&str, String),
    milli_cpu: u64,
) -> Result<(String, Value)> {
    let name = format!("small-{index}");
    let mut template = site.mk_template("small", &format!("{milli_cpu}m"))?;
    template["metadata"]["labels"]["owner"] = json!(name);
    let mut pod = template.clone();
    pod["metadata"]["name"] = json!(format!("{name}-first"));
    pod["metadata"]["annotations"] = json!({"tensile.dev/placement-hint": lower});
    pod["spec"]["nodeName"] = json!(virtual_node);
    support::create(&site.pods(), pod).await?;
    Ok((name, template))
}

/// Makes the owner, which takes the pod that is there for its own.
async fn adopt(site: &Site<'_>, name: String, template: Value) -> Result<()> {
    let spec = json!({"replicas": 1, "selector": {"matchLabels": {"owner": name}}, "template": template});
    support::create(&site.sets(), json!({"metadata": {"name": name}, "spec": spec})).await?;
    Ok(())
}

/// The requests of the pods of each node that has any, as they are.
async fn layout(site: &Site<'_>) -> Result<Vec<Vec<u64>>> {
    let mut nodes: BTreeMap<(&str, String), Vec<u64>> = BTreeMap::new();
    for virtual_node in site.virtual_nodes() {
        for pod in site
            .below(virtual_node)
            .await?
            .list(&ListParams::default())
            .await?
        {
            let pod: Value = serde_json::to_value::<Pod>(pod)?;
            let node = pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned();
            let cpu = pod["spec"]["containers"][0]["resources"]["requests"]["cpu"].as_str();
            let request = serde_json::from_value(json!({"cpu": cpu}))?;
            let request: tensile_core::resources::Resources = request;
            nodes
                .entry((virtual_node, node))
                .or_default()
                .push(u64::try_from(request.milli_cpu)?);
        }
    }
    Ok(nodes.into_values().collect())
}
