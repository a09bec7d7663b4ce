//! What breaks between the clusters, and what must not come of it: pods that are lost, started twice or started again.
//!
//! ```text
//! table     which faults there are
//!   │
//! run       lets each happen to a lane: a virtual node of its own, with pods that come and go meanwhile
//!   │
//! picture   what is there on both sides, against what should be
//!   │
//! Outcome   a line of the table in docs/faults.md
//! ```
//!
//! All tests of this workspace together have the short form, some seconds of each fault; `TENSILE_FAULTS=full` (`just
//! faults`) lets them last as long as the documentation says, `kills` is the last row of that alone (`just kills`), and
//! the table is written into `TENSILE_FAULTS_OUT`.
//! `TENSILE_FAULT_SECONDS` limits the time of each, `TENSILE_FAULT_ROUNDS` and `TENSILE_FAULT_SEED` are for the kills.

mod gateway;
mod kills;
mod lane;
mod picture;
mod run;
mod table;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::measure::Table;
use e2e::{Cluster, ClusterSpec, NodeTemplate, TestResult};
use futures::{StreamExt, TryStreamExt, stream};

use lane::Lane;
use table::{Form, Row, Sizes};

/// Longest time until both sides agree, before it counts as never.
const DEADLINE: Duration = Duration::from_secs(120);
/// The goal: time from the end of a fault until both sides agree.
const CONVERGENCE: Duration = Duration::from_secs(30);
/// An audit log is not rotated before it has this many megabytes, which no run reaches.
const AUDIT_LOG_MEGABYTES: &str = "--audit-log-maxsize=10000";
/// kwok, unlike a kubelet, leaves pods as they are that were marked not ready while it could not reach the API server.
const PATIENCE_WITH_NODES: &str = "--node-monitor-grace-period=10m";

/// What became of the pods under a fault.
#[derive(Clone, Debug, Default)]
struct Outcome {
    name: &'static str,
    link: &'static str,
    lasts: String,
    pods: usize,
    lost: usize,
    twice: usize,
    restarts: u64,
    converged: Duration,
}

// === impl Outcome ===

impl Outcome {
    fn of(row: &Row, lasts: Duration) -> Self {
        Self {
            name: row.name,
            link: row.link.name(),
            lasts: if lasts.is_zero() {
                String::new()
            } else {
                format!("{} s", lasts.as_secs())
            },
            ..Self::default()
        }
    }

    fn is_whole(&self) -> bool {
        self.lost == 0 && self.twice == 0 && self.restarts == 0
    }

    fn cells(&self) -> Vec<String> {
        let counts = [self.pods, self.lost, self.twice].map(|count| count.to_string());
        let texts = [self.name, self.link, &self.lasts].map(str::to_owned);
        let agreed = if self.converged < DEADLINE {
            format!("{:.1} s", self.converged.as_secs_f64())
        } else {
            "never".to_owned()
        };
        let last = [self.restarts.to_string(), agreed];
        texts.into_iter().chain(counts).chain(last).collect()
    }
}

fn form() -> Form {
    match std::env::var("TENSILE_FAULTS") {
        Ok(word) if word == "full" => Form::Full,
        Ok(word) if word == "kills" => Form::Kills,
        _ => Form::Short,
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn report(outcomes: &[Outcome]) -> Result<()> {
    let header = [
        "fault",
        "link",
        "lasts",
        "pods",
        "lost",
        "started twice",
        "restarts",
        "agreed after",
    ];
    let table = Table {
        title: String::new(),
        header: header.map(str::to_owned).to_vec(),
        rows: outcomes.iter().map(Outcome::cells).collect(),
    };
    eprintln!("\n{}", table.markdown());
    if let Some(path) = std::env::var_os("TENSILE_FAULTS_OUT") {
        std::fs::write(&path, table.markdown())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

async fn clusters() -> Result<(Cluster, Cluster)> {
    let spec = |name: &str| {
        ClusterSpec::new(name)
            .with_audit_log()
            .api_server_args([AUDIT_LOG_MEGABYTES])
            .controller_manager_args([PATIENCE_WITH_NODES])
    };
    let (upper, lower) = tokio::try_join!(
        Cluster::start(spec("faults-upper").without_scheduler()),
        Cluster::start(spec("faults-lower")),
    )?;
    lower.kwok(5, NodeTemplate::default().pods(1000)).await?;
    Ok((upper, lower))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_fault_loses_doubles_or_restarts_a_pod() -> TestResult {
    let mut outcomes = Vec::new();
    let done = suffer(form(), &mut outcomes).await;
    report(&outcomes)?;
    done?;
    Ok(judge(form(), &outcomes)?)
}

fn judge(form: Form, outcomes: &[Outcome]) -> Result<()> {
    for outcome in outcomes {
        ensure!(outcome.is_whole(), "{outcome:?}");
        // Beside all other tests a machine may be much slower than the faults are.
        let limit = if form == Form::Short {
            DEADLINE
        } else {
            CONVERGENCE
        };
        let in_time = outcome.converged < limit;
        ensure!(in_time, "both sides agreed too late: {outcome:?}");
    }
    Ok(())
}

async fn suffer(form: Form, outcomes: &mut Vec<Outcome>) -> Result<()> {
    let (upper, lower) = clusters().await?;
    let mut sizes = form.sizes();
    if let Some(rounds) = number("TENSILE_FAULT_ROUNDS") {
        sizes.rounds = usize::try_from(rounds)?;
    }
    if let Some(seconds) = number("TENSILE_FAULT_SECONDS") {
        sizes.longest = Duration::from_secs(seconds);
    }
    let of_links = table::links(form);
    let (upper, lower) = (&upper, &lower);
    let lanes = stream::iter(of_links.iter().enumerate())
        .map(|(number, row)| async move {
            let mut lane = Lane::start(&format!("lane-{number}"), row, upper, lower).await?;
            lane.suffer(row, sizes).await
        })
        .buffered(sizes.lanes.min(of_links.len()));
    let seed = number("TENSILE_FAULT_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let kills = async || {
        let mut lane = Lane::start("lane-kills", &table::clusters(form)[0], upper, lower).await?;
        lane.be_killed(sizes, seed).await
    };
    if form == Form::Kills {
        outcomes.push(kills().await?);
        return Ok(());
    }
    // A burst of the full form would slow the others down, and they it.
    let early = async {
        if form == Form::Short {
            kills().await.map(Some)
        } else {
            Ok(None)
        }
    };
    let (of_links, killed) = tokio::try_join!(lanes.try_collect::<Vec<_>>(), early)?;
    outcomes.extend(of_links.into_iter().flatten());
    let of_clusters = table::clusters(form);
    let mut lane = Lane::start("lane-clusters", &of_clusters[0], upper, lower).await?;
    for row in &of_clusters {
        outcomes.extend(lane.suffer(row, sizes).await?);
    }
    drop(lane);
    if form == Form::Full && e2e::real_nodes_or_report()? {
        outcomes.extend(suffer_for_real(upper, sizes).await?);
    }
    outcomes.push(match killed {
        Some(killed) => killed,
        None => kills().await?,
    });
    Ok(())
}

/// Real containers, in a cluster whose network namespace loses its link.
async fn suffer_for_real(upper: &Cluster, sizes: Sizes) -> Result<Vec<Outcome>> {
    let spec = ClusterSpec::new("faults-real").with_real_node().with_audit_log();
    let lower = Cluster::start(spec).await?;
    let mut lane = Lane::start("lane-real", &table::NAMESPACE, upper, &lower).await?;
    let few = Sizes {
        before: 6,
        during: 4,
        ..sizes
    };
    lane.suffer(&table::NAMESPACE, few).await
}
