//! Nodes that an owner avoids, without a webhook that would tell its pods.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use e2e::extender::Extender;
use e2e::{TestResult, support};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use tensile_core::{avoidance, names};

use crate::{DEADLINE, on_site};

#[test]
fn pods_stay_off_the_nodes_that_their_owner_avoids() -> TestResult {
    on_site(async |site, extender| {
        let extender = extender.as_ref().context("no extender")?;
        let owners: Api<ConfigMap> = Api::namespaced(site.upper.clone(), &site.namespace);
        let owner = support::create(&owners, json!({"metadata": {"name": "owner"}})).await?;
        let uid = owner.metadata.uid.context("an owner without UID")?;
        let mk_pod = |name: &str| {
            let mut pod = site.mk_pod(name, 100)?;
            let owner = json!({"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": uid, "controller": true});
            pod["metadata"]["ownerReferences"] = json!([owner]);
            anyhow::Ok(pod)
        };
        let maps: Api<ConfigMap> = Api::namespaced(site.upper.clone(), names::SYSTEM_NAMESPACE);
        support::create(&maps, json!({"metadata": {"name": avoidance::CONFIG_MAP}})).await?;

        avoid(&maps, &uid, &["a", "b"]).await?;
        heard(extender, &mk_pod("any")?, &["a", "b"]).await?;
        site.create(vec![mk_pod("elsewhere")?]).await?;
        let node = site.bound("elsewhere").await?;
        ensure!(node == "c", "{node}");

        avoid(&maps, &uid, &["a", "b", "c"]).await?;
        heard(extender, &mk_pod("any")?, &["a", "b", "c"]).await?;
        site.create(vec![mk_pod("nowhere")?]).await?;
        let why = site.refused("nowhere").await?;
        ensure!(
            why.contains("c: pods of its owner avoid the node for some time"),
            "{why}"
        );
        maps.delete(avoidance::CONFIG_MAP, &DeleteParams::default())
            .await?;
        Ok(())
    })
}

/// Lets the pods of the owner avoid these nodes.
async fn avoid(maps: &Api<ConfigMap>, owner: &str, nodes: &[&str]) -> Result<()> {
    let ends: BTreeMap<&str, u64> = nodes.iter().map(|node| (*node, u64::MAX)).collect();
    let data = json!({"data": {owner: serde_json::to_string(&ends)?}});
    let params = PatchParams::default();
    maps.patch(avoidance::CONFIG_MAP, &params, &Patch::Merge(data))
        .await?;
    Ok(())
}

/// Waits until the extender has heard that these nodes are avoided.
async fn heard(extender: &Extender, pod: &Value, nodes: &[&str]) -> Result<()> {
    support::await_condition("the extender to hear of it", DEADLINE, || async {
        let (_, told) = extender.post("/explain", "", &pod.to_string()).await?;
        let told: Value = serde_json::from_str(&told)?;
        let off = nodes.iter().filter(|node| !told[**node]["error"].is_null());
        ensure!(off.count() == nodes.len(), "{told}");
        Ok(Some(()))
    })
    .await
}
