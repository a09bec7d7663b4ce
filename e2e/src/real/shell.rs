//! Runs small system commands.

use std::ffi::OsStr;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

/// Runs a command to its end; returns what it printed.
pub(super) async fn run<S: AsRef<OsStr>>(program: &str, args: impl IntoIterator<Item = S>) -> Result<String> {
    let mut command = Command::new(program);
    command.args(args).kill_on_drop(true);
    let output = command
        .output()
        .await
        .with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        let words: Vec<_> = command.as_std().get_args().map(OsStr::to_string_lossy).collect();
        let errors = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{program} {}: {}: {}",
            words.join(" "),
            output.status,
            errors.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs `ip` with the words of one line.
pub(super) async fn ip(line: &str) -> Result<()> {
    run("ip", line.split_whitespace()).await.map(drop)
}
