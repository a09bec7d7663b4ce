//! Replicas that share clusters, and one of them dies.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::{TestResult, support};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use serde_json::json;

use crate::{DEADLINE, Replica, Site, kubeconfig, mk_pod, on_site};

/// The goal of design and documentation.
const TAKEOVER: Duration = Duration::from_secs(20);

pub(crate) async fn holder(site: &Site, id: &str) -> Result<String> {
    let leases: Api<Lease> = Api::namespaced(site.upper.clone(), &site.system);
    support::await_condition("a holder of the lease", DEADLINE, || async {
        let lease = leases.get_opt(&format!("tensile-{id}")).await?;
        Ok(lease
            .and_then(|lease| lease.spec?.holder_identity)
            .filter(|holder| !holder.is_empty()))
    })
    .await
}

pub(crate) fn leads(replica: &Replica, holder: &str) -> bool {
    holder.contains(&format!("_{}_", replica.component.pid()))
}

#[test]
fn a_killed_replica_is_replaced_in_time_and_nothing_is_done_twice() -> TestResult {
    on_site("ha", async |site| {
        let first = site.ground.first.client().await?;
        let replicas = [site.replica(&[])?, site.replica(&[])?];
        site.secret("ha", &kubeconfig(&site.ground.first)?, "").await?;
        let before = site.await_ready("ha").await?;
        for number in 0..10 {
            support::create(&site.pods(&site.upper), mk_pod(&format!("kept-{number}"), "ha")).await?;
        }
        for number in 0..10 {
            site.await_running(&site.upper, &format!("kept-{number}")).await?;
        }
        let uids = site.uids(&first).await?;
        let leader = holder(site, "ha").await?;
        let (dead, alive) = if leads(&replicas[0], &leader) {
            (0, 1)
        } else {
            (1, 0)
        };
        ensure!(
            leads(&replicas[dead], &leader),
            "nobody knows the holder {leader}"
        );

        let killed = Instant::now();
        replicas[dead].component.kill().await?;
        // Made, and deleted, while nobody leads.
        support::create(&site.pods(&site.upper), mk_pod("meanwhile", "ha")).await?;
        site.pods(&site.upper)
            .delete("kept-9", &kube::api::DeleteParams::default())
            .await?;
        site.await_running(&site.upper, "meanwhile").await?;
        let took = killed.elapsed();
        eprintln!("takeover until a new pod runs: {took:?}");
        ensure!(took <= TAKEOVER, "takeover took {took:?}");
        ensure!(
            leads(&replicas[alive], &holder(site, "ha").await?),
            "somebody else leads"
        );
        support::pod_gone(&first, &site.namespace, "kept-9", DEADLINE).await?;
        let (address, port) = (
            "/status/addresses/0/address",
            "/status/daemonEndpoints/kubeletEndpoint/Port",
        );
        let differs = |node: &serde_json::Value, what| node.pointer(what) != before.pointer(what);
        site.await_node("ha", "with address and port of the new leader", |node| {
            differs(node, address) && differs(node, port)
        })
        .await?;
        site.ground.first.add_kwok_log("said below")?;
        let logs = ["logs", "--namespace", &site.namespace, "kept-0"];
        let said = site.ground.upper.kubectl(&logs).await?.ok()?;
        ensure!(said.contains("said below"), "kubectl logs: {said:?}");

        let after = site.uids(&first).await?;
        for kept in uids.iter().filter(|(name, _)| name != "kept-9") {
            ensure!(after.contains(kept), "{kept:?} was started again: {after:?}");
        }
        let creations = creations(site)?;
        ensure!(creations == 11, "11 pods were created {creations} times");
        Ok(())
    })
}

/// How often the first lower cluster was asked to make a pod in this test's namespace, by its audit log.
pub(crate) fn creations(site: &Site) -> Result<usize> {
    let text = std::fs::read_to_string(site.ground.first.audit_log()).context("no audit log")?;
    let is_creation = |line: &&str| {
        let Ok(entry) = serde_json::from_str::<serde_json::Value>(line) else {
            return false;
        };
        entry["verb"] == "create"
            && entry["objectRef"]["resource"] == "pods"
            && entry["objectRef"]["subresource"].is_null()
            && entry["objectRef"]["namespace"] == json!(site.namespace)
            && entry["stage"] == "ResponseComplete"
    };
    Ok(text.lines().filter(is_creation).count())
}
