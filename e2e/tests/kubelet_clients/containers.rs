//! What kubectl does with containers, by an old kubectl that speaks SPDY and by the newest, which speaks WebSocket.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use e2e::{BUSYBOX_IMAGE, TestResult, support};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;

use crate::client::{Kubectl, await_line};
use crate::{DEADLINE, IDLE, NODE, Site, mk_container, mk_pod, mk_simple, on_site};

/// Size of the file that is copied, in MB.
const COPIED_MB: &str = "50";
/// Rows and columns of a terminal, before and after it is resized.
const SIZES: [&str; 2] = ["33 111", "44 122"];

/// Echoes lines, and answers one with its size.
const LISTENER: &str = "while read -r line; do echo got $line; done";

pub(crate) fn mk_listener() -> Value {
    let stdin = json!({"stdin": true});
    mk_pod(
        "listener",
        &json!({"containers": [mk_container("main", LISTENER, &stdin)]}),
    )
}

/// Fails once, then runs on.
fn mk_crasher() -> Value {
    let script =
        format!("if [ -f /data/again ]; then echo second; {IDLE}; fi; echo first; touch /data/again; exit 1");
    let mount = json!({"volumeMounts": [{"name": "data", "mountPath": "/data"}]});
    let containers = json!([mk_container("main", &script, &mount)]);
    mk_pod(
        "crasher",
        &json!({"volumes": [{"name": "data", "emptyDir": {}}], "containers": containers}),
    )
}

async fn logs(kubectl: &Kubectl<'_>) -> Result<()> {
    support::await_condition("the log of the run before", DEADLINE, || async {
        let before = kubectl.ok(&["logs", "crasher", "--previous"]).await?;
        let now = kubectl.ok(&["logs", "crasher"]).await?;
        ensure!(before == "first\n" && now == "second\n", "{before:?} {now:?}");
        Ok(Some(()))
    })
    .await?;
    let mut follow = kubectl
        .command(&["logs", "--follow", "shell"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut lines = BufReader::new(follow.stdout.take().context("no output")?);
    kubectl
        .ok(&["exec", "shell", "--", "sh", "-c", "echo more > /proc/1/fd/1"])
        .await?;
    await_line(&mut lines, "more").await?;
    Ok(())
}

async fn exec(kubectl: &Kubectl<'_>) -> Result<()> {
    let script = [
        "exec",
        "shell",
        "--",
        "sh",
        "-c",
        "echo out; echo err >&2; exit 7",
    ];
    let (code, out, err) = kubectl.run(&script).await?;
    ensure!(
        code == Some(7) && out == "out\n" && err.starts_with("err\n"),
        "{code:?} {out} {err}"
    );
    let (code, _, err) = kubectl.run(&["exec", "shell", "--", "no-such-program"]).await?;
    ensure!(
        code != Some(0) && err.contains("no-such-program"),
        "{code:?} {err}"
    );
    let mut count = kubectl
        .command(&["exec", "-i", "shell", "--", "wc", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = count.stdin.take().context("no input")?;
    input.write_all(&[b'x'; 1 << 20]).await?;
    drop(input);
    let counted = tokio::time::timeout(DEADLINE, count.wait_with_output()).await??;
    ensure!(counted.stdout == b"1048576\n", "{counted:?}");
    Ok(())
}

/// The terminal inside has the size of the one outside, also after that changed.
async fn resize(site: &Site, kubectl: &Kubectl<'_>) -> Result<()> {
    let [first, second] = SIZES;
    let flag = site
        .ground
        .upper
        .folder()
        .join(format!("{}-resize", site.namespace));
    let stty = |size: &str| {
        let (rows, columns) = size.split_once(' ').unwrap_or_default();
        format!("stty rows {rows} cols {columns}")
    };
    let before = format!(
        "{}; (until [ -e {flag} ]; do sleep 0.1; done; {} </dev/tty) &",
        stty(first),
        stty(second),
        flag = flag.display()
    );
    let inside = format!(
        "until [ \"$(stty size)\" = \"{first}\" ]; do sleep 0.1; done; echo sized; \
         until [ \"$(stty size)\" = \"{second}\" ]; do sleep 0.1; done; exit 9"
    );
    let mut child = kubectl
        .under_terminal(&before, &["exec", "-it", "shell", "--", "sh", "-c", &inside])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut output = BufReader::new(child.stdout.take().context("no output")?);
    await_line(&mut output, "sized").await?;
    std::fs::write(&flag, "")?;
    let status = tokio::time::timeout(DEADLINE, child.wait())
        .await
        .context("the new size does not arrive")??;
    std::fs::remove_file(&flag)?;
    ensure!(status.code() == Some(9), "{status}");
    Ok(())
}

async fn attach(kubectl: &Kubectl<'_>) -> Result<()> {
    let mut attach = kubectl
        .command(&["attach", "-i", "listener"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = attach.stdin.take().context("no input")?;
    input.write_all(b"hello\n").await?;
    let mut output = BufReader::new(attach.stdout.take().context("no output")?);
    let line = await_line(&mut output, "got").await?;
    ensure!(line == "got hello\n", "{line}");
    Ok(())
}

async fn checksum(file: &Path) -> Result<String> {
    let output = Command::new("sha256sum").arg(file).output().await?;
    let text = String::from_utf8(output.stdout)?;
    Ok(text.split_whitespace().next().context("no checksum")?.to_owned())
}

async fn copy(site: &Site, kubectl: &Kubectl<'_>) -> Result<()> {
    let there = site.ground.upper.folder().join(format!("{}-cp", site.namespace));
    let back = there.with_extension("back");
    let make = ["if=/dev/urandom".to_owned(), format!("of={}", there.display())];
    let made = Command::new("dd")
        .args(make)
        .args(["bs=1M", &format!("count={COPIED_MB}"), "status=none"])
        .status()
        .await?;
    ensure!(made.success(), "{made}");
    let (file, back_file) = (there.display().to_string(), back.display().to_string());
    kubectl.ok(&["cp", &file, "shell:/tmp/file"]).await?;
    kubectl.ok(&["cp", "shell:/tmp/file", &back_file]).await?;
    let inside = kubectl
        .ok(&["exec", "shell", "--", "sha256sum", "/tmp/file"])
        .await?;
    let sums = (checksum(&there).await?, checksum(&back).await?);
    ensure!(
        sums.0 == sums.1 && inside.starts_with(&sums.0),
        "{sums:?} {inside}"
    );
    std::fs::remove_file(there)?;
    std::fs::remove_file(back)?;
    Ok(())
}

/// An ephemeral container, into whose terminal kubectl attaches.
async fn debug(kubectl: &Kubectl<'_>) -> Result<()> {
    let image = format!("--image={BUSYBOX_IMAGE}");
    let args = [
        "debug",
        "-i",
        "shell",
        &image,
        "--image-pull-policy=Never",
        "--",
        "sh",
    ];
    let mut child = kubectl
        .command(&args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("no input")?;
    let mut output = BufReader::new(child.stdout.take().context("no output")?);
    input.write_all(b"echo from $((40 + 2))\n").await?;
    await_line(&mut output, "from 42").await?;
    input.write_all(b"exit\n").await?;
    drop(input);
    let mut rest = String::new();
    tokio::time::timeout(DEADLINE, output.read_to_string(&mut rest))
        .await
        .context("the debugger does not end")??;
    Ok(())
}

async fn top(site: &Site, kubectl: &Kubectl<'_>) -> Result<()> {
    site.ground.upper.await_node_metrics(NODE).await?;
    let node = kubectl.ok(&["top", "node", NODE]).await?;
    ensure!(node.contains('%'), "{node}");
    support::await_condition("figures of the pod", DEADLINE, || async {
        let pods = kubectl.ok(&["top", "pods"]).await?;
        Ok((pods.contains("shell") && pods.contains("Mi")).then_some(()))
    })
    .await
}

/// Everything that one kubectl does with containers.
async fn check(site: &Site, kubectl: &Kubectl<'_>) -> Result<()> {
    let shell = mk_simple("shell", IDLE);
    site.apply(&[mk_crasher()]).await?;
    site.run(&[shell, mk_listener()]).await?;
    exec(kubectl).await.context("exec")?;
    resize(site, kubectl).await.context("exec -it")?;
    attach(kubectl).await.context("attach")?;
    logs(kubectl).await.context("logs")?;
    copy(site, kubectl).await.context("cp")?;
    debug(kubectl).await.context("debug")?;
    top(site, kubectl).await.context("top")
}

#[test]
fn the_newest_kubectl_works_with_containers() -> TestResult {
    on_site(async |site| check(&site, &Kubectl::newest(&site).await?).await)
}

#[test]
fn an_old_kubectl_works_with_containers() -> TestResult {
    on_site(async |site| check(&site, &Kubectl::old(&site).await?).await)
}
