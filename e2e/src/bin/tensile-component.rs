//! All of Tensile's binaries in one, for tests, benchmarks and test images.
//!
//! Called `tensile-webhook` (by a link of that name) it is that component, and as `kubectl-tensile` the plugin; under
//! its own name the component is the first argument.

use std::ffi::OsString;
use std::path::Path;
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

const OWN_NAME: &str = "component";

#[tokio::main]
async fn main() -> ExitCode {
    let args: Vec<OsString> = std::env::args_os().collect();
    let called = args.first().and_then(|program| Path::new(program).file_name());
    match called
        .and_then(|name| name.to_str())
        .and_then(|name| name.strip_prefix("tensile-"))
    {
        Some(OWN_NAME) => exit(start(args).await),
        Some(component) => {
            let rest = args.iter().skip(1).cloned();
            exit(start([OWN_NAME.into(), component.into()].into_iter().chain(rest)).await)
        }
        None => tensile_cli::run(tensile_cli::Args::parse()).await,
    }
}

async fn start(args: impl IntoIterator<Item = OsString>) -> anyhow::Result<()> {
    Args::parse_from(args)
        .component
        .run(Shutdown::on_signals()?)
        .await
}
