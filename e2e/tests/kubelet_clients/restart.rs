//! A virtual node that is asked to end lets its streams finish, for as long as it was told.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{TestResult, support};
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout};

use crate::{DEADLINE, IDLE, RESTARTED, Site, mk_container, mk_node, mk_pod, on_site};

/// An exec of `cat`.
struct Cat {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Cat {
    fn start(site: &Site, pod: &str) -> Result<Self> {
        let args = ["--namespace", &site.namespace, "exec", "-i", pod, "--", "cat"];
        let mut command = site.ground.upper.kubectl_command(&args);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        Ok(Self {
            input: child.stdin.take().context("no input")?,
            output: BufReader::new(child.stdout.take().context("no output")?),
            child,
        })
    }

    async fn echo(&mut self, text: &str) -> Result<()> {
        self.input.write_all(text.as_bytes()).await?;
        let mut line = String::new();
        tokio::time::timeout(DEADLINE, self.output.read_line(&mut line)).await??;
        ensure!(line == text, "{line:?}");
        Ok(())
    }
}

/// A pod for the node of this test alone, which has a taint of its own.
fn mk_bound(name: &str) -> serde_json::Value {
    let spec = json!({
        "nodeName": RESTARTED,
        "tolerations": [{"operator": "Exists"}],
        "containers": [mk_container("main", IDLE, &json!({}))],
    });
    mk_pod(name, &spec)
}

#[test]
fn streams_may_finish_for_the_time_that_was_given() -> TestResult {
    on_site(async |site| {
        let (upper, lower) = (&site.ground.upper, &site.ground.lower);
        // One node after the other, under the same name: long enough, and not at all.
        for (drain, finishes) in [("600", true), ("0", false)] {
            let node = mk_node(RESTARTED, &site.ground.rights)
                .args(["--taint-key", RESTARTED, "--stream-drain", drain])
                .args(["--serving-certificate", "csr", "--approve-serving-certificate"])
                .start(upper, lower)
                .await?;
            let pod = format!("talker-{drain}");
            site.run(&[mk_bound(&pod)]).await?;
            // The upper API server verifies the certificate, which may not be signed yet.
            support::await_condition("an exec", DEADLINE, || async {
                site.kubectl_ok(&["exec", &pod, "--", "true"]).await.map(Some)
            })
            .await?;
            let mut cat = Cat::start(&site, &pod)?;
            cat.echo("before\n").await?;
            node.component.terminate().await?;
            if finishes {
                await_refusals(&node).await?;
                cat.echo("after\n").await?;
                ensure!(
                    node.component.exit_status()?.is_none(),
                    "it has ended under a stream"
                );
                drop(cat.input);
                let status = tokio::time::timeout(DEADLINE, cat.child.wait()).await??;
                ensure!(status.success(), "{status}");
            } else {
                let mut rest = String::new();
                tokio::time::timeout(DEADLINE, cat.output.read_to_string(&mut rest))
                    .await
                    .context("the stream does not end")??;
                ensure!(rest.is_empty(), "{rest:?}");
            }
            let status = node.component.wait_exit(Duration::from_secs(30)).await?;
            ensure!(status.success(), "{status}");
        }
        Ok(())
    })
}

/// Waits until the node's port is closed to new callers.
async fn await_refusals(node: &e2e::virtual_node::VirtualNode) -> Result<()> {
    support::await_condition("the port to close", DEADLINE, || async {
        let connected = tokio::net::TcpStream::connect(node.kubelet()).await;
        Ok(connected.is_err().then_some(()))
    })
    .await
}
