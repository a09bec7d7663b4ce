//! `tensile-scheduler-extender`, see the library.

use std::process::ExitCode;

use clap::Parser;
use tensile_runtime::exit::exit;
use tensile_runtime::shutdown::Shutdown;
use tensile_scheduler_extender::{Args, run};

/// A pod that is asked about is some thousand small allocations (docs/adr/0012-an-allocator-for-the-webhook.md).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    exit(start().await)
}

async fn start() -> anyhow::Result<()> {
    run(Args::parse(), Shutdown::on_signals()?).await?;
    Ok(())
}
