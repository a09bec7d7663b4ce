//! Runs kubectl against a cluster.

use std::process::{ExitStatus, Stdio};

use anyhow::{Context, Result, bail};
use tokio::{io::AsyncWriteExt, process::Command};

use crate::cluster::Cluster;

/// What a command printed, and how it ended.
#[derive(Clone, Debug)]
pub struct Output {
    /// How the command ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

// === impl Output ===

impl Output {
    /// The standard output of a command that succeeded.
    ///
    /// # Errors
    /// The command failed; the message holds what it printed.
    pub fn ok(self) -> Result<String> {
        if self.status.success() {
            return Ok(self.stdout);
        }
        bail!("{}: {}{}", self.status, self.stderr, self.stdout)
    }
}

// === impl Cluster ===

impl Cluster {
    /// Runs kubectl as administrator.
    ///
    /// # Errors
    /// kubectl cannot be run; that it failed is told by the output.
    pub async fn kubectl(&self, args: &[&str]) -> Result<Output> {
        self.kubectl_with_input(args, "").await
    }

    /// Runs kubectl as administrator with something to read on its standard input.
    ///
    /// # Errors
    /// kubectl cannot be run; that it failed is told by the output.
    pub async fn kubectl_with_input(&self, args: &[&str], input: &str) -> Result<Output> {
        let mut child = self
            .kubectl_command(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run kubectl")?;
        let mut stdin = child.stdin.take().context("kubectl has no standard input")?;
        // kubectl may end without reading all of it, which is no failure of ours.
        let write = async move { drop(stdin.write_all(input.as_bytes()).await) };
        let ((), output) = tokio::join!(write, child.wait_with_output());
        let output = output?;
        Ok(Output {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// A kubectl command as administrator, to be started by the caller; it is killed when dropped.
    pub fn kubectl_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(self.binaries.path("kubectl"));
        command
            .arg("--kubeconfig")
            .arg(self.kubeconfig())
            .args(args)
            .kill_on_drop(true);
        // Discovery is cached in the folder: the caches of several clusters on one port must not mix.
        command.env("KUBECACHEDIR", self.folder().join("kubectl-cache"));
        command
    }

    /// Applies manifests, YAML or JSON.
    ///
    /// # Errors
    /// kubectl refuses them.
    pub async fn apply(&self, manifests: &str) -> Result<()> {
        self.kubectl_with_input(&["apply", "-f", "-"], manifests)
            .await?
            .ok()
            .map(drop)
    }
}
