//! While many pods are there and nothing is created: idle time, single status changes, a restart.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use e2e::measure::{Line, PodWatch, Report, Request, Requests, Samples};
use e2e::virtual_node::VirtualNode;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::args::Args;
use crate::burst::count;
use crate::ground::{BothRequests, Ground, Side, VIRTUAL_NODE, tell};

/// Longest time for changes to arrive.
const DEADLINE: Duration = Duration::from_secs(120);
/// Pause between single status changes: long enough for all that one sets off.
const PAUSE: Duration = Duration::from_millis(100);
/// Lower statuses that change while the virtual node is down.
const CHANGED_MEANWHILE: usize = 50;
/// How long a restarted virtual node is observed for writes after its statuses are current.
const AFTER_RESTART: Duration = Duration::from_secs(10);

/// Watches an idle virtual node, and lists what it writes.
pub(crate) async fn idle(
    ground: &Ground,
    node: &VirtualNode,
    args: &Args,
    report: &mut Report,
) -> Result<()> {
    tell(format!("idle for {:?}", args.duration()));
    let (audit, cpu) = (ground.audit()?, node.component.cpu_seconds()?);
    tokio::time::sleep(args.duration()).await;
    let used = node.component.cpu_seconds()? - cpu;
    let writes = audit.requests()?.of(VIRTUAL_NODE).writes();
    let others = writes.without_heartbeats();
    let what = format!(
        "idle for {} s, writes other than heartbeats",
        args.duration().as_secs()
    );
    report.lines.push(
        Line::new(
            what,
            count(others.total()),
            "",
            format!("all writes: {}", writes.list()),
        )
        .at_most(0.0),
    );
    let per_minute = used * 60.0 / args.duration().as_secs_f64();
    report.lines.push(Line::new(
        "idle, processor time per minute",
        per_minute,
        "s",
        format!("with {} pods", args.pods),
    ));
    Ok(())
}

/// Changes one lower status after another, and times how much later than a plain watch below the change is above.
pub(crate) async fn status_changes(ground: &Ground, args: &Args, report: &mut Report) -> Result<()> {
    tell(format!("{} single status changes", args.changes()));
    let namespace = Side::Through.namespace();
    let upper = PodWatch::start(ground.client(Side::Upper).clone(), namespace).await?;
    let lower = PodWatch::start(ground.client(Side::Lower).clone(), namespace).await?;
    let mut sent = Vec::with_capacity(args.changes());
    for number in 0..args.changes() {
        let message = format!("change {number}");
        let at = Instant::now();
        let pod = format!("pod-{}", number % args.pods);
        change_status(ground.client(Side::Lower), &pod, &message).await?;
        sent.push((message, at));
        let arrived = number + 1;
        for watch in [&upper, &lower] {
            watch
                .until("a status change", DEADLINE, |now| now.messages == arrived, |_| {})
                .await?;
        }
        tokio::time::sleep(PAUSE).await;
    }
    let (above, below) = (upper.messages(), lower.messages());
    let delays = |of: &dyn Fn(Instant, Instant, Instant) -> f64| -> Result<Samples> {
        let delay =
            |(message, sent): &(String, Instant)| Some(of(*sent, *below.get(message)?, *above.get(message)?));
        let delays: Option<Samples> = sent
            .iter()
            .map(delay)
            .collect::<Option<Vec<_>>>()
            .map(Samples::from_iter);
        delays.context("a change was not seen")
    };
    let plain = delays(&|sent, below, _| millis(sent, below))?;
    let mirrored = delays(&|sent, _, above| millis(sent, above))?;
    let added = delays(&|_, below, above| millis(below, above))?;
    for percent in [50, 99] {
        let from = format!(
            "p{percent} {:.1} ms from the write below to a watch above, {:.1} ms to a watch below; {} changes",
            mirrored.percentile(percent),
            plain.percentile(percent),
            added.len()
        );
        let line = Line::new(
            format!("status change at rest, added delay, p{percent}"),
            added.percentile(percent),
            "ms",
            from,
        );
        report
            .lines
            .push(if percent == 50 { line.at_most(10.0) } else { line });
    }
    Ok(())
}

/// Restarts the virtual node, with statuses that change while it is down; returns the new process.
pub(crate) async fn restart(
    ground: &Ground,
    node: VirtualNode,
    pods: usize,
    report: &mut Report,
) -> Result<VirtualNode> {
    tell(format!("restart with {pods} pods"));
    let watch = PodWatch::start(ground.client(Side::Upper).clone(), Side::Through.namespace()).await?;
    let known = watch.messages().len();
    ground.stop_node(node).await?;
    let changed = CHANGED_MEANWHILE.min(pods / 10).max(1);
    for number in 0..changed {
        let pod = format!("pod-{}", number * (pods / changed));
        change_status(ground.client(Side::Lower), &pod, &format!("while down {number}")).await?;
    }
    let audit = ground.audit()?;
    let started = Instant::now();
    let node = ground.spawn_node().await?;
    let arrived = |now: &e2e::measure::Progress| now.messages >= known + changed;
    watch
        .until("statuses current after a restart", DEADLINE, arrived, |_| {})
        .await?;
    let seconds = started.elapsed().as_secs_f64();
    tell(format!("statuses current after {seconds:.2} s"));
    node.ready(&ground.upper).await?;
    tokio::time::sleep(AFTER_RESTART).await;
    let writes = audit.requests()?.of(VIRTUAL_NODE).writes();
    let others = writes.without_heartbeats();
    let is_status = |request: &Request| request.resource == "pods/status" && !request.failed;
    let statuses = others.upper.filter(is_status).total();
    let unneeded = others.total() - statuses.min(changed);
    report.lines.push(
        Line::new(
            format!("restart with {pods} pods, statuses current"),
            seconds,
            "s",
            format!("{changed} statuses changed while it was down; from the start of the process until the last is seen above"),
        )
        .at_most(3.0),
    );
    report.lines.push(
        Line::new(
            "restart, writes other than heartbeats and the changed statuses",
            count(unneeded),
            "",
            format!("all writes: {}", writes.list()),
        )
        .at_most(0.0),
    );
    Ok(node)
}

/// Sets the message of a lower pod's status, which nothing else does for pods that run.
pub(crate) async fn change_status(lower: &Client, pod: &str, message: &str) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(lower.clone(), Side::Through.namespace());
    let patch = Patch::Merge(json!({"status": {"message": message}}));
    pods.patch_status(pod, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// Milliseconds from one moment to another, negative when that came first.
pub(crate) fn millis(from: Instant, to: Instant) -> f64 {
    let later = to.saturating_duration_since(from).as_secs_f64();
    let earlier = from.saturating_duration_since(to).as_secs_f64();
    (later - earlier) * 1000.0
}

// === impl BothRequests ===

impl BothRequests {
    fn writes(&self) -> Self {
        self.map(|requests| requests.filter(Request::is_write))
    }

    /// Leases, and the Node's own object and status, which say that it lives.
    fn without_heartbeats(&self) -> Self {
        let is_heartbeat = |request: &Request| {
            request.resource == "leases" || request.resource == "nodes" || request.resource == "nodes/status"
        };
        self.map(|requests| requests.filter(|request| !is_heartbeat(request)))
    }

    fn map(&self, of: impl Fn(&Requests) -> Requests) -> Self {
        Self {
            upper: of(&self.upper),
            lower: of(&self.lower),
        }
    }

    fn total(&self) -> usize {
        self.upper.total() + self.lower.total()
    }

    fn list(&self) -> String {
        format!("above {}; below {}", self.upper, self.lower)
    }
}
