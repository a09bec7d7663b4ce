//! A cluster that does not answer: nothing is placed there, or its virtual node's status decides, as the policy says.

use anyhow::{Result, ensure};
use e2e::{TestResult, support};
use serde_json::{Value, json};

use crate::{DEADLINE, Site, on_site};

/// A pod that may go to cluster `c` only.
fn mk_pod(site: &Site<'_>, name: &str) -> Result<Value> {
    let mut pod = site.mk_pod(name, 100)?;
    pod["spec"]["nodeSelector"] = json!({"clusterID": "c"});
    Ok(pod)
}

#[test]
fn a_dead_cluster_is_left_out_or_trusted_as_the_policy_says() -> TestResult {
    on_site(async |site, extender| {
        let dead = &site.ground.lower["c"];
        dead.stop_component("kube-apiserver").await?;
        site.start_extender_with_dead(extender, &[]).await?;
        site.create(vec![mk_pod(site, "excluded")?, site.mk_pod("elsewhere", 100)?])
            .await?;
        // At first the extender only asks for patience: a cluster that is being listed will be known soon.
        support::await_condition("the dead cluster to be named", DEADLINE, || async {
            let why = site.refused("excluded").await?;
            ensure!(why.contains("c: "), "{why}");
            Ok(Some(()))
        })
        .await?;
        ensure!(
            ["a", "b"].contains(&site.bound("elsewhere").await?.as_str()),
            "a dead cluster disturbs no other"
        );

        site.start_extender_with_dead(extender, &["--unknown=trust-node-status"])
            .await?;
        site.create(vec![mk_pod(site, "trusted")?]).await?;
        ensure!(site.bound("trusted").await? == "c", "its status still shows room");
        dead.start_component("kube-apiserver").await?;
        site.start_extender(extender, &[]).await?;
        site.bound("excluded").await.map(drop)
    })
}
