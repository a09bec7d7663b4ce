//! `kubectl-tensile`, see the library.

use std::process::ExitCode;

use clap::Parser;
use tensile_cli::{Args, run};

#[tokio::main]
async fn main() -> ExitCode {
    run(Args::parse()).await
}
