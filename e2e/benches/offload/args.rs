//! How large a run is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;

/// The largest burst of a full run.
pub(crate) const FULL: usize = 5000;

/// Measures what a virtual node costs, against the same work on the upper and the lower cluster alone.
///
/// Every flag can be given by its environment variable too.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Args {
    /// Pods of the large burst; the small one has a fifth of them. Anything below 5000 is a trial.
    #[arg(long, env = "TENSILE_BENCH_PODS", default_value_t = FULL, value_parser = parse_pods)]
    pub(crate) pods: usize,
    /// How often the small burst is measured; the medians count [default: 3, in a trial 1].
    #[arg(long, env = "TENSILE_BENCH_ROUNDS")]
    pub(crate) rounds: Option<usize>,
    /// Simulated nodes of each cluster.
    #[arg(long, env = "TENSILE_BENCH_NODES", default_value_t = 100)]
    pub(crate) nodes: usize,
    /// What the pods bring along.
    #[arg(long, env = "TENSILE_BENCH_WORKLOAD", value_enum, default_value_t = Workload::Bare)]
    pub(crate) workload: Workload,
    /// Pods per second of the paced load.
    #[arg(long, env = "TENSILE_BENCH_RATE", default_value_t = 20)]
    pub(crate) rate: u32,
    /// How long the paced load and the idle time last, in seconds [default: 60, in a trial 10].
    #[arg(long, env = "TENSILE_BENCH_SECONDS")]
    pub(crate) seconds: Option<u64>,
    /// Status changes that are timed one by one [default: 200, in a trial 20].
    #[arg(long, env = "TENSILE_BENCH_CHANGES")]
    pub(crate) changes: Option<usize>,
    /// Which figures.
    #[arg(long, env = "TENSILE_BENCH_FIGURES", value_enum, default_value_t = Figures::Offload)]
    pub(crate) figures: Figures,
    /// Status changes a second of the stream.
    #[arg(long, env = "TENSILE_BENCH_CHANGE_RATE", default_value_t = 200)]
    pub(crate) changes_per_second: u32,
    /// A file for the report as Markdown; relative to the root of the repository.
    #[arg(long, env = "TENSILE_BENCH_OUT")]
    pub(crate) out: Option<PathBuf>,
    /// The virtual node's own binary, as users run it; relative to the root of the repository. Without it, the binary
    /// of the tests is measured, which is all components in one and has more pages resident.
    #[arg(long, env = "TENSILE_BENCH_BINARY")]
    pub(crate) binary: Option<PathBuf>,
    /// Given by `cargo bench`; without it, as from `cargo test --benches`, nothing is measured.
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Figures {
    /// A virtual node against both clusters alone.
    Offload,
    /// A steady stream of status changes.
    Stream,
    /// Memory with twice the pods of a full run, in one cluster and in ten.
    Memory,
}

/// What a pod brings along.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Workload {
    /// Nothing: no service-account token either.
    Bare,
    /// A service-account token of its own, and a ConfigMap and a Secret that all pods share.
    Complete,
}

fn parse_pods(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(pods) if pods >= 10 => Ok(pods),
        _ => Err("give a number of pods, at least 10".to_owned()),
    }
}

// === impl Args ===

impl Args {
    /// Whether the figures are those that the goals speak of.
    pub(crate) fn is_full(&self) -> bool {
        self.pods >= FULL
    }

    fn scaled<T>(&self, given: Option<T>, full: T, trial: T) -> T {
        given.unwrap_or(if self.is_full() { full } else { trial })
    }

    /// The sizes of the bursts, with how often each is measured.
    pub(crate) fn bursts(&self) -> [(usize, usize); 2] {
        let rounds = self.scaled(self.rounds, 3, 1).max(1);
        [(self.pods / 5, rounds), (self.pods, 1)]
    }

    /// How long the paced load and the idle time last.
    pub(crate) fn duration(&self) -> Duration {
        Duration::from_secs(self.scaled(self.seconds, 60, 10).max(1))
    }

    /// Pods of the paced load.
    pub(crate) fn paced_pods(&self) -> usize {
        usize::try_from(u64::from(self.rate) * self.duration().as_secs()).unwrap_or(usize::MAX)
    }

    /// Status changes that are timed one by one.
    pub(crate) fn changes(&self) -> usize {
        self.scaled(self.changes, 200, 20).max(1)
    }

    /// Pods of the stream of status changes: ten seconds of them, each changed once.
    pub(crate) fn stream_pods(&self) -> usize {
        usize::try_from(self.changes_per_second).map_or(usize::MAX, |rate| rate.saturating_mul(10))
    }

    /// Where the Markdown goes.
    pub(crate) fn out(&self) -> Option<PathBuf> {
        from_root(self.out.as_deref())
    }

    /// The virtual node's own binary, if that is measured.
    pub(crate) fn binary(&self) -> Option<PathBuf> {
        from_root(self.binary.as_deref())
    }
}

/// Benchmarks run in the folder of their crate.
fn from_root(path: Option<&Path>) -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
    Some(root?.join(path?))
}
