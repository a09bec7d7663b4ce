//! Much is free, but in fragments: a pod goes where it fits, or waits until a fragment becomes large enough.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::TestResult;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::DeleteParams;

use crate::{FILLERS, NODES, Site, on_site};

/// The node that is left free, in cluster `b`.
const FREE: usize = 7;
/// A pod that waits is tried again so soon after room was made below.
const REQUEUE_GOAL: Duration = Duration::from_secs(2);
/// How often that is measured; the median counts, since a busy machine has hiccups.
const ROUNDS: usize = 3;

#[test]
fn a_pod_goes_to_the_only_node_of_all_clusters_that_fits_and_others_wait_for_the_next() -> TestResult {
    on_site(async |site, extender| {
        let extender = extender.as_ref().context("no extender")?;
        let everywhere = |cluster| (0..NODES).map(move |index| (cluster, site.node(cluster, index)));
        let fillers: Vec<(&str, String)> = ["a", "b", "c"]
            .into_iter()
            .flat_map(everywhere)
            .filter(|(_, node)| *node != site.node("b", FREE))
            .collect();
        site.fill(extender, &fillers, 1_000).await?;

        site.create(vec![site.mk_pod("fits", 1_500)?]).await?;
        ensure!(
            site.bound("fits").await? == "b",
            "the virtual node of the cluster with room"
        );
        let (_, below) = site.running_below("fits").await?;
        ensure!(crate::node_of(&below) == Some(&site.node("b", FREE)), "{below:?}");

        let mut waits = Vec::new();
        for round in 0..ROUNDS {
            waits.push(requeued(site, round).await?);
        }
        waits.sort();
        println!("tried again after {waits:?}");
        ensure!(waits[ROUNDS / 2] <= REQUEUE_GOAL, "tried again after {waits:?}");
        Ok(())
    })
}

/// Lets a pod wait, makes room for it below, and says how long after that it is bound.
async fn requeued(site: &Site<'_>, round: usize) -> Result<Duration> {
    let name = format!("waits-{round}");
    site.create(vec![site.mk_pod(&name, 1_500)?]).await?;
    let why = site.refused(&name).await?;
    for reason in [
        "a: 0/30 nodes fit: 30 Insufficient cpu",
        "c: 0/30 nodes fit: 30 Insufficient cpu",
    ] {
        ensure!(round > 0 || why.contains(reason), "{why}");
    }
    let cluster = ["a", "c", "b"][round];
    let node = site.node(cluster, round);
    let below: Api<Pod> = Api::namespaced(site.below(cluster).await?, FILLERS);
    let start = Instant::now();
    below
        .delete(
            &format!("filler-{node}"),
            &DeleteParams::default().grace_period(0),
        )
        .await?;
    ensure!(site.bound(&name).await? == cluster, "it goes where room was made");
    Ok(start.elapsed())
}
