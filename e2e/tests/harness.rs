//! The harness itself: clusters come up, live side by side, and leave nothing behind.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use e2e::{Cluster, ClusterSpec, NodeTemplate, TestResult, support};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Node};
use kube::{Api, api::ListParams};
use serde_json::json;

const DEADLINE: Duration = Duration::from_secs(60);

fn mk_deployment(replicas: u32) -> serde_json::Value {
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "web", "image": "web", "resources": {"requests": {"cpu": "1"}}}]},
            },
        },
    })
}

/// Whether a process runs; one that has ended and only waits to be noticed does not.
fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

async fn await_replicas(cluster: &Cluster, namespace: &str, replicas: i32) -> Result<()> {
    let deployments: Api<Deployment> = Api::namespaced(cluster.client().await?, namespace);
    support::await_condition("the Deployment to be ready", DEADLINE, || async {
        let status = deployments.get("web").await?.status.context("no status yet")?;
        Ok((status.ready_replicas == Some(replicas)).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_becomes_ready_on_simulated_nodes() -> TestResult {
    let cluster = Cluster::start(ClusterSpec::new("deploy").with_audit_log()).await?;
    let template = NodeTemplate::default()
        .cpu("4")
        .memory("8Gi")
        .label("pool", "a")
        .resource("example.com/gpu", "2");
    let names = cluster.kwok(2, template).await?;
    let client = cluster.client().await?;
    let nodes = Api::<Node>::all(client.clone())
        .list(&ListParams::default().labels("pool=a"))
        .await?;
    assert!(
        nodes.items.len() == names.len(),
        "{} nodes of pool a",
        nodes.items.len()
    );

    let namespace = support::temp_namespace(&client).await?;
    support::create(
        &Api::<Deployment>::namespaced(client, &namespace),
        mk_deployment(6),
    )
    .await?;
    await_replicas(&cluster, &namespace, 6).await?;

    cluster.add_kwok_log("hello from below")?;
    let logs = cluster
        .kubectl(&["-n", &namespace, "logs", "deploy/web"])
        .await?
        .ok()?;
    assert!(logs.ends_with("hello from below\n"), "{logs}");
    let exec = cluster
        .kubectl(&[
            "-n",
            &namespace,
            "exec",
            "deploy/web",
            "--",
            "echo",
            "from",
            "inside",
        ])
        .await?
        .ok()?;
    assert!(exec == "from inside\n", "{exec}");
    let audit = fs::read_to_string(cluster.audit_log())?;
    assert!(
        audit.contains(r#""subresource":"exec""#),
        "the audit log does not tell of the exec"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clusters_live_side_by_side_and_know_their_own_users_only() -> TestResult {
    let (upper, lower) = tokio::try_join!(
        Cluster::start(ClusterSpec::new("upper").without_scheduler()),
        Cluster::start(ClusterSpec::new("lower"))
    )?;
    assert!(upper.api_server() != lower.api_server());
    assert!(upper.process("kube-scheduler").is_err() && lower.process("kube-scheduler").is_ok());

    let kubeconfig = upper.kubeconfig_for("jane", &["team-a"])?.display().to_string();
    let who = upper
        .kubectl(&["--kubeconfig", &kubeconfig, "auth", "whoami"])
        .await?
        .ok()?;
    assert!(who.contains("jane") && who.contains("team-a"), "{who}");
    let other_server = format!("https://{}", lower.api_server());
    let stranger = upper
        .kubectl(&["--server", &other_server, "get", "nodes"])
        .await?;
    assert!(
        !stranger.status.success(),
        "the lower cluster let the upper's administrator in: {}",
        stranger.stdout
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_outlives_a_restart_of_its_api_server_and_a_crash_of_etcd() -> TestResult {
    let cluster = Cluster::start(
        ClusterSpec::new("restart")
            .without_scheduler()
            .without_controller_manager(),
    )
    .await?;
    let namespace = support::temp_namespace(&cluster.client().await?).await?;
    cluster.stop_component("kube-apiserver").await?;
    assert!(!cluster.kubectl(&["get", "--raw=/livez"]).await?.status.success());
    cluster.kill_component("etcd").await?;
    cluster.start_component("etcd").await?;
    cluster.start_component("kube-apiserver").await?;
    cluster.kubectl(&["get", "namespace", &namespace]).await?.ok()?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_cluster_leaves_no_process_and_no_folder() -> TestResult {
    let cluster = Cluster::start(ClusterSpec::new("gone")).await?;
    cluster.kwok(1, NodeTemplate::default()).await?;
    let (pids, folder) = (cluster.pids(), cluster.folder().to_owned());
    assert!(
        pids.len() == 5 && pids.values().all(|&pid| is_running(pid)),
        "{pids:?}"
    );
    drop(cluster);
    let left: Vec<_> = pids.iter().filter(|&(_, &pid)| is_running(pid)).collect();
    assert!(left.is_empty(), "still running: {left:?}");
    assert!(!folder.exists(), "{} is still there", folder.display());
    Ok(())
}

/// The run below, started by the two tests after it as a process of its own, which is then killed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by other tests, as a process that gets killed"]
async fn victim() -> TestResult {
    let cluster = Cluster::start(
        ClusterSpec::new("victim")
            .without_scheduler()
            .without_controller_manager(),
    )
    .await?;
    let report = PathBuf::from(std::env::var("VICTIM_REPORT")?);
    let pids: Vec<_> = cluster
        .pids()
        .into_values()
        .chain([guard_of(std::process::id())?])
        .collect();
    let partial = report.with_extension("partial");
    fs::write(
        &partial,
        json!({"folder": cluster.folder(), "pids": pids}).to_string(),
    )?;
    fs::rename(partial, report)?;
    std::future::pending().await
}

/// The guard is the child of ours that reads the end of its standard input.
fn guard_of(pid: u32) -> Result<u32> {
    let children: String = fs::read_dir(format!("/proc/{pid}/task"))?
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("children")).ok())
        .collect();
    let is_guard = |pid: &u32| {
        let command = fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        command.split('\0').any(|word| word == "guard")
    };
    children
        .split_whitespace()
        .filter_map(|pid| pid.parse().ok())
        .find(is_guard)
        .context("no guard")
}

/// Starts the victim and waits until it reports its folder and the ids of its processes, the guard's last.
async fn start_victim(report: &Path) -> Result<(std::process::Child, PathBuf, Vec<u32>)> {
    let child = Command::new(std::env::current_exe()?)
        .args(["--exact", "victim", "--ignored"])
        .env("VICTIM_REPORT", report)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let text = support::await_condition("the victim's report", Duration::from_secs(120), || async {
        Ok(fs::read_to_string(report).ok())
    })
    .await?;
    let report: serde_json::Value = serde_json::from_str(&text)?;
    let folder = report["folder"].as_str().context("no folder")?.into();
    let pids = serde_json::from_value(report["pids"].clone())?;
    Ok((child, folder, pids))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_is_cleared_by_its_guard() -> TestResult {
    let report = std::env::temp_dir().join(format!("tensile-victim-guarded-{}", std::process::id()));
    let (mut child, folder, pids) = start_victim(&report).await?;
    child.kill()?;
    child.wait()?;
    fs::remove_file(&report)?;
    support::await_condition("the guard to clear the folder", DEADLINE, || async {
        Ok((!folder.exists() && !pids.iter().any(|&pid| is_running(pid))).then_some(()))
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_of_a_run_whose_guard_died_too_are_cleared_by_the_next_run() -> TestResult {
    let report = std::env::temp_dir().join(format!("tensile-victim-unguarded-{}", std::process::id()));
    let (mut child, folder, pids) = start_victim(&report).await?;
    let guard = pids.last().context("no guard")?.to_string();
    assert!(
        Command::new("kill")
            .args(["-KILL", "--", &format!("-{guard}")])
            .status()?
            .success()
    );
    child.kill()?;
    child.wait()?;
    fs::remove_file(&report)?;
    assert!(
        folder.exists() && is_running(pids[0]),
        "something else cleared the leftovers"
    );

    // Another test of this process, or another run on this machine, may be the one that clears them.
    e2e::clear_leftovers()?;
    support::await_condition("the leftovers to be cleared", DEADLINE, || async {
        Ok((!folder.exists() && !pids.iter().any(|&pid| is_running(pid))).then_some(()))
    })
    .await?;
    Ok(())
}
