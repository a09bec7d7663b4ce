//! `kubectl exec`, `attach`, `cp` and `port-forward` with upper pods.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use e2e::{TestResult, support};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdout, Command};

use crate::{DEADLINE, IDLE, Site, mk_container, mk_pod, mk_simple, on_site};

/// Turns the protocols of kubectl from WebSocket back to SPDY.
const SPDY: [(&str, &str); 2] = [
    ("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "false"),
    ("KUBECTL_PORT_FORWARD_WEBSOCKETS", "false"),
];

/// Rows and columns of the terminal that kubectl runs under.
const SIZE: (u32, u32) = (33, 111);

/// The first line that contains `word`.
async fn await_line(output: &mut BufReader<ChildStdout>, word: &str) -> Result<String> {
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

/// kubectl under a terminal, which util-linux' `script` provides.
fn under_terminal(site: &Site, args: &[&str]) -> Command {
    let kubectl = site.ground.upper.kubectl_command(&site.args(args));
    let kubectl = kubectl.as_std();
    let words = std::iter::once(kubectl.get_program()).chain(kubectl.get_args());
    let line: Vec<_> = words
        .map(|word| format!("'{}'", word.to_string_lossy()))
        .collect();
    let line = format!("stty rows {} cols {}; {}", SIZE.0, SIZE.1, line.join(" "));
    let mut command = Command::new("script");
    command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
    command.kill_on_drop(true);
    command
}

#[test]
fn exec_carries_exit_codes_input_and_both_outputs() -> TestResult {
    on_site(async |site| {
        let spec = json!({"containers": [
            mk_container("main", IDLE, &json!({"env": [{"name": "ME", "value": "main"}]})),
            mk_container("other", IDLE, &json!({"env": [{"name": "ME", "value": "other"}]})),
        ]});
        site.run(&[mk_pod("shell", &spec)]).await?;
        for env in [&[][..], &SPDY] {
            let script = "echo out; echo err >&2; exit 7";
            let mut kubectl = site
                .ground
                .upper
                .kubectl_command(&site.args(&["exec", "shell", "-c", "main", "--", "sh", "-c", script]));
            let output = kubectl.envs(env.iter().copied()).output().await?;
            let (out, err) = (
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr),
            );
            ensure!(output.status.code() == Some(7), "{env:?}: {output:?}");
            ensure!(out == "out\n" && err.starts_with("err\n"), "{env:?}: {out} {err}");
        }
        let input = "x".repeat(1 << 20);
        let args = ["exec", "-i", "shell", "-c", "main", "--", "wc", "-c"];
        let counted = site
            .ground
            .upper
            .kubectl_with_input(&site.args(&args), &input)
            .await?
            .ok()?;
        ensure!(counted.trim() == "1048576", "{counted}");
        let me = site
            .kubectl_ok(&["exec", "shell", "-c", "other", "--", "sh", "-c", "echo $ME"])
            .await?;
        ensure!(me == "other\n", "{me}");
        let missing = site
            .kubectl(&["exec", "shell", "-c", "main", "--", "no-such-program"])
            .await?;
        ensure!(
            !missing.status.success() && missing.stderr.contains("no-such-program"),
            "{missing:?}"
        );
        Ok(())
    })
}

#[test]
fn exec_gives_a_terminal_that_knows_its_size() -> TestResult {
    on_site(async |site| {
        site.run(&[mk_simple("shell", IDLE)]).await?;
        // The size follows the start.
        let size = format!("{} {}", SIZE.0, SIZE.1);
        let script = format!(
            "test -t 0 && test -t 1 && until [ \"$(stty size)\" = \"{size}\" ]; do sleep 0.1; done; exit 9"
        );
        let mut kubectl = under_terminal(&site, &["exec", "-it", "shell", "--", "sh", "-c", &script]);
        let child = kubectl
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let output = tokio::time::timeout(DEADLINE, child.wait_with_output()).await??;
        ensure!(output.status.code() == Some(9), "{output:?}");
        Ok(())
    })
}

#[test]
fn attach_reaches_the_running_program_and_cp_its_files() -> TestResult {
    on_site(async |site| {
        let script = "while read -r line; do echo got $line; done";
        let spec = json!({"containers": [mk_container("main", script, &json!({"stdin": true}))]});
        site.run(&[mk_pod("listener", &spec)]).await?;
        let mut attach = site
            .ground
            .upper
            .kubectl_command(&site.args(&["attach", "-i", "listener"]))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut input = attach.stdin.take().context("no input")?;
        input.write_all(b"hello\n").await?;
        let mut output = BufReader::new(attach.stdout.take().context("no output")?);
        let line = await_line(&mut output, "got").await?;
        ensure!(line == "got hello\n", "{line}");

        let file = site.ground.upper.folder().join(format!("{}-cp", site.namespace));
        let back = file.with_extension("back");
        std::fs::write(&file, "copied")?;
        let inside = "listener:/tmp/file";
        site.kubectl_ok(&["cp", &file.display().to_string(), inside])
            .await?;
        site.kubectl_ok(&["cp", inside, &back.display().to_string()])
            .await?;
        ensure!(std::fs::read_to_string(&back)? == "copied");
        Ok(())
    })
}

#[test]
fn port_forward_reaches_a_server_in_the_pod() -> TestResult {
    on_site(async |site| {
        let script = "mkdir /www; echo page >/www/index.html; exec httpd -f -p 8080 -h /www";
        site.run(&[mk_simple("server", script)]).await?;
        for env in [&[][..], &SPDY] {
            let args = site.args(&["port-forward", "pod/server", ":8080"]);
            let mut forward = site
                .ground
                .upper
                .kubectl_command(&args)
                .envs(env.iter().copied())
                .stdout(Stdio::piped())
                .spawn()?;
            let mut output = BufReader::new(forward.stdout.take().context("no output")?);
            let line = await_line(&mut output, "127.0.0.1:").await?;
            let address = line
                .split_whitespace()
                .find(|word| word.starts_with("127.0.0.1:"))
                .context("no address")?
                .parse()?;
            // The server in the pod may still be starting.
            let page = support::await_condition("the page", DEADLINE, || async {
                support::http_get(address, "/").await.map(Some)
            })
            .await?;
            ensure!(page == (200, "page\n".to_owned()), "{env:?}: {page:?}");
        }
        Ok(())
    })
}
