//! Shares and spread over clusters that no longer hold: surplus goes to where pods are missing, and no more.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use e2e::TestResult;
use e2e::descheduler::Descheduler;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use tensile_core::names;

use crate::fleet::{Site, on_site, uid_of};

const POLICY: &str = "
apiVersion: descheduler/v1alpha2
kind: DeschedulerPolicy
profiles:
- name: live
  pluginConfig:
  - name: SpreadViolation
    args: {thresholdSeconds: 2}
  plugins:
    balance: {enabled: [SpreadViolation]}
";

#[test]
fn surplus_by_shares_or_spread_over_clusters_moves_to_where_pods_are_missing() -> TestResult {
    on_site(async |site| {
        // Whoever comes while one cluster is away goes to the other.
        site.cordon("vb", true).await?;
        let mut shared = site.mk_template("shared", "100m")?;
        let split =
            r#"{"key":"clusterID","strategy":"Balance","shares":{"va":{"replicas":2},"vb":{"replicas":4}}}"#;
        shared["metadata"]["annotations"] = json!({names::SPLIT: split});
        site.deploy("shared", 6, shared).await?;
        let mut spread = site.mk_template("spread", "100m")?;
        spread["spec"]["topologySpreadConstraints"] = json!([{
            "maxSkew": 1, "topologyKey": "clusterID", "whenUnsatisfiable": "DoNotSchedule",
            "nodeTaintsPolicy": "Honor", "labelSelector": {"matchLabels": {"app": "spread"}},
        }]);
        site.deploy("spread", 4, spread).await?;
        let before = [
            site.running("shared", &[("va", 6)]).await?,
            site.running("spread", &[("va", 4)]).await?,
        ];
        let descheduler = site.descheduler(POLICY, &[])?;
        let first = descheduler.report_after(0).await?;
        let time = first["time"].as_u64().unwrap_or_default();
        let alone = descheduler.report_after(time + 2).await?;
        ensure!(alone["moves"] == json!([]), "there is nowhere to go to: {alone}");

        site.cordon("vb", false).await?;
        let after = [
            site.running("shared", &[("va", 2), ("vb", 4)]).await?,
            site.running("spread", &[("va", 2), ("vb", 2)]).await?,
        ];
        let moved = [moved(&before[0], &after[0])?, moved(&before[1], &after[1])?];
        ensure!(moved == [4, 2], "so many pods moved: {moved:?}");
        stays(site, &descheduler, &after).await?;
        site.end(descheduler).await
    })
}

/// What holds is left alone.
async fn stays(site: &Site<'_>, descheduler: &Descheduler, after: &[Vec<Pod>; 2]) -> Result<()> {
    let report: Value = descheduler.report().await?;
    // Pods that have just come are waited for; then there are rounds that judge all of them.
    let time = report["time"].as_u64().unwrap_or_default();
    let later = descheduler.report_after(time + 4).await?;
    ensure!(later["moves"] == json!([]), "{later}");
    for (app, after) in ["shared", "spread"].into_iter().zip(after) {
        ensure!(moved(after, &site.of(app).await?)? == 0, "{app} went on moving");
    }
    Ok(())
}

/// How many pods are new.
fn moved(before: &[Pod], after: &[Pod]) -> Result<usize> {
    let uids = |pods: &[Pod]| -> Result<BTreeSet<String>> {
        pods.iter().map(|pod| Ok(uid_of(pod)?.to_owned())).collect()
    };
    Ok(uids(after)?.difference(&uids(before)?).count())
}
