//! `kubectl logs` of upper pods.

use std::process::Stdio;

use anyhow::{Context, ensure};
use e2e::{TestResult, support};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};

use crate::{DEADLINE, IDLE, mk_container, mk_pod, mk_simple, on_site};

#[test]
fn logs_are_chosen_by_lines_time_and_container() -> TestResult {
    on_site(async |site| {
        let spec = json!({"containers": [
            mk_container("one", &format!("for n in 1 2 3; do echo line $n; sleep 0.1; done; {IDLE}"), &json!({})),
            mk_container("two", &format!("echo from two; {IDLE}"), &json!({})),
        ]});
        site.run(&[mk_pod("two", &spec)]).await?;
        let logs = async |more: &[&str]| site.kubectl_ok(&[&["logs", "two"], more].concat()).await;
        site.await_log(&["two", "-c", "one"], "line 1\nline 2\nline 3\n")
            .await?;
        site.await_log(&["two", "-c", "two"], "from two\n").await?;
        ensure!(logs(&["-c", "one", "--tail=1"]).await? == "line 3\n");
        ensure!(logs(&["-c", "one", "--limit-bytes=4"]).await? == "line");
        ensure!(logs(&["-c", "one", "--since=1h"]).await?.lines().count() == 3);
        let all = logs(&["--all-containers", "--prefix"]).await?;
        ensure!(
            all.contains("/two/one] line 3\n") && all.contains("/two/two] from two\n"),
            "{all}"
        );

        let stamped = logs(&["-c", "one", "--timestamps"]).await?;
        let second = stamped.lines().nth(1).context("no second line")?;
        let (time, text) = second.split_once(' ').context("no timestamp")?;
        ensure!(
            text == "line 2" && time.starts_with("20") && time.contains('T'),
            "{stamped}"
        );
        // The API cuts times to whole seconds, so only what is older than that can be told apart.
        support::await_condition("all lines to be old", DEADLINE, || async {
            Ok(logs(&["-c", "one", "--since=1s"]).await?.is_empty().then_some(()))
        })
        .await?;
        let unknown = site.kubectl(&["logs", "two", "-c", "three"]).await?;
        ensure!(
            !unknown.status.success() && unknown.stderr.contains("three"),
            "{unknown:?}"
        );
        Ok(())
    })
}

#[test]
fn followed_logs_arrive_while_they_are_written_and_end_with_the_container() -> TestResult {
    on_site(async |site| {
        let script = "echo first; until [ -f /tmp/go ]; do sleep 0.1; done; echo last";
        let spec =
            json!({"restartPolicy": "Never", "containers": [mk_container("main", script, &json!({}))]});
        site.run(&[mk_pod("talker", &spec)]).await?;
        let args = site.args(&["logs", "--follow", "talker"]);
        let mut follow = site
            .ground
            .upper
            .kubectl_command(&args)
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(follow.stdout.take().context("no output")?);
        let everything = async {
            let mut text = String::new();
            lines.read_line(&mut text).await?;
            ensure!(text == "first\n", "{text}");
            site.exec("talker", "touch /tmp/go").await?;
            lines.read_to_string(&mut text).await?;
            ensure!(text == "first\nlast\n", "{text}");
            ensure!(follow.wait().await?.success());
            Ok(())
        };
        tokio::time::timeout(DEADLINE, everything)
            .await
            .context("the log does not end")?
    })
}

#[test]
fn the_log_before_a_crash_is_kept() -> TestResult {
    on_site(async |site| {
        let script = format!(
            "if [ -f /data/again ]; then echo second run; {IDLE}; fi; echo first run; touch /data/again; exit 1"
        );
        let mount = json!({"volumeMounts": [{"name": "data", "mountPath": "/data"}]});
        let spec = json!({
            "volumes": [{"name": "data", "emptyDir": {}}],
            "containers": [mk_container("main", &script, &mount)],
        });
        site.apply(&[mk_pod("crasher", &spec)]).await?;
        let again = |pod: &Value| {
            let container = &pod["status"]["containerStatuses"][0];
            container["restartCount"] == 1 && container["ready"] == true
        };
        site.await_pod("crasher", "running again", again).await?;
        site.await_log(&["crasher"], "second run\n").await?;
        ensure!(site.kubectl_ok(&["logs", "crasher", "--previous"]).await? == "first run\n");

        site.run(&[mk_simple("steady", IDLE)]).await?;
        let none = site.kubectl(&["logs", "steady", "--previous"]).await?;
        ensure!(
            !none.status.success() && none.stderr.contains("previous terminated container"),
            "{none:?}"
        );
        Ok(())
    })
}
