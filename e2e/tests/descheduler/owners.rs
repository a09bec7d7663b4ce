//! Many owners with many replicas, all stuck at once: every replica moves once, none is lost and none is one too many.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use e2e::{TestResult, support};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;

use crate::fleet::{DEADLINE, Site, node_of, on_site, uid_of};

/// Owners and replicas of each; `TENSILE_DESCHEDULER_OWNERS=50` is the long form, with 10 replicas each.
const OWNERS: usize = 10;
const REPLICAS: usize = 5;
const MANY: usize = 50;

const POLICY: &str = "
apiVersion: descheduler/v1alpha2
kind: DeschedulerPolicy
maxNoOfPodsToEvictTotal: 500
profiles:
- name: live
  pluginConfig:
  - name: UnschedulableBelow
    args: {thresholdSeconds: 1}
";

fn sizes() -> (usize, usize) {
    let owners = std::env::var("TENSILE_DESCHEDULER_OWNERS");
    let owners = owners
        .ok()
        .and_then(|owners| owners.parse().ok())
        .unwrap_or(OWNERS);
    (owners, if owners >= MANY { 10 } else { REPLICAS })
}

#[test]
fn of_many_owners_no_replica_is_lost_or_one_too_many() -> TestResult {
    on_site(async |site| {
        let (owners, replicas) = sizes();
        let all = owners * replicas;
        let deadline = DEADLINE * (1 + u32::try_from(all / 100)?);
        site.cordon("vb", true).await?;
        // There is no lower scheduler while pods come, and the next one finds all nodes cordoned.
        site.cluster("va").stop_component("kube-scheduler").await?;
        for owner in 0..owners {
            let app = format!("owner-{owner}");
            let template = site.mk_template(&app, "20m")?;
            site.deploy(&app, replicas, template).await?;
        }
        let below = site.below("va").await?;
        support::await_condition("all lower pods to be there", deadline, || async {
            let found = below.list(&ListParams::default()).await?.items.len();
            ensure!(found == all, "{found} of {all}");
            Ok(Some(()))
        })
        .await?;
        let before = by_owner(site).await?;
        site.cordon_below("va", true).await?;
        site.cluster("va").start_component("kube-scheduler").await?;
        site.cordon("vb", false).await?;

        let first = site.descheduler(POLICY, &[])?;
        support::await_condition("some to be moved", DEADLINE, || async {
            let after = by_owner(site).await?;
            Ok(after
                .values()
                .flatten()
                .any(|pod| node_of(pod) == "vb")
                .then_some(()))
        })
        .await?;
        site.kill(first).await?;
        let second = site.descheduler(POLICY, &[])?;
        let after = support::await_condition("all to run in the other cluster", deadline, || async {
            second.component.check_running()?;
            let after = by_owner(site).await?;
            let running = after
                .values()
                .flatten()
                .filter(|pod| node_of(pod) == "vb" && support::is_ready(pod));
            let running = running.count();
            ensure!(running == all, "{running} of {all}");
            Ok(Some(after))
        })
        .await?;
        for (owner, pods) in &after {
            ensure!(pods.len() == replicas, "{owner} has {} pods", pods.len());
            for pod in pods {
                let uid = uid_of(pod)?;
                let known = before.get(owner).context("a new owner")?;
                ensure!(
                    known.iter().all(|old| uid_of(old).ok() != Some(uid)),
                    "{uid} never moved"
                );
            }
        }
        let below = site.below("vb").await?.list(&ListParams::default()).await?.items;
        ensure!(below.len() == all, "{} pods below for {all}", below.len());
        site.end(second).await
    })
}

/// The pods that stay, by owner.
async fn by_owner(site: &Site<'_>) -> Result<BTreeMap<String, Vec<Pod>>> {
    let mut by_owner: BTreeMap<String, Vec<Pod>> = BTreeMap::new();
    for pod in site.pods().list(&ListParams::default()).await? {
        if pod.metadata.deletion_timestamp.is_none() {
            let app = pod.metadata.labels.as_ref().and_then(|labels| labels.get("app"));
            by_owner
                .entry(app.context("no label")?.clone())
                .or_default()
                .push(pod);
        }
    }
    Ok(by_owner)
}
