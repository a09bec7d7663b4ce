//! The generations of kubectl, each as its users run it.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result};
use e2e::{Binaries, binaries};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{ChildStdout, Command};

use crate::{DEADLINE, Site};

/// One kubectl and the namespace that it works in.
pub(crate) struct Kubectl<'a> {
    program: PathBuf,
    site: &'a Site,
}

// === impl Kubectl ===

impl<'a> Kubectl<'a> {
    /// The newest, which speaks WebSocket.
    pub(crate) async fn newest(site: &'a Site) -> Result<Self> {
        let program = Binaries::obtain().await?.path("kubectl");
        Ok(Self { program, site })
    }

    /// An old one, which knows SPDY only.
    pub(crate) async fn old(site: &'a Site) -> Result<Self> {
        let program = binaries::extra("old-kubectl").await?;
        Ok(Self { program, site })
    }

    /// A command to be started by the caller.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let upper = &self.site.ground.upper;
        let mut command = Command::new(&self.program);
        command
            .arg("--kubeconfig")
            .arg(upper.kubeconfig())
            .args(["--namespace", &self.site.namespace])
            .args(args)
            .env("KUBECACHEDIR", upper.folder().join("clients-cache"))
            .kill_on_drop(true);
        command
    }

    /// Exit code, standard output and standard error.
    pub(crate) async fn run(&self, args: &[&str]) -> Result<(Option<i32>, String, String)> {
        let output = self.command(args).stdin(Stdio::null()).output();
        let output = tokio::time::timeout(DEADLINE, output)
            .await
            .with_context(|| format!("{args:?} does not end"))??;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((output.status.code(), text(&output.stdout), text(&output.stderr)))
    }

    /// What it prints; an error if it fails.
    pub(crate) async fn ok(&self, args: &[&str]) -> Result<String> {
        let (code, out, err) = self.run(args).await?;
        anyhow::ensure!(code == Some(0), "kubectl {args:?}: {code:?} {err}{out}");
        Ok(out)
    }

    /// The command under a terminal of util-linux' `script`; `before` runs in that terminal's shell first.
    pub(crate) fn under_terminal(&self, before: &str, args: &[&str]) -> Command {
        let kubectl = self.command(args);
        let kubectl = kubectl.as_std();
        let words = std::iter::once(kubectl.get_program()).chain(kubectl.get_args());
        let line: Vec<_> = words
            .map(|word| format!("'{}'", word.to_string_lossy()))
            .collect();
        let mut command = Command::new("script");
        let line = format!("{before} {}", line.join(" "));
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        command.kill_on_drop(true);
        command
    }
}

/// The first line that contains `word`.
pub(crate) async fn await_line(output: &mut BufReader<ChildStdout>, word: &str) -> Result<String> {
    let search = async {
        let mut line = String::new();
        while output.read_line(&mut line).await? > 0 {
            if line.contains(word) {
                return Ok(line);
            }
            line.clear();
        }
        anyhow::bail!("the output ended without {word:?}")
    };
    tokio::time::timeout(DEADLINE, search)
        .await
        .with_context(|| format!("no line with {word:?}"))?
}
