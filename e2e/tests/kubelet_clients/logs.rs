//! Followed logs: what comes through the virtual node is what the kubelet below gives.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use e2e::{TestResult, support};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStdout, Command};

use crate::client::await_line;
use crate::{DEADLINE, Site, mk_container, mk_pod, on_site};

/// Says which run it is, waits for a file, and ends.
const RUN: &str = "echo begin >> /data/runs; run=$(wc -l < /data/runs); echo begin $run; \
    until [ -e /data/end$run ]; do sleep 0.1; done; echo end $run; exit 1";

/// A followed log above or below, with the line that has come already.
struct Followed {
    child: Child,
    output: BufReader<ChildStdout>,
    first: String,
}

impl Followed {
    async fn start(mut command: Command, word: &str) -> Result<Self> {
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let mut output = BufReader::new(child.stdout.take().context("no output")?);
        let first = await_line(&mut output, word).await?;
        Ok(Self { child, output, first })
    }

    /// Everything, once it has ended by itself; an error if kubectl failed.
    async fn whole(mut self) -> Result<String> {
        let mut text = self.first;
        tokio::time::timeout(DEADLINE, self.output.read_to_string(&mut text))
            .await
            .context("the log does not end")??;
        ensure!(self.child.wait().await?.success(), "{text}");
        Ok(text)
    }
}

/// The log above and below, followed at the same time while the container ends.
async fn follow(site: &Site, run: u32) -> Result<[String; 2]> {
    let args = ["--namespace", &site.namespace, "logs", "--follow", "talker"];
    let begin = format!("begin {run}");
    let [above, below] = [&site.ground.upper, &site.ground.lower].map(|c| c.kubectl_command(&args));
    let above = Followed::start(above, &begin).await?;
    let below = Followed::start(below, &begin).await?;
    site.kubectl_ok(&["exec", "talker", "--", "touch", &format!("/data/end{run}")])
        .await?;
    Ok([above.whole().await?, below.whole().await?])
}

#[test]
fn a_followed_log_ends_with_its_container_and_the_next_one_has_another() -> TestResult {
    on_site(async |site| {
        let mount = json!({"volumeMounts": [{"name": "data", "mountPath": "/data"}]});
        let spec = json!({
            "volumes": [{"name": "data", "emptyDir": {}}],
            "containers": [mk_container("main", RUN, &mount)],
        });
        site.run(&[mk_pod("talker", &spec)]).await?;
        for run in [1, 2] {
            support::await_condition(&format!("run {run}"), DEADLINE, || async {
                let log = site.kubectl_ok(&["logs", "talker"]).await?;
                ensure!(log == format!("begin {run}\n"), "{log:?}");
                Ok(Some(()))
            })
            .await?;
            let [above, below] = follow(&site, run).await?;
            ensure!(above == format!("begin {run}\nend {run}\n"), "{above:?}");
            ensure!(above == below, "{above:?}, not {below:?}");
        }
        Ok(())
    })
}
