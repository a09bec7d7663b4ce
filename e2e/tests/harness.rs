//! The harness itself: clusters come up, live side by side, and leave nothing behind.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result};
use e2e::{
    BUSYBOX_IMAGE, Cluster, ClusterSpec, Fault, FaultProxy, NodeTemplate, TestResult, real_nodes_or_report,
    support,
};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Node, Pod},
};
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
async fn a_stage_of_the_caller_decides_what_becomes_of_simulated_pods() -> TestResult {
    let cluster = Cluster::start(ClusterSpec::new("stages").without_scheduler()).await?;
    cluster.kwok(1, NodeTemplate::default()).await?;
    let fails = json!({
        "apiVersion": "kwok.x-k8s.io/v1alpha1",
        "kind": "Stage",
        "metadata": {"name": "pod-fails"},
        "spec": {
            "resourceRef": {"apiGroup": "v1", "kind": "Pod"},
            "selector": {
                "matchLabels": {"fate": "fails"},
                "matchExpressions": [{"key": ".status.phase", "operator": "In", "values": ["Running"]}],
            },
            "next": {"statusTemplate": "phase: Failed\nreason: ByTest\n"},
        },
    });
    cluster.use_kwok_stages("pod/general", &[fails]).await?;
    let mut pod = mk_bound_pod("stages-0");
    pod["metadata"]["labels"] = json!({"fate": "fails"});
    let pods: Api<Pod> = Api::default_namespaced(cluster.client().await?);
    support::create(&pods, pod).await?;
    support::await_condition("the pod to fail", DEADLINE, || async {
        let status = pods.get("victim").await?.status.context("no status yet")?;
        Ok(
            (status.phase.as_deref() == Some("Failed") && status.reason.as_deref() == Some("ByTest"))
                .then_some(()),
        )
    })
    .await?;
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

/// The run below, started by other tests as a process of its own, which is then killed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "started by other tests, as a process that gets killed"]
async fn victim() -> TestResult {
    let spec = ClusterSpec::new("victim").without_scheduler();
    let wants_pod = std::env::var_os("VICTIM_RUNS_A_POD").is_some();
    let cluster = match wants_pod {
        true => Cluster::start(spec.with_real_node()).await?,
        false => Cluster::start(spec.without_controller_manager()).await?,
    };
    if wants_pod {
        cluster
            .apply(&mk_bound_pod(&format!("{}-0", cluster.name())).to_string())
            .await?;
        support::pod_running(&cluster.client().await?, "default", "victim", DEADLINE).await?;
    }
    let report = PathBuf::from(std::env::var("VICTIM_REPORT")?);
    let pids: Vec<_> = cluster
        .pids()
        .into_values()
        .chain([guard_of(std::process::id())?])
        .collect();
    let registry = fs::read_to_string(cluster.folder().join("registry"))?;
    let partial = report.with_extension("partial");
    fs::write(
        &partial,
        json!({"folder": cluster.folder(), "pids": pids, "registry": registry}).to_string(),
    )?;
    fs::rename(partial, report)?;
    std::future::pending().await
}

/// A pod that needs no scheduler, with a volume that is a mount.
fn mk_bound_pod(node: &str) -> serde_json::Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "victim"},
        "spec": {
            "nodeName": node,
            "volumes": [{"name": "memory", "emptyDir": {"medium": "Memory"}}],
            "containers": [{
                "name": "main",
                "image": BUSYBOX_IMAGE,
                "command": ["sleep", "1000000"],
                "volumeMounts": [{"name": "memory", "mountPath": "/memory"}],
            }],
        },
    })
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

/// A victim that runs, and what it reported: its folder, the ids of its processes (the guard's last), its registry.
struct Victim {
    child: std::process::Child,
    folder: PathBuf,
    pids: Vec<u32>,
    registry: String,
}

impl Victim {
    async fn start(name: &str, env: &[(&str, &str)]) -> Result<Self> {
        let report = std::env::temp_dir().join(format!("tensile-victim-{name}-{}", std::process::id()));
        // A test run in the background of a script ignores SIGINT, and its children would too.
        let child = Command::new("env")
            .arg("--default-signal=INT")
            .arg(std::env::current_exe()?)
            .args(["--exact", "victim", "--ignored"])
            .envs(env.iter().copied())
            .env("VICTIM_REPORT", &report)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let what = format!("the report of the victim {name}");
        let ask = || async { Ok(fs::read_to_string(&report).ok()) };
        let text = support::await_condition(&what, Duration::from_secs(180), ask).await?;
        fs::remove_file(&report)?;
        let report: serde_json::Value = serde_json::from_str(&text)?;
        let text = |field: &str| {
            report[field]
                .as_str()
                .map(str::to_owned)
                .context("a field of the report is missing")
        };
        let (folder, registry) = (text("folder")?.into(), text("registry")?);
        Ok(Self {
            child,
            folder,
            pids: serde_json::from_value(report["pids"].clone())?,
            registry,
        })
    }

    /// Sends a signal that ends the victim, and waits for its end.
    async fn end_by(&mut self, signal: &str) -> Result<()> {
        let sent = Command::new("kill")
            .args([signal, &self.child.id().to_string()])
            .status()?;
        anyhow::ensure!(sent.success(), "cannot send {signal}");
        let ask = || std::future::ready(self.child.try_wait().map_err(anyhow::Error::from));
        support::await_condition(&format!("the victim to end by {signal}"), DEADLINE, ask).await?;
        Ok(())
    }

    async fn await_cleared(&self) -> Result<()> {
        support::await_condition("everything to be cleared", DEADLINE, || async {
            let running = self.pids.iter().filter(|&&pid| is_running(pid)).count();
            anyhow::ensure!(running == 0, "{running} processes run");
            anyhow::ensure!(!self.folder.exists(), "{} exists", self.folder.display());
            let mounts = fs::read_to_string("/proc/mounts")?;
            anyhow::ensure!(
                !mounts.contains(&self.folder.display().to_string()),
                "mounts are left:\n{mounts}"
            );
            match self
                .registered("netns")
                .chain(self.registered("cgroup"))
                .find(|path| path.exists())
            {
                Some(left) => anyhow::bail!("{} exists", left.display()),
                None => Ok(Some(())),
            }
        })
        .await
    }

    /// The paths of namespaces or cgroups that the victim registered.
    fn registered(&self, kind: &str) -> impl Iterator<Item = PathBuf> {
        let folders = match kind {
            "cgroup" => fs::read_dir("/sys/fs/cgroup")
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
                .collect(),
            _ => vec![PathBuf::from("/run/netns")],
        };
        let lines = self
            .registry
            .lines()
            .filter_map(move |line| line.strip_prefix(kind));
        lines.flat_map(move |name| {
            folders
                .iter()
                .map(|folder| folder.join(name.trim()))
                .collect::<Vec<_>>()
        })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_run_is_cleared_by_its_guard() -> TestResult {
    let mut victim = Victim::start("killed", &[]).await?;
    victim.end_by("-KILL").await?;
    victim.await_cleared().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_run_with_a_real_pod_is_cleared_by_its_guard() -> TestResult {
    if !real_nodes_or_report()? {
        return Ok(());
    }
    let mut victim = Victim::start("interrupted", &[("VICTIM_RUNS_A_POD", "1")]).await?;
    assert!(
        victim.registered("netns").all(|path| path.exists()),
        "{}",
        victim.registry
    );
    assert!(
        victim.registered("cgroup").any(|path| path.exists()),
        "{}",
        victim.registry
    );
    victim.end_by("-INT").await?;
    victim.await_cleared().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_of_a_run_whose_guard_died_too_are_cleared_by_the_next_run() -> TestResult {
    let mut victim = Victim::start("unguarded", &[]).await?;
    let guard = victim.pids.last().context("no guard")?.to_string();
    assert!(
        Command::new("kill")
            .args(["-KILL", "--", &format!("-{guard}")])
            .status()?
            .success()
    );
    victim.end_by("-KILL").await?;
    assert!(
        victim.folder.exists() && is_running(victim.pids[0]),
        "something else cleared the leftovers"
    );

    // Another test of this process, or another run on this machine, may be the one that clears them.
    e2e::clear_leftovers()?;
    victim.await_cleared().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fault_proxy_stands_between_a_client_and_an_api_server() -> TestResult {
    let spec = ClusterSpec::new("proxied")
        .without_scheduler()
        .without_controller_manager();
    let cluster = Cluster::start(spec).await?;
    let proxy = FaultProxy::start(cluster.api_server()).await?;
    let kubeconfig = cluster.kubeconfig_through(proxy.address())?.display().to_string();
    let ask = [
        "--kubeconfig",
        kubeconfig.as_str(),
        "get",
        "--raw=/livez",
        "--request-timeout=2s",
    ];
    assert_eq!(cluster.kubectl(&ask).await?.ok()?, "ok");
    for fault in [Fault::Cut, Fault::HalfOpen] {
        proxy.set(fault);
        let answer = cluster.kubectl(&ask).await?;
        assert!(
            !answer.status.success(),
            "{fault:?} let an answer through: {}",
            answer.stdout
        );
    }
    proxy.set(Fault::None);
    assert_eq!(cluster.kubectl(&ask).await?.ok()?, "ok");
    Ok(())
}
