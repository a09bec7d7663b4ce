//! The kubelet API of a virtual node in front of real kubelets: to every generation of clients, to metrics-server and
//! Prometheus, and to those who may not ask.
//!
//! All tests share one pair of clusters and one virtual node, which has the rights of the chart's roles and no others.
//! The upper API server and metrics-server verify the virtual node's certificate, which the upper cluster signs.

mod certificate;
mod client;
mod containers;
mod endpoints;
mod languages;
mod logs;
mod panels;
mod ports;
mod prometheus;
mod refusals;
mod restart;
mod usage;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::support::{self, Shared};
use e2e::virtual_node::{VirtualNode, VirtualNodeSpec};
use e2e::{
    BUSYBOX_IMAGE, Cluster, ClusterSpec, MetricsServer, Output, TestResult, real_nodes_or_report, rights,
};
use kube::Client;
use serde_json::{Value, json};

/// Longest time for one thing to happen.
const DEADLINE: Duration = Duration::from_secs(90);
/// The virtual node.
const NODE: &str = "vn-a";
/// Others that single tests start.
const BY_HAND: &str = "vn-by-hand";
const RESTARTED: &str = "vn-restarted";
/// A script that does nothing until it is told to end.
const IDLE: &str = "trap 'exit 0' TERM; sleep 3600 & wait";
/// Life of the certificates that the upper cluster signs. It backdates them by five minutes, so that they are due 60 s
/// after they were signed: 0.8 × (300 + 150) − 300.
const CERTIFICATE_LIFE: &str = "150s";

static GROUND: Shared<Ground> = Shared::new();

/// An upper cluster, a lower one with a real node, a virtual node between them, and metrics-server above.
struct Ground {
    upper: Cluster,
    lower: Cluster,
    node: VirtualNode,
    /// Kubeconfigs with the rights of the chart, above and below.
    rights: [PathBuf; 2],
    _metrics_server: MetricsServer,
}

/// A namespace of its own for one test.
struct Site {
    ground: &'static Ground,
    namespace: String,
    client: Client,
}

async fn mk_ground() -> Result<Ground> {
    let upper = ClusterSpec::new("clients-upper")
        .reachable_from_pods()
        .with_autoscaling()
        .verify_kubelets()
        .controller_manager_args([format!("--cluster-signing-duration={CERTIFICATE_LIFE}")]);
    let (upper, lower) = tokio::try_join!(
        Cluster::start(upper),
        Cluster::start(ClusterSpec::new("clients-lower").with_real_node()),
    )?;
    let approves = ["virtualNode.approveServingCertificate=true"];
    let (above, below) = tokio::try_join!(
        rights::for_upper_with(&upper, &approves),
        rights::for_lower(&lower)
    )?;
    let rights = [above, below];
    let spec = mk_node(NODE, &rights).address(upper.address()).args([
        "--serving-certificate",
        "csr",
        "--approve-serving-certificate",
    ]);
    let (node, metrics_server) = tokio::try_join!(spec.start(&upper, &lower), upper.start_metrics_server())?;
    certificate::await_signed(&upper, NODE, 1).await?;
    Ok(Ground {
        upper,
        lower,
        node,
        rights,
        _metrics_server: metrics_server,
    })
}

/// A virtual node with the rights of the chart above and below.
fn mk_node(name: &str, [above, below]: &[PathBuf; 2]) -> VirtualNodeSpec {
    VirtualNodeSpec::new(name)
        .upper_kubeconfig(above)
        .lower_kubeconfig(below)
}

/// Runs a test in a namespace of its own.
fn on_site(test: impl AsyncFnOnce(Site) -> Result<()>) -> TestResult {
    if !real_nodes_or_report()? {
        return Ok(());
    }
    GROUND.run(mk_ground, async |ground| {
        let client = ground.upper.client().await?;
        let namespace = support::namespace_for_pods(&client).await?;
        test(Site {
            ground,
            namespace,
            client,
        })
        .await
    })
}

/// A pod that tolerates the virtual node and may be killed at once; `spec` is added.
fn mk_pod(name: &str, spec: &Value) -> Value {
    let base = json!({
        "terminationGracePeriodSeconds": 1,
        "tolerations": [{"key": "virtual-kubelet.io/provider", "operator": "Exists"}],
    });
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": with(base, spec),
    })
}

/// A container that runs a script; `more` is added.
fn mk_container(name: &str, script: &str, more: &Value) -> Value {
    with(
        json!({"name": name, "image": BUSYBOX_IMAGE, "command": ["sh", "-c", script]}),
        more,
    )
}

fn mk_simple(name: &str, script: &str) -> Value {
    mk_pod(
        name,
        &json!({"containers": [mk_container("main", script, &json!({}))]}),
    )
}

/// `base` with the members of `more`.
fn with(mut base: Value, more: &Value) -> Value {
    for (key, value) in more.as_object().into_iter().flatten() {
        base[key] = value.clone();
    }
    base
}

// === impl Site ===

impl Site {
    async fn kubectl(&self, args: &[&str]) -> Result<Output> {
        let args = [&["--namespace", &self.namespace], args].concat();
        self.ground.upper.kubectl(&args).await
    }

    /// What kubectl prints; an error if it fails.
    async fn kubectl_ok(&self, args: &[&str]) -> Result<String> {
        self.kubectl(args)
            .await?
            .ok()
            .with_context(|| format!("kubectl {}", args.join(" ")))
    }

    async fn apply(&self, objects: &[Value]) -> Result<()> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        let args = ["--namespace", &self.namespace, "apply", "-f", "-"];
        let upper = &self.ground.upper;
        upper.kubectl_with_input(&args, &list).await?.ok().map(drop)
    }

    /// Applies pods and waits until they are Running and Ready.
    async fn run(&self, pods: &[Value]) -> Result<()> {
        self.apply(pods).await?;
        for pod in pods {
            let name = pod["metadata"]["name"].as_str().context("a pod without a name")?;
            support::pod_running(&self.client, &self.namespace, name, DEADLINE).await?;
        }
        Ok(())
    }
}
