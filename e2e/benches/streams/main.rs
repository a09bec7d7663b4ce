//! What the virtual node costs streams: throughput of one exec stream against the same one straight to the lower API
//! server, and memory of idle streams.
//!
//! `cargo bench -p e2e --bench streams`; needs real nodes. Everything runs on one machine, so only ratios of one run say
//! something. Frames are neither made nor read by the measuring side beyond what the protocol demands, so that it costs
//! little itself.

mod connection;
mod ground;
mod idle;
mod throughput;

use anyhow::{Context, Result};
use clap::Parser;
use e2e::measure::{Report, describe_machine};

use ground::Ground;

/// Measures what a virtual node costs streams.
#[derive(Clone, Debug, Parser)]
struct Args {
    /// MiB that a stream moves.
    #[arg(long, env = "TENSILE_BENCH_MIB", default_value_t = 256)]
    mib: usize,
    /// How often each path is measured; medians count.
    #[arg(long, env = "TENSILE_BENCH_ROUNDS", default_value_t = 5)]
    rounds: usize,
    /// Streams that are open and idle.
    #[arg(long, env = "TENSILE_BENCH_STREAMS", default_value_t = 500)]
    streams: usize,
    /// Given by `cargo bench`; without it, as from `cargo test --benches`, nothing is measured.
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<()> {
    let args = Args::parse();
    e2e::measure::run("streams", args.bench, report(&args))
}

async fn report(args: &Args) -> Result<()> {
    let ground = Ground::start().await.context("the clusters")?;
    let mut report = Report {
        title: "What a virtual node costs streams".to_owned(),
        facts: vec![
            format!("measured on {}", describe_machine()),
            "an upper cluster, and a lower one with a real node, on this machine together".to_owned(),
            format!(
                "WebSocket streams (v4.channel.k8s.io) of {} MiB, {} rounds, paths in turn, medians",
                args.mib, args.rounds
            ),
        ],
        ..Report::default()
    };
    let result = measure(args, &ground, &mut report).await;
    // What was found before a failure is printed too.
    println!("{}", report.text());
    result
}

async fn measure(args: &Args, ground: &Ground, report: &mut Report) -> Result<()> {
    let idle = idle::measure(ground, args.streams, report).await;
    idle.context("idle streams")?;
    let throughput = throughput::measure(ground, args.mib << 20, args.rounds, report).await;
    throughput.context("throughput")
}
