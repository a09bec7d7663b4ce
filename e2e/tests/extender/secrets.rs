//! Lower clusters from Secrets come and go while the extender runs.

use anyhow::{Context, Result, ensure};
use e2e::{TestResult, support};
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use tensile_core::names;

use crate::{DEADLINE, Site, on_site};

fn secrets(site: &Site<'_>) -> Api<Secret> {
    Api::namespaced(site.upper.clone(), names::SYSTEM_NAMESPACE)
}

/// Makes the Secret of a cluster.
async fn join(site: &Site<'_>, id: &str) -> Result<()> {
    let cluster = site.ground.lower.get(id).context("no such cluster")?;
    let kubeconfig = std::fs::read_to_string(cluster.kubeconfig())?;
    let metadata = json!({"name": id, "labels": {names::CLUSTER: id}});
    let secret = json!({"metadata": metadata, "stringData": {"kubeconfig": kubeconfig}});
    support::create(&secrets(site), secret).await.map(drop)
}

/// A pod that only cluster c may run.
fn mk_pod(site: &Site<'_>, name: &str) -> Result<Value> {
    let mut pod = site.mk_pod(name, 100)?;
    pod["spec"]["nodeSelector"] = json!({"clusterID": "c"});
    Ok(pod)
}

#[test]
fn clusters_of_secrets_come_and_go_while_it_runs() -> TestResult {
    on_site(async |site, extender| {
        for id in ["a", "b"] {
            join(site, id).await?;
        }
        site.start_extender_from(extender, "--clusters-from-secrets", &[], 2)
            .await?;
        let extender = extender.as_ref().context("no extender")?;
        site.create(vec![mk_pod(site, "early")?]).await?;
        let why = site.refused("early").await?;
        ensure!(why.contains("c: no such cluster is configured"), "{why}");

        join(site, "c").await?;
        site.knows(extender, 3).await?;
        site.create(vec![mk_pod(site, "joined")?]).await?;
        ensure!(site.bound("joined").await? == "c", "it fits there alone");
        site.running_below("joined").await?;

        secrets(site).delete("c", &DeleteParams::default()).await?;
        support::await_condition("cluster c to be forgotten", DEADLINE, || async {
            let told = site.explain_any(extender).await?;
            Ok((told["c"]["error"] == "cluster c is not configured").then_some(()))
        })
        .await?;
        site.create(vec![mk_pod(site, "late")?, site.mk_pod("elsewhere", 100)?])
            .await?;
        let why = site.refused("late").await?;
        ensure!(why.contains("c: no such cluster is configured"), "{why}");
        site.bound("elsewhere").await?;
        for id in ["a", "b"] {
            secrets(site).delete(id, &DeleteParams::default()).await?;
        }
        Ok(())
    })
}
