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

use crate::{DEADLINE, NODE_MILLI_CPU, NODES, Site, node_of, on_site, refusal};

const REPLICAS: usize = 12;
const SHARES: &str =
    r#"{"key":"clusterID","strategy":"Balance","shares":{"a":{"replicas":8},"b":{"replicas":4}}}"#;

#[test]
fn replicas_are_shared_out_as_the_split_says_and_a_full_cluster_hands_its_share_over() -> TestResult {
    on_site(async |site, extender| {
        let extender = extender.as_ref().context("no extender")?;
        let fill =
            r#"{"key":"clusterID","strategy":"Fill","shares":{"b":{"replicas":3},"c":{"replicas":9}}}"#;
        let weights = r#"{"key":"clusterID","strategy":"Weighted","shares":{"a":{"weight":1,"max":2},"b":{"weight":9,"max":3},"c":{"weight":3,"min":4}}}"#;
        for (name, split, only, expected) in [
            ("balanced", SHARES, "", vec![("a", 8), ("b", 4)]),
            ("filled", fill, "", vec![("b", 3), ("c", 9)]),
            ("weighted", weights, "", vec![("a", 2), ("b", 3), ("c", 7)]),
            // Cluster a cannot take its share: the pods select the nodes of b.
            ("selected", SHARES, "b", vec![("b", REPLICAS)]),
        ] {
            let counts = replicas(site, name, split, only).await?;
            ensure!(counts == places(&expected), "{name}: {counts:?}");
        }
        explains(site, extender).await?;

        let full: Vec<(&str, String)> = (0..NODES).map(|index| ("b", site.node("b", index))).collect();
        site.fill(extender, &full, NODE_MILLI_CPU).await?;
        let counts = replicas(site, "handed-over", SHARES, "").await?;
        ensure!(counts == places(&[("a", REPLICAS)]), "{counts:?}");
        let strict = SHARES.replacen('{', r#"{"strict":true,"#, 1);
        let counts = replicas(site, "strict", &strict, "").await?;
        ensure!(counts == places(&[("", 4), ("a", 8)]), "{counts:?}");
        Ok(())
    })
}

/// A pod's explanation says what its split wants.
async fn explains(site: &Site<'_>, extender: &Extender) -> Result<()> {
    let mut pod = site.mk_pod("explained", 100)?;
    let owner =
        json!({"apiVersion": "v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true});
    pod["metadata"]["annotations"] = json!({names::SPLIT: SHARES});
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

fn places(counts: &[(&str, usize)]) -> BTreeMap<String, usize> {
    counts
        .iter()
        .map(|(place, count)| ((*place).to_owned(), *count))
        .collect()
}

/// Runs replicas with this split, which may go to `only` if that is not empty; counts them by virtual node, those that
/// are refused under no name.
async fn replicas(site: &Site<'_>, name: &str, split: &str, only: &str) -> Result<BTreeMap<String, usize>> {
    let mut pod = site.mk_pod(name, 100)?;
    pod["metadata"] = json!({"labels": {"app": name}, "annotations": {names::SPLIT: split}});
    if !only.is_empty() {
        pod["spec"]["nodeSelector"] = json!({"clusterID": only});
    }
    let sets: Api<ReplicaSet> = Api::namespaced(site.upper.clone(), &site.namespace);
    let spec = json!({"replicas": REPLICAS, "selector": {"matchLabels": {"app": name}}, "template": pod});
    support::create(&sets, json!({"metadata": {"name": name}, "spec": spec})).await?;
    let of_set = ListParams::default().labels(&format!("app={name}"));
    let counts = support::await_condition("all replicas to be placed or refused", DEADLINE, || async {
        let pods = site.pods().list(&of_set).await?.items;
        let mut counts = BTreeMap::new();
        for pod in &pods {
            // An error is no refusal: the pod is tried again at once.
            let refused = refusal(pod).filter(|why| why.contains("no unmet share has room"));
            let place = node_of(pod).or(refused.is_some().then_some(""));
            *counts.entry(place.unwrap_or("undecided").to_owned()).or_default() += 1;
        }
        let decided = pods.len() == REPLICAS && !counts.contains_key("undecided");
        ensure!(decided, "{counts:?}");
        Ok(Some(counts))
    })
    .await?;
    sets.delete(name, &DeleteParams::background()).await?;
    Ok(counts)
}
