//! Both clusters, the virtual node between them, and the times when nothing happens.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::Result;
use e2e::measure::{AuditLog, CpuTimes, PodWatch, Requests};
use e2e::virtual_node::{VirtualNode, VirtualNodeSpec};
use e2e::{Cluster, ClusterSpec, NodeTemplate, Process, support};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Secret, ServiceAccount};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde_json::json;
use tensile_core::names::PROVIDER_TAINT;

use crate::args::{Args, Workload};
use crate::{kubelets, load};

/// The user that the virtual node is in both clusters, so that its requests can be told from others'.
pub(crate) const VIRTUAL_NODE: &str = "tensile-virtual-node";
/// The user that makes the load.
pub(crate) const LOAD: &str = "tensile-bench";
/// The virtual node's Node.
const NODE: &str = "vn-bench";
/// Keeps pods that are meant for the virtual node off the simulated nodes of the upper cluster.
const KWOK_TAINT: &str = "e2e/simulated";
/// Pods that are created and deleted before anything is measured: caches are then filled on all sides.
const WARM_UP: usize = 20;
/// Longest time for one of the waits that are not measured.
const DEADLINE: Duration = Duration::from_secs(120);
/// An audit log is not rotated before it has this many megabytes, which no run reaches.
const AUDIT_LOG_MEGABYTES: &str = "--audit-log-maxsize=10000";

/// Two clusters with simulated nodes.
pub(crate) struct Ground {
    pub(crate) upper: Cluster,
    pub(crate) lower: Cluster,
    /// What the pods bring along.
    pub(crate) workload: Workload,
    upper_client: Client,
    lower_client: Client,
    node: VirtualNodeSpec,
}

/// Where pods are created, and where they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Above, on simulated nodes of the upper cluster.
    Upper,
    /// Below, on simulated nodes of the lower cluster.
    Lower,
    /// Above, through the virtual node on simulated nodes of the lower cluster.
    Through,
}

/// The audit logs of both clusters from one moment on.
pub(crate) struct Audit {
    upper: AuditLog,
    lower: AuditLog,
}

/// What both clusters were asked for.
#[derive(Clone, Debug, Default)]
pub(crate) struct BothRequests {
    pub(crate) upper: Requests,
    pub(crate) lower: Requests,
}

// === impl Side ===

impl Side {
    /// The namespace of its pods.
    pub(crate) fn namespace(self) -> &'static str {
        match self {
            Self::Upper => "upper-alone",
            Self::Lower => "lower-alone",
            Self::Through => "through",
        }
    }

    /// For progress and tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Upper => "upper cluster alone",
            Self::Lower => "lower cluster alone",
            Self::Through => "through the virtual node",
        }
    }

    /// The taint that its pods tolerate. Other pods are kept off by it, so no side needs a node selector.
    pub(crate) fn toleration(self) -> &'static str {
        match self {
            Self::Through => PROVIDER_TAINT,
            Self::Upper | Self::Lower => KWOK_TAINT,
        }
    }
}

// === impl Ground ===

impl Ground {
    /// Starts both clusters with their nodes, and warms them up.
    pub(crate) async fn start(args: &Args) -> Result<Self> {
        let (nodes, workload) = (args.nodes, args.workload);
        tell(format!("starting two clusters with {nodes} simulated nodes each"));
        let spec = |name: &str| {
            ClusterSpec::new(name)
                .with_audit_log()
                .api_server_args([AUDIT_LOG_MEGABYTES])
        };
        let (upper, lower) = tokio::try_join!(Cluster::start(spec("upper")), Cluster::start(spec("lower")))?;
        let template = NodeTemplate::default();
        let above = template.clone().taint(KWOK_TAINT, "", "NoSchedule");
        tokio::try_join!(upper.kwok(nodes, above), lower.kwok(nodes, template))?;
        let kubeconfig = |cluster: &Cluster, user| cluster.kubeconfig_for(user, &["system:masters"]);
        let ground = Self {
            upper_client: client(&kubeconfig(&upper, LOAD)?).await?,
            lower_client: client(&kubeconfig(&lower, LOAD)?).await?,
            node: VirtualNodeSpec::new(NODE)
                .binary(args.binary())
                .upper_kubeconfig(kubeconfig(&upper, VIRTUAL_NODE)?)
                .lower_kubeconfig(kubeconfig(&lower, VIRTUAL_NODE)?),
            upper,
            lower,
            workload,
        };
        for side in [Side::Upper, Side::Lower, Side::Through] {
            ground.make_namespace(side).await?;
        }
        ground.warm_up(Side::Upper).await?;
        ground.warm_up(Side::Lower).await?;
        ground.settle().await?;
        Ok(ground)
    }

    /// A client of the cluster whose API the pods of `side` are created through.
    pub(crate) fn client(&self, side: Side) -> &Client {
        match side {
            Side::Lower => &self.lower_client,
            Side::Upper | Side::Through => &self.upper_client,
        }
    }

    /// Does what kubelets would do for so many pods of `side` and kwok leaves out; only complete pods need any of it.
    pub(crate) async fn serve(&self, side: Side, pods: usize) -> Result<()> {
        let client = match side {
            Side::Upper => &self.upper_client,
            Side::Lower | Side::Through => &self.lower_client,
        };
        match self.workload {
            Workload::Bare => Ok(()),
            Workload::Complete => kubelets::serve(client, side.namespace(), pods).await,
        }
    }

    async fn make_namespace(&self, side: Side) -> Result<()> {
        let (client, name) = (self.client(side), side.namespace());
        let namespaces: Api<Namespace> = Api::all(client.clone());
        support::create(&namespaces, json!({"metadata": {"name": name}})).await?;
        let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), name);
        support::await_condition("the service account of pods", DEADLINE, || async {
            Ok(accounts.get_opt("default").await?.map(drop))
        })
        .await?;
        if self.workload == Workload::Complete {
            let metadata = json!({"name": load::SHARED});
            let config_maps: Api<ConfigMap> = Api::namespaced(client.clone(), name);
            let data = json!({"metadata": metadata, "data": {"GREETING": "hello"}});
            support::create(&config_maps, data).await?;
            let secrets: Api<Secret> = Api::namespaced(client.clone(), name);
            let data = json!({"metadata": metadata, "stringData": {"PASSWORD": "secret"}});
            support::create(&secrets, data).await?;
        }
        Ok(())
    }

    async fn warm_up(&self, side: Side) -> Result<()> {
        let watch = PodWatch::start(self.client(side).clone(), side.namespace()).await?;
        let names = load::names("warm-up", WARM_UP);
        load::create(self, side, &names).await?;
        watch
            .until(
                "warm-up pods Running",
                DEADLINE,
                |now| now.running == WARM_UP,
                |_| {},
            )
            .await?;
        load::delete(self.client(side), side, &names).await?;
        watch
            .until("warm-up pods gone", DEADLINE, |now| now.present == 0, |_| {})
            .await
    }

    /// Starts the virtual node, waits until pods can be bound to it, and warms it up.
    pub(crate) async fn start_node(&self) -> Result<VirtualNode> {
        let node = self.node.start(&self.upper, &self.lower).await?;
        let nodes: Api<Node> = Api::all(self.upper_client.clone());
        // While it was away, the control plane has tainted it.
        support::await_condition("no foreign taint on the virtual node", DEADLINE, || async {
            let taints = nodes.get(NODE).await?.spec.and_then(|spec| spec.taints);
            let own_only = taints.iter().flatten().all(|taint| taint.key == PROVIDER_TAINT);
            Ok(own_only.then_some(()))
        })
        .await?;
        self.warm_up(Side::Through).await?;
        self.settle().await?;
        Ok(node)
    }

    /// Starts the virtual node's process, and waits for nothing.
    pub(crate) async fn spawn_node(&self) -> Result<VirtualNode> {
        self.node.spawn(&self.upper, &self.lower).await
    }

    /// Ends the virtual node as an orderly shutdown would.
    pub(crate) async fn stop_node(&self, node: VirtualNode) -> Result<()> {
        node.component.terminate().await?;
        node.component.wait_exit(DEADLINE).await?;
        Ok(())
    }

    /// What all processes have used so far.
    pub(crate) fn cpu(&self, node: Option<&VirtualNode>) -> Result<CpuTimes> {
        let mut times = CpuTimes::default();
        times.add_cluster(&self.upper)?;
        times.add_cluster(&self.lower)?;
        times.add_own_thread(LOAD)?;
        if let Some(node) = node {
            let process: &Process = &node.component;
            times.add(VIRTUAL_NODE, process)?;
        }
        Ok(times)
    }

    /// Waits until both clusters have finished what they still do after a load, so that it is not charged to the
    /// next measurement.
    pub(crate) async fn settle(&self) -> Result<()> {
        /// The processor time that is looked at, how little of it counts as rest, and how long to hope for it.
        const WINDOW: Duration = Duration::from_secs(2);
        const REST: f64 = 0.6;
        const PATIENCE: Duration = Duration::from_secs(40);
        let started = Instant::now();
        let mut before = self.cpu(None)?;
        loop {
            tokio::time::sleep(WINDOW).await;
            let now = self.cpu(None)?;
            let cores = now.since(&before).total() / WINDOW.as_secs_f64();
            if cores < REST {
                return Ok(());
            }
            if started.elapsed() > PATIENCE {
                tell(format!("no rest: the clusters use {cores:.1} cores; going on"));
                return Ok(());
            }
            before = now;
        }
    }

    /// Both audit logs from now on.
    pub(crate) fn audit(&self) -> Result<Audit> {
        Ok(Audit {
            upper: AuditLog::from_now(&self.upper)?,
            lower: AuditLog::from_now(&self.lower)?,
        })
    }
}

// === impl Audit ===

impl Audit {
    /// What was answered since.
    pub(crate) fn requests(&self) -> Result<BothRequests> {
        Ok(BothRequests {
            upper: self.upper.requests()?,
            lower: self.lower.requests()?,
        })
    }
}

// === impl BothRequests ===

impl BothRequests {
    /// The requests of one user.
    pub(crate) fn of(&self, user: &str) -> Self {
        Self {
            upper: self.upper.filter(|request| request.user == user),
            lower: self.lower.filter(|request| request.user == user),
        }
    }
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    let kubeconfig = Kubeconfig::read_from(PathBuf::from(kubeconfig))?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Says on standard error what happens, with the time since the start.
pub(crate) fn tell(what: impl std::fmt::Display) {
    static START: OnceLock<Instant> = OnceLock::new();
    let seconds = START.get_or_init(Instant::now).elapsed().as_secs();
    eprintln!("[{:3}:{:02}] {what}", seconds / 60, seconds % 60);
}

/// Says it on a terminal, in a line that the next one replaces.
pub(crate) fn tell_progress(what: impl std::fmt::Display) {
    if std::io::stderr().is_terminal() {
        eprint!("\r         {what}   \r");
    }
}

/// The time of day, for people.
pub(crate) fn now() -> String {
    let now = k8s_openapi::jiff::Timestamp::now();
    format!("{now:.0}")
}
