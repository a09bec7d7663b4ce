//! What the extender costs kube-scheduler, and what it saves.
//!
//! `cargo bench -p e2e --bench extender [-- --out docs/FILE.md]`; `TENSILE_BENCH_PODS=100` makes a trial.
//!
//! Two upper clusters stand before the same three lower ones. Both run kube-scheduler with the chart's configuration;
//! one without the extender, so that it knows virtual nodes by their sums alone. The same pods are placed by both in
//! one run, so that the ratio says something though the machine is small.

mod ground;
mod parked;
mod throughput;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Parser;
use e2e::measure::{Report, describe_machine};

use ground::Ground;

/// Pods of a full run: placing them takes some seconds, which the noise of a second does not decide.
const FULL: usize = 2_000;

/// Measures kube-scheduler with the extender beside the same without.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// Pods that are placed in a round; anything below 2000 is a trial.
    #[arg(long, env = "TENSILE_BENCH_PODS", default_value_t = FULL)]
    pods: usize,
    /// How often; the medians count.
    #[arg(long, env = "TENSILE_BENCH_ROUNDS", default_value_t = 3)]
    rounds: usize,
    /// A file for the report as Markdown; relative to the root of the repository.
    #[arg(long, env = "TENSILE_BENCH_OUT")]
    out: Option<PathBuf>,
    /// Given by `cargo bench`; without it, as from `cargo test --benches`, nothing is measured.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    e2e::measure::run("extender", args.bench, report(&args))
}

/// Measures and reports; what was found before a failure is printed too.
async fn report(args: &Args) -> Result<()> {
    let mut report = Report {
        title: "What the scheduler extender costs and saves".to_owned(),
        facts: vec![
            format!("measured on {}", describe_machine()),
            "two upper clusters and three lower ones of 30 kwok nodes on this machine together".to_owned(),
        ],
        ..Report::default()
    };
    if args.pods < FULL {
        report.facts.push(format!("a trial with {} pods", args.pods));
    }
    let result = measure(args, &mut report).await;
    println!("{}", report.text());
    result?;
    if let Some(out) = &args.out {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
        let out = root.context("no root folder")?.join(out);
        std::fs::write(&out, report.markdown()).with_context(|| format!("cannot write {}", out.display()))?;
    }
    Ok(())
}

async fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let ground = Ground::start().await?;
    let extender = ground.start_extender().await?;
    throughput::measure(&ground, &extender, "requests unlimited", args, report).await?;
    for upper in ground.uppers() {
        throughput::limit_requests(upper)?;
    }
    throughput::measure(&ground, &extender, "as installed", args, report).await?;
    parked::measure(&ground, report).await
}
