//! The replicas of one owner are shared out among clusters as its pods' annotation says.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use e2e::extender::Extender;
use e2e::{TestResult, support};
use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use serde_json::json;
use tensile_core::names;

use crate::{DEADLINE, Site, node_of, on_site};

#[test]
#[ignore = "open: a real scheduler put all twelve replicas into the first cluster; see docs/limits.md"]
fn replicas_are_shared_out_as_the_split_says_and_a_full_cluster_hands_its_share_over() -> TestResult {
    on_site(async |site, extender| {
        let shares =
            r#"{"key":"clusterID","strategy":"Balance","shares":{"a":{"replicas":8},"b":{"replicas":4}}}"#;
        let counts = replicas(site, "balanced", shares, "").await?;
        ensure!(counts == [("a", 8), ("b", 4)].map(owned).into(), "{counts:?}");
        let weights = r#"{"key":"clusterID","strategy":"Weighted","shares":{"a":{"weight":1,"max":2},"c":{"weight":3}}}"#;
        let counts = replicas(site, "weighted", weights, "").await?;
        ensure!(counts == [("a", 2), ("c", 10)].map(owned).into(), "{counts:?}");
        // Cluster a cannot take its share: the pods select the nodes of b.
        let counts = replicas(site, "handed-over", shares, "b").await?;
        ensure!(counts == [("b", 12)].map(owned).into(), "{counts:?}");
        explains(site, extender.as_ref().context("no extender")?, shares).await
    })
}

/// A pod's explanation says what its split wants.
async fn explains(site: &Site<'_>, extender: &Extender, split: &str) -> Result<()> {
    let mut pod = site.mk_pod("explained", 100)?;
    let owner =
        json!({"apiVersion": "v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true});
    pod["metadata"]["annotations"] = json!({names::SPLIT: split});
    pod["metadata"]["ownerReferences"] = json!([owner]);
    pod["spec"]["schedulerName"] = json!("nobody");
    site.create(vec![pod]).await?;
    let told = extender
        .page(&format!("/explain?pod={}/explained", site.namespace))
        .await?;
    let expected = "split: goes to a, the next share: a 0/8, b 0/4";
    ensure!(told["b"]["split"] == expected, "{told}");
    Ok(())
}

fn owned((cluster, count): (&str, usize)) -> (String, usize) {
    (cluster.to_owned(), count)
}

/// Runs twelve replicas with this split, which may go to `only` if that is not empty; counts them by virtual node.
async fn replicas(site: &Site<'_>, name: &str, split: &str, only: &str) -> Result<BTreeMap<String, usize>> {
    let mut pod = site.mk_pod(name, 100)?;
    pod["metadata"] = json!({"labels": {"app": name}, "annotations": {names::SPLIT: split}});
    if !only.is_empty() {
        pod["spec"]["nodeSelector"] = json!({"clusterID": only});
    }
    let sets: Api<ReplicaSet> = Api::namespaced(site.upper.clone(), &site.namespace);
    let spec = json!({"replicas": 12, "selector": {"matchLabels": {"app": name}}, "template": pod});
    support::create(&sets, json!({"metadata": {"name": name}, "spec": spec})).await?;
    let of_set = ListParams::default().labels(&format!("app={name}"));
    let counts = support::await_condition("all replicas to be bound", DEADLINE, || async {
        let pods = site.pods().list(&of_set).await?.items;
        let mut counts = BTreeMap::new();
        for node in pods.iter().filter_map(node_of) {
            *counts.entry(node.to_owned()).or_default() += 1;
        }
        ensure!(counts.values().sum::<usize>() == 12, "{counts:?}");
        Ok(Some(counts))
    })
    .await?;
    sets.delete(name, &DeleteParams::background()).await?;
    Ok(counts)
}
