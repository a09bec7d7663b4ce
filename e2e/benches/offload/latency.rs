//! A paced load: how long each pod takes, and on which part of its way.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use e2e::measure::{Line, PodWatch, Report, Samples, Seen, Table};
use futures::future::try_join_all;
use tokio::time::MissedTickBehavior;

use crate::args::Args;
use crate::ground::{Ground, Side, tell};
use crate::load;

/// Longest time from the last creation until all pods run, or are gone.
const DEADLINE: Duration = Duration::from_secs(120);

/// Delays under a paced load, in milliseconds.
#[derive(Debug, Default)]
pub(crate) struct Paced {
    /// From bound to Running in the lower cluster alone.
    alone: Samples,
    /// From bound above to Running above.
    through: Samples,
    /// The same, part by part.
    parts: Vec<(&'static str, Samples)>,
}

/// Creates pods at a steady rate, and waits until all run.
async fn create_paced(
    ground: &Ground,
    args: &Args,
    side: Side,
    names: &[String],
    watch: &PodWatch,
) -> Result<()> {
    tell(format!(
        "paced load of {} pods/s for {:?}, {}",
        args.rate,
        args.duration(),
        side.name()
    ));
    tokio::try_join!(
        at_rate(ground, args, side, names),
        ground.serve(side, names.len())
    )?;
    let pods = names.len();
    watch
        .until("paced pods Running", DEADLINE, |now| now.running == pods, |_| {})
        .await
}

/// Creates one pod after another, without waiting for the answers.
async fn at_rate(ground: &Ground, args: &Args, side: Side, names: &[String]) -> Result<()> {
    let mut tick = tokio::time::interval(Duration::from_secs(1) / args.rate);
    tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut creations = Vec::with_capacity(names.len());
    for name in names {
        tick.tick().await;
        let create = load::create_one(ground.client(side).clone(), side, ground.workload, name.clone());
        creations.push(tokio::spawn(create));
    }
    for created in try_join_all(creations).await? {
        created?;
    }
    Ok(())
}

async fn remove(ground: &Ground, side: Side, names: &[String], watch: &PodWatch) -> Result<()> {
    load::delete(ground.client(side), side, names).await?;
    watch
        .until("paced pods gone", DEADLINE, |now| now.present == 0, |_| {})
        .await?;
    ground.settle().await
}

fn delays(names: &[String], delay: impl Fn(&str) -> Option<Duration>) -> Result<Samples> {
    let delays: Option<Vec<Duration>> = names.iter().map(|name| delay(name)).collect();
    Ok(Samples::millis(
        delays.context("a watch did not see all steps of a pod")?,
    ))
}

/// Two watches may see things in another order than they happened; that is no time at all.
fn between(from: Option<Instant>, to: Option<Instant>) -> Option<Duration> {
    Some(to?.saturating_duration_since(from?))
}

// === impl Paced ===

impl Paced {
    /// Runs the paced load on the lower cluster alone.
    pub(crate) async fn alone(ground: &Ground, args: &Args) -> Result<Self> {
        let side = Side::Lower;
        let watch = PodWatch::start(ground.client(side).clone(), side.namespace()).await?;
        let names = load::names("paced", args.paced_pods());
        create_paced(ground, args, side, &names, &watch).await?;
        let seen = watch.seen();
        let alone = delays(&names, |name| {
            let pod = seen.get(name)?;
            between(pod.bound, pod.running)
        })?;
        remove(ground, side, &names, &watch).await?;
        Ok(Self {
            alone,
            ..Self::default()
        })
    }

    /// Runs the paced load through the virtual node, and follows each pod on both sides.
    pub(crate) async fn through(&mut self, ground: &Ground, args: &Args) -> Result<()> {
        let side = Side::Through;
        let upper = PodWatch::start(ground.client(side).clone(), side.namespace()).await?;
        let lower = PodWatch::start(ground.client(Side::Lower).clone(), side.namespace()).await?;
        let names = load::names("paced", args.paced_pods());
        create_paced(ground, args, side, &names, &upper).await?;
        let (above, below) = (upper.seen(), lower.seen());
        let part = |from: fn(&Seen, &Seen) -> Option<Instant>, to: fn(&Seen, &Seen) -> Option<Instant>| {
            delays(&names, |name| {
                let (above, below) = (above.get(name)?, below.get(name)?);
                between(from(above, below), to(above, below))
            })
        };
        self.through = part(|above, _| above.bound, |above, _| above.running)?;
        self.parts = vec![
            (
                "bound above → created below (virtual node)",
                part(|above, _| above.bound, |_, below| below.created)?,
            ),
            (
                "created below → bound below (kube-scheduler)",
                part(|_, below| below.created, |_, below| below.bound)?,
            ),
            (
                "bound below → Running below (kwok)",
                part(|_, below| below.bound, |_, below| below.running)?,
            ),
            (
                "Running below → Running above (virtual node)",
                part(|_, below| below.running, |above, _| above.running)?,
            ),
        ];
        remove(ground, side, &names, &upper).await
    }

    /// Adds the figures.
    pub(crate) fn report(&self, report: &mut Report) {
        for (percent, goal) in [(50, 30.0), (99, 150.0)] {
            let (through, alone) = (self.through.percentile(percent), self.alone.percentile(percent));
            let from = format!(
                "bound → Running: p{percent} {through:.1} ms through the virtual node, {alone:.1} ms in the lower cluster alone; {} pods",
                self.through.len()
            );
            let what = format!("paced load, added delay, p{percent}");
            report
                .lines
                .push(Line::new(what, through - alone, "ms", from).at_most(goal));
        }
        let row = |name: &str, samples: &Samples| {
            let percentiles = [50, 90, 99, 100].map(|percent| format!("{:.1}", samples.percentile(percent)));
            std::iter::once(name.to_owned()).chain(percentiles).collect()
        };
        let mut rows = vec![
            row("bound → Running, lower cluster alone", &self.alone),
            row("bound above → Running above", &self.through),
        ];
        rows.extend(self.parts.iter().map(|(name, samples)| row(name, samples)));
        report.tables.push(Table {
            title: "Delays under the paced load, in ms".to_owned(),
            header: ["from → to", "p50", "p90", "p99", "max"]
                .map(str::to_owned)
                .to_vec(),
            rows,
        });
    }
}
