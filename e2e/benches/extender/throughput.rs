//! How long kube-scheduler takes to place the same pods, with the extender and without.
//!
//! The pods wait while the scheduler is stopped, and nobody runs them, so that nothing but its work is measured: from the
//! first pod that is bound to the last one. That is done twice: with the scheduler's own limit on requests lifted, so
//! that the machine is all that limits it; and as the chart installs it, when bindings that it sends itself are limited
//! too.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use e2e::extender::Extender;
use e2e::measure::{CpuTimes, Line, PodWatch, Report, Samples, Table};
use serde_json::Value;

use crate::Args;
use crate::ground::{DEADLINE, Ground, NAMESPACE, Place, Upper, clear, create, mk_pod};

/// The most that placing may take longer: a throughput of 0.8 of what it is without.
const GOAL: f64 = 1.25;
const SCHEDULER: &str = "kube-scheduler";
/// Its configuration, in the folder of its cluster.
const CONFIGURATION: &str = "scheduler.json";
const EXTENDER: &str = "extender";

/// What placing the pods of a round took.
struct Cost {
    /// From the first pod that was bound to the last one.
    time: Duration,
    /// Processor seconds of all that works on it, from the scheduler's start on.
    cpu: CpuTimes,
}

/// Measures, and adds the figures under the name `what`.
pub(crate) async fn measure(
    ground: &Ground,
    extender: &Extender,
    what: &str,
    args: &Args,
    report: &mut Report,
) -> Result<()> {
    let &Args {
        pods: count, rounds, ..
    } = args;
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for round in 1..=rounds {
        for (upper, costs) in ground.uppers().into_iter().zip([&mut without, &mut with]) {
            eprintln!("{count} pods {}, {what}, round {round} of {rounds}", upper.what);
            costs.push(place(upper, extender, count).await?);
        }
    }
    let title = format!("Processor milliseconds per pod, {what}, medians");
    report.tables.push(table(title, [&without, &with], count));
    let median = |costs: &[Cost]| Samples::millis(costs.iter().map(|cost| cost.time)).median();
    let (without, with) = (median(&without), median(&with));
    let rate = |millis: f64| count as f64 * 1_000.0 / millis;
    report.lines.push(
        Line::new(
            format!("placing {count} pods, {what}, time with the extender by time without"),
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

/// From its next start on, the scheduler allows itself as many requests as by default (50 a second, 100 in a burst): the
/// chart says nothing of it, and the harness lifts the limit.
pub(crate) fn limit_requests(upper: &Upper) -> Result<()> {
    let path = upper.cluster.folder().join(CONFIGURATION);
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    let connection = config["clientConnection"].as_object_mut();
    let connection = connection.context("the scheduler's configuration has no clientConnection")?;
    connection.retain(|field, _| field == "kubeconfig");
    Ok(std::fs::write(path, config.to_string())?)
}

/// Who used how much of the processors, by pod.
fn table(title: String, [without, with]: [&[Cost]; 2], count: usize) -> Table {
    let used = |costs: &[Cost], name: &str| {
        let seconds: Samples = costs.iter().map(|cost| cost.cpu.of(name)).collect();
        format!("{:.2}", seconds.median() * 1_000.0 / count as f64)
    };
    let names = with.first().into_iter().flat_map(|cost| cost.cpu.names());
    let row = |name: &String| vec![name.clone(), used(without, name), used(with, name)];
    Table {
        title,
        header: ["process", "by sums alone", "with the extender"]
            .map(str::to_owned)
            .to_vec(),
        rows: names.map(row).collect(),
    }
}

/// Lets the scheduler place pods.
async fn place(upper: &Upper, extender: &Extender, count: usize) -> Result<Cost> {
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
    let before = cpu(upper, extender)?;
    watch
        .until(
            "all pods to be placed",
            DEADLINE,
            |now| now.bound >= count,
            |_| {},
        )
        .await?;
    let cpu = cpu(upper, extender)?.since(&before);
    let bound: Vec<Instant> = watch.seen().into_values().filter_map(|seen| seen.bound).collect();
    let (first, last) = (bound.iter().min(), bound.iter().max());
    let time = first.zip(last).map(|(first, last)| *last - *first);
    drop(watch);
    clear(&client).await?;
    let time = time.context("no pod was bound")?;
    Ok(Cost { time, cpu })
}

fn cpu(upper: &Upper, extender: &Extender) -> Result<CpuTimes> {
    let mut times = CpuTimes::default();
    // Without the cluster's name, so that both schedulers' rows are the same.
    for component in upper.cluster.pids().into_keys() {
        times.add(&component, &*upper.cluster.process(&component)?)?;
    }
    times.add(EXTENDER, &extender.component)?;
    Ok(times)
}
