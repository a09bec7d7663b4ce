//! Memory of one process with very many pods: in one lower cluster, and as many spread over ten.
//!
//! What costs memory is what the process knows, so the lower clusters have an API server, etcd and kwok only: pods are
//! bound to their node by an override, and nothing else is controlled there.

use std::time::Duration;

use anyhow::{Context, Result};
use e2e::measure::{Line, PodWatch, Report, peak_rss};
use e2e::{Cluster, ClusterSpec, Component, NodeTemplate, PortLease, support};
use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use kube::api::PostParams;
use kube::{Api, Client};
use serde::de::IgnoredAny;
use serde_json::json;

use crate::args::Args;
use crate::burst::count;
use crate::ground::tell;
use crate::load::WRITERS;

/// For the report.
pub(crate) const FACT: &str = "lower clusters of an API server, etcd and kwok each, on this machine together; pods are bound by an override";
const SYSTEM: &str = "tensile-system";
const NAMESPACE: &str = "many";
/// Lower clusters of the second measurement.
const CLUSTERS: usize = 10;
/// Longest time until all pods run.
const DEADLINE: Duration = Duration::from_secs(900);
/// Bytes of a megabyte, and the goals: megabytes with all pods in one cluster, and percent that ten clusters may differ.
const MEGA: f64 = 1e6;
const ONE: f64 = 60.0;
const DIFFERENCE: f64 = 20.0;

/// Resident memory in bytes: at rest with all pods, at most, and before there were any.
struct Memory {
    rest: f64,
    peak: f64,
    empty: f64,
}

/// Adds the figures.
pub(crate) async fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let pods = args.pods * 2;
    let one = resident(args, 1, pods).await?;
    let ten = resident(args, CLUSTERS, pods / CLUSTERS).await?;
    let line = |what: String, memory: &Memory| {
        let from = format!(
            "{:.1} MB at most, {:.1} MB before there were pods",
            memory.peak / MEGA,
            memory.empty / MEGA
        );
        Line::new(what, memory.rest / MEGA, "MB", from)
    };
    report
        .lines
        .push(line(format!("resident memory, 1 cluster with {pods} pods"), &one).at_most(ONE));
    let what = format!(
        "resident memory, {CLUSTERS} clusters with {} pods each",
        pods / CLUSTERS
    );
    report.lines.push(line(what, &ten));
    let difference = (ten.rest / one.rest - 1.0) * 100.0;
    let from = format!("{difference:+.0} %");
    let what = format!("{CLUSTERS} clusters against 1, with as many pods");
    report
        .lines
        .push(Line::new(what, difference.abs(), "%", from).at_most(DIFFERENCE));
    Ok(())
}

async fn resident(args: &Args, clusters: usize, pods: usize) -> Result<Memory> {
    tell(format!("memory with {clusters} × {pods} pods"));
    let upper = Cluster::start(bare("many-upper")).await?;
    let lower = try_join_all((0..clusters).map(|number| start_lower(number, pods))).await?;
    let client = upper.client().await?;
    for name in [SYSTEM, NAMESPACE] {
        support::create(
            &Api::<Namespace>::all(client.clone()),
            json!({"metadata": {"name": name}}),
        )
        .await?;
    }
    let watch = PodWatch::start(client.clone(), NAMESPACE).await?;
    let (admin, kubelet) = (PortLease::take()?, PortLease::take()?);
    let flags = [
        "--clusters-from-secrets".to_owned(),
        format!("--kubeconfig={}", upper.kubeconfig().display()),
        format!("--admin-listen=127.0.0.1:{}", admin.port()),
        // An address of its own: further virtual nodes take the next ports.
        format!(
            "--listen=127.88.{}.{}:{}",
            kubelet.port() >> 8,
            kubelet.port() & 255,
            kubelet.port()
        ),
    ];
    let component = Component::start_from(args.binary().as_deref(), "virtual-node", &flags, &[])?;
    for (number, cluster) in lower.iter().enumerate() {
        make_secret(&client, &node(number), cluster).await?;
    }
    for number in 0..clusters {
        await_ready(&client, &node(number)).await?;
    }
    let empty = component.rss()?;
    let all: Vec<(usize, usize)> = (0..clusters)
        .flat_map(|c| (0..pods).map(move |pod| (c, pod)))
        .collect();
    stream::iter(&all)
        .map(|(cluster, pod)| create(client.clone(), node(*cluster), format!("p-{cluster}-{pod}")))
        .buffer_unordered(WRITERS)
        .try_collect::<()>()
        .await?;
    let total = all.len();
    watch
        .until("all pods Running", DEADLINE, |now| now.running == total, |_| {})
        .await?;
    tokio::time::sleep(Duration::from_secs(15)).await;
    let memory = Memory {
        rest: bytes(component.rss()?),
        peak: bytes(peak_rss(&component)?),
        empty: bytes(empty),
    };
    tell(format!("{:.1} MB", memory.rest / MEGA));
    Ok(memory)
}

/// Bytes as a number to divide.
fn bytes(resident: u64) -> f64 {
    count(usize::try_from(resident).unwrap_or(usize::MAX))
}

/// A control plane without controllers, which refuses no pod for want of a service account, and taints no new node: nobody
/// would take the taint away when the node is ready.
fn bare(name: &str) -> ClusterSpec {
    ClusterSpec::new(name)
        .without_scheduler()
        .without_controller_manager()
        .api_server_args(["--disable-admission-plugins=ServiceAccount,TaintNodesByCondition"])
}

async fn start_lower(number: usize, pods: usize) -> Result<Cluster> {
    let cluster = Cluster::start(bare(&format!("many-{number}"))).await?;
    let room = u32::try_from(pods + 100)?;
    cluster
        .kwok(1, NodeTemplate::default().cpu("10000").memory("10Ti").pods(room))
        .await?;
    Ok(cluster)
}

fn node(number: usize) -> String {
    format!("c{number}")
}

async fn make_secret(client: &Client, id: &str, lower: &Cluster) -> Result<()> {
    let kubeconfig = std::fs::read_to_string(lower.kubeconfig()).context("no kubeconfig")?;
    let bound = json!({"op": "add", "path": "/spec/nodeName", "value": format!("{}-0", lower.name())});
    let nodes = json!({"overrides": [{"patch": [bound]}]});
    let secret = json!({
        "metadata": {"name": id, "labels": {"tensile.dev/cluster": id}},
        "stringData": {"kubeconfig": kubeconfig, "nodes.yaml": nodes.to_string()},
    });
    support::create(&Api::<Secret>::namespaced(client.clone(), SYSTEM), secret).await?;
    Ok(())
}

async fn await_ready(client: &Client, name: &str) -> Result<()> {
    let nodes: Api<k8s_openapi::api::core::v1::Node> = Api::all(client.clone());
    support::await_condition(&format!("node {name} ready"), DEADLINE, || async {
        let node = serde_json::to_value(nodes.get_opt(name).await?)?;
        let mut conditions = node["status"]["conditions"].as_array().into_iter().flatten();
        let ready = conditions.any(|one| one["type"] == "Ready" && one["status"] == "True");
        Ok(ready.then_some(()))
    })
    .await
}

async fn create(client: Client, node: String, name: String) -> Result<()> {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": {"app": "bench"}},
        "spec": {"nodeName": node, "automountServiceAccountToken": false,
                 "containers": [{"name": "main", "image": "bench", "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}}}]},
    });
    let pods = format!("/api/v1/namespaces/{NAMESPACE}/pods");
    let request = kube::core::Request::new(pods).create(&PostParams::default(), serde_json::to_vec(&pod)?)?;
    client.request::<IgnoredAny>(request).await?;
    Ok(())
}
