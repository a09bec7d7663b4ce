//! Victims are taken only where their going makes room below.

use anyhow::{Context, ensure};
use e2e::{TestResult, support};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::Api;
use kube::api::ListParams;
use serde_json::json;

use crate::{DEADLINE, NODES, node_of, on_site};

#[test]
fn a_pod_of_high_priority_takes_the_place_of_one_of_low_priority_below() -> TestResult {
    on_site(async |site, extender| {
        let extender = extender.as_ref().context("no extender")?;
        let classes: Api<PriorityClass> = Api::all(site.upper.clone());
        let class = json!({"metadata": {"name": "high"}, "value": 1000});
        support::create(&classes, class).await?;
        // Cluster a has one free node, of two CPUs; nothing else is free anywhere.
        let full = |cluster| (0..NODES).map(move |index| (cluster, site.node(cluster, index)));
        let fillers: Vec<(&str, String)> = ["a", "b", "c"]
            .into_iter()
            .flat_map(full)
            .filter(|(_, node)| *node != site.node("a", 0))
            .collect();
        site.fill(extender, &fillers, 2_000).await?;
        site.create(vec![site.mk_pod("low-0", 1_000)?, site.mk_pod("low-1", 1_000)?])
            .await?;
        for name in ["low-0", "low-1"] {
            site.running_below(name).await?;
        }
        let mut high = site.mk_pod("high", 1_000)?;
        high["spec"]["priorityClassName"] = json!("high");
        site.create(vec![high]).await?;
        ensure!(site.bound("high").await? == "a", "where the victim was");
        let (_, below) = site.running_below("high").await?;
        ensure!(node_of(&below) == Some(&site.node("a", 0)), "{below:?}");
        let left = support::await_condition("one victim to be gone", DEADLINE, || async {
            let left = site.pods().list(&ListParams::default()).await?.items;
            let low = left.iter().filter(|pod| {
                pod.metadata
                    .name
                    .as_ref()
                    .is_some_and(|name| name.starts_with("low-"))
            });
            Ok(Some(low.count()).filter(|left| *left < 2))
        })
        .await?;
        ensure!(left == 1, "no more victims than needed: {left} are left");
        Ok(())
    })
}
