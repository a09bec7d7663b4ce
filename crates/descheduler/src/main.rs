//! `tensile-descheduler`, see the library.

use std::process::ExitCode;

use clap::Parser;
use tensile_descheduler::{Args, run};
use tensile_runtime::exit::exit;
use tensile_runtime::shutdown::Shutdown;

#[tokio::main]
async fn main() -> ExitCode {
    exit(start().await)
}

async fn start() -> anyhow::Result<()> {
    run(Args::parse(), Shutdown::on_signals()?).await?;
    Ok(())
}
