//! `tensile-scheduler-extender`, see the library.

use clap::Parser;
use tensile_runtime::shutdown::Shutdown;
use tensile_scheduler_extender::{Args, run};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    run(args, Shutdown::on_signals()?).await?;
    Ok(())
}
