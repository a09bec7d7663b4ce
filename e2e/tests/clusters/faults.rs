//! What breaks between the clusters, and what must not come of it: pods that are lost, doubled or started again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::{Fault, FaultProxy, TestResult, support};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{DeleteParams, ListParams};
use serde_json::Value;

use crate::{DEADLINE, Site, condition, kubeconfig, mk_pod, on_site};

/// Rounds of the burst, and pods of each; `TENSILE_FAULT_ROUNDS` asks for more.
const ROUNDS: usize = 3;
const BURST: usize = 40;
/// The goal: time from the end of a fault until both sides agree.
const CONVERGENCE: Duration = Duration::from_secs(30);

async fn list(site: &Site, client: &Client) -> Result<Vec<Value>> {
    let pods = site.pods(client).list(&ListParams::default()).await?.items;
    pods.iter()
        .map(|pod: &Pod| Ok(serde_json::to_value(pod)?))
        .collect()
}

fn text<'a>(pod: &'a Value, pointer: &str) -> &'a str {
    pod.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// Waits until exactly the pods that run above run below, each once and never started again.
async fn await_agreement(site: &Site, lower: &Client, count: usize) -> Result<Duration> {
    let started = Instant::now();
    support::await_condition("both sides to agree", DEADLINE, || async {
        let (above, below) = (list(site, &site.upper).await?, list(site, lower).await?);
        ensure!(
            above.len() == count && below.len() == count,
            "{} above, {} below",
            above.len(),
            below.len()
        );
        for pod in &above {
            let of_it = |other: &&Value| {
                text(other, "/metadata/labels/tensile.dev~1origin-uid") == text(pod, "/metadata/uid")
            };
            let copies = below.iter().filter(of_it).count();
            ensure!(
                copies == 1,
                "{copies} lower pods for {}",
                text(pod, "/metadata/name")
            );
            ensure!(
                condition(pod, "Ready")["status"] == "True",
                "{} is not ready",
                text(pod, "/metadata/name")
            );
            ensure!(
                pod["status"]["containerStatuses"][0]["restartCount"] == 0,
                "a container was started again"
            );
        }
        Ok(Some(()))
    })
    .await?;
    Ok(started.elapsed())
}

#[test]
fn pods_of_a_silent_cluster_are_not_ready_and_run_on_when_it_is_back() -> TestResult {
    on_site("silent", async |site| {
        let _replica = site.replica(&["--unreachable-grace=5"])?;
        let proxy = FaultProxy::start(site.ground.second.api_server()).await?;
        let through = std::fs::read_to_string(site.ground.second.kubeconfig_through(proxy.address())?)?;
        let second = site.ground.second.client().await?;
        site.secret("silent", &through, "").await?;
        site.secret("spoken", &kubeconfig(&site.ground.first)?, "")
            .await?;
        for (name, node) in [("doubted", "silent"), ("trusted", "spoken")] {
            site.await_ready(node).await?;
            support::create(&site.pods(&site.upper), mk_pod(name, node)).await?;
            site.await_running(&site.upper, name).await?;
        }
        let before = site.uids(&second).await?;
        for fault in [Fault::HalfOpen, Fault::Cut] {
            proxy.set(fault);
            site.await_node("silent", "unreachable", |node| {
                condition(node, "Ready")["reason"] == "LowerClusterUnreachable"
            })
            .await?;
            let doubted = |pod: &Value| condition(pod, "Ready")["reason"] == "LowerClusterUnreachable";
            site.await_pod(&site.upper, "doubted", "not ready", doubted)
                .await?;
            site.await_running(&site.upper, "trusted").await?;
            proxy.set(Fault::None);
            let healed = Instant::now();
            site.await_running(&site.upper, "doubted").await?;
            ensure!(
                healed.elapsed() < CONVERGENCE,
                "{fault:?}: {:?}",
                healed.elapsed()
            );
        }
        ensure!(site.uids(&second).await? == before, "the pod was made again");
        Ok(())
    })
}

#[test]
fn no_pod_is_lost_or_doubled_when_the_process_is_killed_in_a_burst() -> TestResult {
    on_site("burst", async |site| {
        let rounds = std::env::var("TENSILE_FAULT_ROUNDS")
            .ok()
            .and_then(|text| text.parse().ok())
            .unwrap_or(ROUNDS);
        let first = site.ground.first.client().await?;
        let mut replica = site.replica(&[])?;
        site.secret("burst", &kubeconfig(&site.ground.first)?, "").await?;
        site.await_ready("burst").await?;
        let mut slowest = Duration::ZERO;
        for round in 0..rounds {
            let names: Vec<String> = (0..BURST).map(|number| format!("r{round}-{number}")).collect();
            for (number, name) in names.iter().enumerate() {
                support::create(&site.pods(&site.upper), mk_pod(name, "burst")).await?;
                // Another moment in each round.
                if number == (round * 13 + 7) % BURST {
                    replica.component.kill().await?;
                }
            }
            replica = site.replica(&[])?;
            slowest = slowest.max(await_agreement(site, &first, BURST).await?);
            let uids = site.uids(&first).await?;
            for (number, name) in names.iter().enumerate() {
                site.pods(&site.upper)
                    .delete(name, &DeleteParams::default())
                    .await?;
                if number == BURST / 2 {
                    replica.component.kill().await?;
                }
            }
            replica = site.replica(&[])?;
            support::await_condition("all pods to be gone", DEADLINE, || async {
                let left = list(site, &site.upper).await?.len() + list(site, &first).await?.len();
                Ok((left == 0).then_some(()))
            })
            .await
            .with_context(|| format!("round {round}, of {uids:?}"))?;
        }
        eprintln!(
            "burst: {rounds} rounds of {BURST} pods, 0 lost, 0 doubled, 0 restarts, agreed after {slowest:?} at most"
        );
        // The lease of the killed process has to end first: 15 s and up to 3 s more.
        ensure!(slowest < CONVERGENCE, "both sides agreed only after {slowest:?}");
        Ok(())
    })
}
