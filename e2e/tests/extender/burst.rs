//! More pods than there is room for, all at once, and the extender dies in the middle.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::extender::Extender;
use e2e::{TestResult, support};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use serde_json::Value;

use crate::{Site, node_of, on_site, refusal};

const PODS: usize = 1_000;
const ROOM: usize = 700;
const MILLI_CPU: usize = 250;
/// Pods that are bound when the extender is killed.
const RESTART_AT: usize = 200;
/// One promise in so many may be missed by the lower scheduler, which has preferences of its own.
const RARELY: usize = 10;
const DEADLINE: Duration = Duration::from_secs(240);

#[test]
fn a_burst_fills_the_room_exactly_and_parks_nothing_though_the_extender_restarts() -> TestResult {
    on_site(async |site, extender| {
        // 90 nodes hold eight such pods each, 720; twenty places are taken.
        let fillers: Vec<(&str, String)> = (0..20).map(|index| ("c", site.node("c", index))).collect();
        site.fill(extender.as_ref().context("no extender")?, &fillers, MILLI_CPU)
            .await?;
        let pods: Result<Vec<Value>> = (0..PODS)
            .map(|index| site.mk_pod(&format!("burst-{index}"), MILLI_CPU))
            .collect();
        let restart = async {
            wait_for_bound(site, |bound| bound >= RESTART_AT).await?;
            if let Some(running) = extender.as_ref() {
                running.component.kill().await?;
            }
            site.start_extender(extender, &[]).await
        };
        tokio::try_join!(site.create(pods?), restart)?;

        support::await_condition("every pod to be placed or refused", DEADLINE, || async {
            let pods = burst(site).await?;
            let undecided = pods
                .iter()
                .filter(|pod| node_of(pod).is_none() && refusal(pod).is_none())
                .count();
            let running = pods.iter().filter(|pod| phase(pod) == "Running").count();
            ensure!(
                undecided == 0 && running >= ROOM,
                "{running} run, {undecided} are undecided"
            );
            Ok(Some(()))
        })
        .await?;
        let bound = burst(site)
            .await?
            .iter()
            .filter(|pod| node_of(pod).is_some())
            .count();
        ensure!(bound == ROOM, "{bound} are bound");
        for cluster in ["a", "b", "c"] {
            let below: Api<Pod> = Api::namespaced(site.below(cluster).await?, &site.namespace);
            let parked = below.list(&ListParams::default()).await?;
            let parked = parked.iter().filter(|pod| phase(pod) != "Running").count();
            ensure!(parked == 0, "{parked} pods are parked in {cluster}");
        }
        let extender = extender.as_ref().context("no extender")?;
        let (kept, missed) = (hints(extender, "kept").await?, hints(extender, "missed").await?);
        println!("lower schedulers kept {kept} promises and missed {missed}");
        ensure!(
            kept > 0 && missed * RARELY <= kept,
            "{kept} promises were kept, {missed} missed"
        );
        Ok(())
    })
}

/// How many lower pods took the node that was promised to them, or did not, since the extender started.
async fn hints(extender: &Extender, outcome: &str) -> Result<usize> {
    let metrics = extender.text("/metrics").await?;
    let line = format!("tensile_extender_hints{{outcome=\"{outcome}\"}} ");
    let count = metrics.lines().find_map(|found| found.strip_prefix(&line));
    Ok(count.context("no such metric")?.parse()?)
}

async fn wait_for_bound(site: &Site<'_>, enough: impl Fn(usize) -> bool) -> Result<()> {
    support::await_condition("pods to be bound", DEADLINE, || async {
        let bound = burst(site)
            .await?
            .iter()
            .filter(|pod| node_of(pod).is_some())
            .count();
        Ok(enough(bound).then_some(()))
    })
    .await
}

async fn burst(site: &Site<'_>) -> Result<Vec<Pod>> {
    let pods = site.pods().list(&ListParams::default()).await?.items;
    let is_burst = |pod: &Pod| {
        pod.metadata
            .name
            .as_ref()
            .is_some_and(|name| name.starts_with("burst-"))
    };
    Ok(pods.into_iter().filter(is_burst).collect())
}

fn phase(pod: &Pod) -> &str {
    let status = pod.status.as_ref();
    status
        .and_then(|status| status.phase.as_deref())
        .unwrap_or_default()
}
