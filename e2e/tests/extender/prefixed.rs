//! A virtual node whose pods are in namespaces of another name below.

use anyhow::{Context, Result, ensure};
use e2e::virtual_node::VirtualNodeSpec;
use e2e::{TestResult, support};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};

use crate::{DEADLINE, Site, node_of, on_site};

/// The virtual node, a second one before cluster c.
const NODE: &str = "prefixed";
const PREFIX: &str = "far";

#[test]
fn neighbours_of_pods_are_looked_for_where_they_are_below() -> TestResult {
    on_site(async |site, _| {
        let flags = ["--cluster-id", "c", "--namespace-prefix", PREFIX];
        let node = VirtualNodeSpec::new(NODE).args(flags);
        let node = node
            .start(
                &site.ground.upper,
                site.ground.lower.get("c").context("no cluster c")?,
            )
            .await?;
        let outcome = neighbours(site).await;
        let cleared = clear(site).await;
        drop(node);
        let nodes: Api<Node> = Api::all(site.upper.clone());
        nodes.delete(NODE, &DeleteParams::default()).await?;
        outcome.and(cleared)
    })
}

/// A pod that wants to be on the node of another one finds it there.
async fn neighbours(site: &Site<'_>) -> Result<()> {
    let mut first = mk_pod(site, "first")?;
    first["metadata"]["labels"] = json!({"app": "first"});
    site.create(vec![first]).await?;
    let first = running(site, "first").await?;

    let mut second = mk_pod(site, "second")?;
    let near =
        json!({"topologyKey": "kubernetes.io/hostname", "labelSelector": {"matchLabels": {"app": "first"}}});
    second["spec"]["affinity"] =
        json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [near]}});
    site.create(vec![second]).await?;
    ensure!(site.bound("second").await? == NODE);
    let second = running(site, "second").await?;
    ensure!(first == second, "{second} is not {first}");
    Ok(())
}

/// A pod for this virtual node alone.
fn mk_pod(site: &Site<'_>, name: &str) -> Result<Value> {
    let mut pod = site.mk_pod(name, 100)?;
    pod["spec"]["nodeSelector"] = json!({"kubernetes.io/hostname": NODE});
    Ok(pod)
}

/// The namespace of the pods below.
fn below(site: &Site<'_>) -> String {
    format!("{PREFIX}-{}", site.namespace)
}

/// Waits until the pod runs below; gives back the lower node.
async fn running(site: &Site<'_>, name: &str) -> Result<String> {
    let pod = support::pod_running(&site.below("c").await?, &below(site), name, DEADLINE).await?;
    node_of(&pod).map(str::to_owned).context("it runs nowhere")
}

/// Deletes the pods while their virtual node can still do its part.
async fn clear(site: &Site<'_>) -> Result<()> {
    let all = ListParams::default();
    site.pods()
        .delete_collection(&DeleteParams::default(), &all)
        .await?;
    let pods = Api::namespaced(site.below("c").await?, &below(site));
    support::pods_gone(&pods, &all, DEADLINE).await
}
