//! What users of a cluster do not notice: a rolling update, a replica that is cut off, other credentials.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Fault, FaultProxy, TestResult, support};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, ChildStdout};

use crate::replicas::{creations, holder, leads};
use crate::{DEADLINE, Site, condition, kubeconfig, mk_pod, on_site};

/// Changes the status of a lower pod, and waits until the upper one shows it.
async fn say(site: &Site, lower: &kube::Client, pod: &str, message: &str) -> Result<()> {
    let status = json!({"status": {"message": message}});
    site.pods(lower)
        .patch_status(pod, &PatchParams::default(), &Patch::Merge(status))
        .await?;
    site.await_pod(&site.upper, pod, message, |pod| {
        pod["status"]["message"] == message
    })
    .await?;
    Ok(())
}

fn ready_since(object: &Value) -> Value {
    let ready = condition(object, "Ready");
    json!([ready["status"], ready["lastTransitionTime"]])
}

#[test]
fn a_rolling_update_moves_no_pod_and_loses_no_status() -> TestResult {
    on_site("roll", async |site| {
        let first = site.ground.first.client().await?;
        let mut replicas = vec![site.replica(&[])?];
        site.secret("roll", &kubeconfig(&site.ground.first)?, "").await?;
        let node = site.await_ready("roll").await?;
        replicas.push(site.replica(&[])?);
        for number in 0..5 {
            support::create(&site.pods(&site.upper), mk_pod(&format!("p{number}"), "roll")).await?;
        }
        let mut before = Vec::new();
        for number in 0..5 {
            let pod = site.await_running(&site.upper, &format!("p{number}")).await?;
            before.push(ready_since(&pod));
        }
        let uids = site.uids(&first).await?;
        // As a Deployment does: a new replica, then an old one less, until both are others.
        for round in 0..2 {
            replicas.push(site.replica(&[])?);
            let old = replicas.remove(0);
            let ended = tokio::spawn(async move {
                old.component.terminate().await?;
                old.component.wait_exit(DEADLINE).await
            });
            for number in 0..5 {
                say(site, &first, &format!("p{number}"), &format!("round {round}")).await?;
            }
            let status = ended.await??;
            ensure!(
                status.success(),
                "a replica that was asked to end did not: {status}"
            );
        }
        let leader = holder(site, "roll").await?;
        ensure!(
            replicas.iter().any(|replica| leads(replica, &leader)),
            "a replica that is gone leads: {leader}"
        );
        for (number, before) in before.iter().enumerate() {
            let pod = site.await_running(&site.upper, &format!("p{number}")).await?;
            ensure!(
                ready_since(&pod) == *before,
                "p{number} was not ready for a moment"
            );
        }
        let after = site.await_ready("roll").await?;
        ensure!(
            ready_since(&after) == ready_since(&node),
            "the Node was not ready for a moment: {after}"
        );
        ensure!(site.uids(&first).await? == uids, "a pod was made again");
        let creations = creations(site)?;
        ensure!(creations == 5, "5 pods were created {creations} times");
        Ok(())
    })
}

#[test]
fn a_replica_that_lost_its_lease_writes_nothing_more() -> TestResult {
    on_site("fence", async |site| {
        let second = site.ground.second.client().await?;
        let above = FaultProxy::start(site.ground.upper.api_server()).await?;
        let below = FaultProxy::start(site.ground.second.api_server()).await?;
        let through = site.ground.upper.kubeconfig_through(above.address())?;
        let cut_off = site.replica_of(&through, &[])?;
        let kubeconfig = site.ground.second.kubeconfig_through(below.address())?;
        site.secret("fence", &std::fs::read_to_string(kubeconfig)?, "")
            .await?;
        site.await_ready("fence").await?;
        ensure!(
            leads(&cut_off, &holder(site, "fence").await?),
            "nobody else is there"
        );
        let _other = site.replica(&[])?;
        support::create(&site.pods(&site.upper), mk_pod("before", "fence")).await?;
        site.await_running(&site.upper, "before").await?;
        // A request to make the lower pod is under way when the lease ends.
        below.set(Fault::HalfOpen);
        support::create(&site.pods(&site.upper), mk_pod("underway", "fence")).await?;
        support::await_condition("the pod to be worked on", DEADLINE, || async {
            let labels = [("cluster", "fence"), ("queue", "pods"), ("lane", "running")];
            let running = cut_off.metric("tensile_queue_depth", &labels).await?;
            Ok((running == Some(1.0)).then_some(()))
        })
        .await?;
        above.set(Fault::HalfOpen);
        support::await_condition("the lease to be lost", DEADLINE, || async {
            let leads = cut_off
                .metric("tensile_cluster_leading", &[("cluster", "fence")])
                .await?;
            Ok((leads == Some(0.0)).then_some(()))
        })
        .await?;
        let page = cut_off.page("/metrics").await?;
        let sent = requests(&page);
        below.set(Fault::None);
        site.await_running(&site.upper, "underway").await?;
        ensure!(site.uids(&second).await?.len() == 2, "a pod is there twice");
        let page = cut_off.page("/metrics").await?;
        let after = requests(&page);
        ensure!(
            sent == after && !sent.is_empty(),
            "requests after the lease was lost: {sent:?}, then {after:?}"
        );
        above.set(Fault::None);
        cut_off.component.check_running()?;
        Ok(())
    })
}

/// The counts of requests that `/metrics` shows.
fn requests(metrics: &str) -> Vec<&str> {
    let counts = metrics
        .lines()
        .filter(|line| line.starts_with("tensile_api_requests_total"));
    counts.collect()
}

/// A stream into a pod that says everything back.
struct Echo {
    _kubectl: tokio::process::Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Echo {
    fn open(site: &Site, pod: &str) -> Result<Self> {
        let args = [
            "exec",
            "--stdin",
            "--namespace",
            &site.namespace,
            pod,
            "--",
            "cat",
        ];
        let mut kubectl = site
            .ground
            .upper
            .kubectl_command(&args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        Ok(Self {
            input: kubectl.stdin.take().context("no input")?,
            output: BufReader::new(kubectl.stdout.take().context("no output")?),
            _kubectl: kubectl,
        })
    }

    async fn says(&mut self, word: &str) -> Result<()> {
        self.input.write_all(format!("{word}\n").as_bytes()).await?;
        self.input.flush().await?;
        let mut line = String::new();
        tokio::time::timeout(DEADLINE, self.output.read_line(&mut line))
            .await
            .with_context(|| format!("no {word:?} came back"))??;
        ensure!(line.trim() == word, "{line:?} instead of {word:?}");
        Ok(())
    }
}

/// A kubeconfig for the second lower cluster with a token of a service account of its own, which may do everything.
async fn token_kubeconfig(site: &Site, account: &str) -> Result<String> {
    let second = &site.ground.second;
    second
        .kubectl(&["create", "serviceaccount", account, "--namespace", "default"])
        .await?
        .ok()?;
    let subject = format!("--serviceaccount=default:{account}");
    let role = "--clusterrole=cluster-admin";
    second
        .kubectl(&["create", "clusterrolebinding", account, role, &subject])
        .await?
        .ok()?;
    let token = second
        .kubectl(&["create", "token", account, "--namespace", "default"])
        .await?
        .ok()?;
    let mut file: Value = serde_json::from_str(&kubeconfig(second)?)?;
    file["users"][0]["user"] = json!({"token": token.trim()});
    Ok(file.to_string())
}

#[test]
fn other_credentials_are_taken_over_under_watches_and_streams() -> TestResult {
    on_site("rotate", async |site| {
        let second = site.ground.second.client().await?;
        let replica = site.replica(&[])?;
        let (old, new) = (
            token_kubeconfig(site, "rotate-old").await?,
            token_kubeconfig(site, "rotate-new").await?,
        );
        site.secret("rotate", &old, "").await?;
        site.await_ready("rotate").await?;
        support::create(&site.pods(&site.upper), mk_pod("before", "rotate")).await?;
        site.await_running(&site.upper, "before").await?;
        let mut echo = Echo::open(site, "before")?;
        echo.says("one").await?;
        let watches = |page: &str| -> Vec<String> {
            let is_ours = |line: &&str| {
                line.starts_with("tensile_watch_") && line.contains("_total{") && line.contains("\"rotate\"")
            };
            page.lines().filter(is_ours).map(str::to_owned).collect()
        };
        let listed = watches(&replica.page("/metrics").await?);
        ensure!(!listed.is_empty(), "no figures of watches");

        site.secret("rotate", &new, "").await?;
        replica.await_log("new credentials in use").await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(second.clone(), "default");
        accounts.delete("rotate-old", &DeleteParams::default()).await?;
        // API servers remember for 10 s that a token was good.
        old_is_refused(site, &old).await?;
        support::create(&site.pods(&site.upper), mk_pod("after", "rotate")).await?;
        site.await_running(&site.upper, "after").await?;
        say(site, &second, "before", "seen by the watch from before").await?;
        echo.says("two").await?;
        Echo::open(site, "after")?.says("three").await?;
        let now = watches(&replica.page("/metrics").await?);
        ensure!(now == listed, "a watch was dropped: {listed:?}, then {now:?}");
        Ok(())
    })
}

async fn old_is_refused(site: &Site, kubeconfig: &str) -> Result<()> {
    let path = site.ground.second.folder().join("rotated.kubeconfig");
    std::fs::write(&path, kubeconfig)?;
    let path = format!("--kubeconfig={}", path.display());
    support::await_condition("the old token to be refused", Duration::from_secs(30), || async {
        let asked = site.ground.second.kubectl(&[&path, "get", "namespaces"]).await?;
        Ok(asked.ok().is_err().then_some(()))
    })
    .await
}
