//! A steady stream of status changes: how soon after a change is seen below the virtual node has sent it on.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use e2e::measure::{AuditLog, Line, PodWatch, Report, Samples};
use futures::future::try_join_all;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use tokio::time::MissedTickBehavior;

use crate::args::Args;
use crate::burst::count;
use crate::ground::{Ground, Side, VIRTUAL_NODE, tell};
use crate::load;
use crate::resident::{change_status, millis};

/// Longest time for pods to run, and for changes to arrive.
const DEADLINE: Duration = Duration::from_secs(240);
/// Percentiles with their goals in milliseconds, at 200 changes a second.
const GOALS: [(usize, f64); 2] = [(50, 20.0), (99, 100.0)];

/// What else watches the pods of a cluster and has no part in passing statuses on. It rests while they change: with it, two
/// control planes need more than two cores, and what is measured is how long everybody waits for those.
const BYSTANDERS: [&str; 3] = ["kube-controller-manager", "kube-scheduler", "kwok"];

/// One change, and when it was written below, in the time of this process.
struct Change {
    pod: String,
    message: String,
    written: Instant,
}

/// Both clocks at one moment: watches are dated by the one, audit logs by the other.
#[derive(Clone, Copy)]
struct Clock {
    own: Instant,
    wall: Timestamp,
}

// === impl Clock ===

impl Clock {
    fn now() -> Self {
        Self {
            own: Instant::now(),
            wall: Timestamp::now(),
        }
    }

    /// Milliseconds from `from` until `to`; two observers may see things in another order, which is no time at all.
    fn millis(self, from: Instant, to: Timestamp) -> f64 {
        let from = SignedDuration::try_from(from.saturating_duration_since(self.own)).unwrap_or_default();
        let delay = to.duration_since(self.wall) - from;
        (delay.as_secs_f64() * 1000.0).max(0.0)
    }
}

/// Makes pods, changes the status of each once at a steady rate, and adds the delays.
pub(crate) async fn measure(ground: &Ground, args: &Args, report: &mut Report) -> Result<()> {
    let names = load::names("pod", args.stream_pods());
    let node = ground.start_node().await?;
    let upper = PodWatch::start(ground.client(Side::Upper).clone(), Side::Through.namespace()).await?;
    let lower = PodWatch::start(ground.client(Side::Lower).clone(), Side::Through.namespace()).await?;
    tell(format!(
        "{} pods, then {} status changes a second",
        names.len(),
        args.changes_per_second
    ));
    load::create(ground, Side::Through, &names).await?;
    let pods = names.len();
    upper
        .until("pods Running", DEADLINE, |now| now.running >= pods, |_| {})
        .await?;
    ground.settle().await?;

    for cluster in [&ground.upper, &ground.lower] {
        for component in BYSTANDERS {
            cluster.stop_component(component).await?;
        }
    }
    let known = upper.messages().len();
    let (audit, clock) = (AuditLog::from_now(&ground.upper)?, Clock::now());
    let changes = change_all(ground, args, &names).await?;
    let took = clock.own.elapsed();
    for watch in [&upper, &lower] {
        watch
            .until("changes", DEADLINE, |now| now.messages >= known + pods, |_| {})
            .await?;
    }
    let sent = audit.status_patches(VIRTUAL_NODE, Side::Through.namespace())?;
    let (above, below) = (upper.messages(), lower.messages());
    let of = |delay: &dyn Fn(&Change) -> Option<f64>| -> Result<Samples> {
        let delays: Option<Vec<f64>> = changes.iter().map(delay).collect();
        delays.map(Samples::from_iter).context("a change was not seen")
    };
    let plain = of(&|change| Some(millis(change.written, *below.get(&change.message)?)))?;
    let passed = of(&|change| Some(clock.millis(*below.get(&change.message)?, *sent.get(&change.pod)?)))?;
    let shown = of(&|change| Some(millis(*below.get(&change.message)?, *above.get(&change.message)?)))?;
    let rate = count(pods) / took.as_secs_f64();
    for (percent, goal) in GOALS {
        let from = format!(
            "{pods} changes at {rate:.0}/s; plain watch delivery below p{percent} {:.1} ms after the write, seen above \
             {:.1} ms after it was seen below",
            plain.percentile(percent),
            shown.percentile(percent)
        );
        let what = format!("status stream, seen below → patch received above, p{percent}");
        report
            .lines
            .push(Line::new(what, passed.percentile(percent), "ms", from).at_most(goal));
    }
    for cluster in [&ground.upper, &ground.lower] {
        for component in BYSTANDERS {
            cluster.start_component(component).await?;
        }
    }
    load::delete(ground.client(Side::Through), Side::Through, &names).await?;
    upper
        .until("pods gone", DEADLINE, |now| now.present == 0, |_| {})
        .await?;
    ground.stop_node(node).await
}

/// Changes one status after another, without waiting for the answers.
async fn change_all(ground: &Ground, args: &Args, names: &[String]) -> Result<Vec<Change>> {
    let mut tick = tokio::time::interval(Duration::from_secs(1) / args.changes_per_second);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut changes = Vec::with_capacity(names.len());
    let mut writes = Vec::with_capacity(names.len());
    for (number, pod) in names.iter().enumerate() {
        tick.tick().await;
        let change = Change {
            pod: pod.clone(),
            message: format!("stream {number}"),
            written: Instant::now(),
        };
        let client = ground.client(Side::Lower).clone();
        let (pod, message) = (change.pod.clone(), change.message.clone());
        writes.push(tokio::spawn(async move {
            change_status(&client, &pod, &message).await
        }));
        changes.push(change);
    }
    for written in try_join_all(writes).await? {
        written?;
    }
    Ok(changes)
}
