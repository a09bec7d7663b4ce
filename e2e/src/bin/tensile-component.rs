//! All of Tensile's components in one binary, for tests and benchmarks.

use std::process::ExitCode;

use clap::Parser;
use e2e::Components;
use tensile_runtime::exit::exit;
use tensile_runtime::shutdown::Shutdown;

/// Runs one component.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    component: Components,
}

#[tokio::main]
async fn main() -> ExitCode {
    exit(start().await)
}

async fn start() -> anyhow::Result<()> {
    Args::parse().component.run(Shutdown::on_signals()?).await
}
