//! How long kube-scheduler takes to place the same pods, with the extender and without.
//!
//! The pods wait while the scheduler is stopped, so that nothing but its work is measured: from the first pod that is
//! bound to the last one.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use e2e::measure::{Line, PodWatch, Report, Samples};
use serde_json::Value;

use crate::ground::{DEADLINE, Ground, NAMESPACE, Place, Upper, clear, create, mk_pod};

/// The most that placing may take longer: a throughput of 0.8 of what it is without.
const GOAL: f64 = 1.25;
const SCHEDULER: &str = "kube-scheduler";

pub(crate) async fn measure(ground: &Ground, count: usize, rounds: usize, report: &mut Report) -> Result<()> {
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        for (upper, took) in ground.uppers().into_iter().zip([&mut without, &mut with]) {
            eprintln!("{count} pods {}, round {round} of {rounds}", upper.what);
            took.push(place(upper, count).await?);
        }
    }
    let (without, with) = (Samples::millis(without).median(), Samples::millis(with).median());
    let rate = |millis: f64| count as f64 * 1_000.0 / millis;
    report.lines.push(
        Line::new(
            format!("placing {count} pods, time with the extender by time without"),
            with / without,
            "×",
            format!(
                "medians of {rounds}: {:.0} pods a second with it, {:.0} without; throughput {:.2} × (goal 0.8)",
                rate(with),
                rate(without),
                without / with
            ),
        )
        .at_most(GOAL),
    );
    Ok(())
}

/// Lets the scheduler place pods; gives the time from the first to the last.
async fn place(upper: &Upper, count: usize) -> Result<Duration> {
    let client = upper.cluster.client().await?;
    upper.cluster.stop_component(SCHEDULER).await?;
    let all: Result<Vec<Value>> = (0..count)
        .map(|index| {
            let mut pod = mk_pod(&format!("pod-{index}"), 10, Place::Simulated)?;
            pod["metadata"]["labels"]["app"] = format!("app-{}", index % 10).into();
            Ok(pod)
        })
        .collect();
    create(&client, all?).await?;
    let watch = PodWatch::start(client.clone(), NAMESPACE).await?;
    upper.cluster.start_component(SCHEDULER).await?;
    // The simulated nodes run every pod that is bound.
    watch
        .until(
            "all pods to be placed",
            DEADLINE,
            |now| now.running >= count,
            |_| {},
        )
        .await?;
    let bound: Vec<Instant> = watch.seen().into_values().filter_map(|seen| seen.bound).collect();
    let (first, last) = (bound.iter().min(), bound.iter().max());
    let took = first.zip(last).map(|(first, last)| *last - *first);
    drop(watch);
    clear(&client).await?;
    took.context("no pod was bound")
}
