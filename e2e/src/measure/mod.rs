//! What benchmarks share: pods followed by a watch, requests counted from audit logs, figures with goals.
//!
//! ```text
//! PodWatch   when was each pod bound, Running, gone: one watch, one monotonic clock
//! AuditLog   who asked an API server for what
//! CpuTimes   which process used the processor
//! Traffic    how many bytes a process sent and received
//!    │
//! Report     a line per figure with its goal and verdict, as text and as Markdown
//! ```

mod audit;
mod cpu;
mod machine;
mod pods;
mod report;
mod samples;
mod traffic;

use anyhow::Result;

pub use audit::{AuditLog, Request, Requests};
pub use cpu::{CpuTimes, file_rss, peak_rss};
pub use machine::describe_machine;
pub use pods::{PodWatch, Progress, Seen};
pub use report::{Line, Report, Table};
pub use samples::Samples;
pub use traffic::{Bytes, Traffic};

/// Runs the bench target `name` until it is done or Ctrl-C comes. `bench` is the flag that `cargo bench` gives; without it,
/// as from `cargo test --benches`, nothing is measured.
///
/// # Errors
/// Those of the work, and the interruption.
pub fn run(name: &str, bench: bool, work: impl Future<Output = Result<()>>) -> Result<()> {
    if !bench {
        println!("nothing is measured without --bench, which `cargo bench -p e2e --bench {name}` gives");
        return Ok(());
    }
    // One thread is enough for the load, and leaves the cores to what is measured.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        tokio::select! {
            result = work => result,
            // Returning drops the clusters, which ends and removes them.
            _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
        }
    })
}
