//! `kubectl tensile`: shows, adds, drains and diagnoses lower clusters.
//!
//! ```text
//! command ── asks ──▶ upper cluster, Secrets ──▶ lower clusters
//!    │ facts (plain data)
//!    ▼
//! report (pure) ──▶ text or JSON, exit code
//! ```
//!
//! What is asked lies in the `gather` functions; what is said of the answers in functions without I/O beside them.

mod args;
mod clusters;
mod connect;
mod doctor;
mod drain;
mod error;
mod evict;
mod fragments;
mod join;
mod leave;
mod lower;
mod nodes;
mod orphan;
mod output;
mod picture;
mod table;
mod why;

use std::process::ExitCode;

use clap::CommandFactory;

pub use args::Args;
use args::Command;
use connect::Upper;
use error::CliError;
use output::{Outcome, Printed};

/// Runs one command and prints its report. Exit codes: 0 yes, 1 it could not be done, 2 wrong usage (from clap),
/// 3 it was done and the answer is bad.
pub async fn run(args: Args) -> ExitCode {
    match execute(args).await {
        Ok(printed) => printed.print(),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn execute(args: Args) -> Result<Printed, CliError> {
    if let Command::Completion { shell } = args.command {
        clap_complete::generate(
            shell,
            &mut Args::command(),
            "kubectl-tensile",
            &mut std::io::stdout(),
        );
        return Ok(Printed::nothing(Outcome::Good));
    }
    let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let upper = Upper::connect(&args.upper).await?;
    let format = args.output;
    match args.command {
        Command::Clusters => Printed::of(&clusters::run(&upper).await?, format),
        Command::Why(options) => Printed::of(&why::run(&upper, &options).await?, format),
        Command::Fragments => Printed::of(&fragments::run(&upper).await?, format),
        Command::Doctor(options) => Printed::of(&doctor::run(&upper, &options).await?, format),
        Command::Join(options) => Printed::of(&join::run(&upper, &options).await?, format),
        Command::Leave(options) => Printed::of(&leave::run(&upper, &options).await?, format),
        Command::Drain(options) => Printed::of(&drain::run(&upper, &options).await?, format),
        Command::Completion { .. } => Ok(Printed::nothing(Outcome::Good)),
    }
}
