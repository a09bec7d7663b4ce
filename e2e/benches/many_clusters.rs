//! What many lower clusters in one process cost: memory, connections and idle processor time, by number of clusters.
//!
//! `cargo bench -p e2e --bench many_clusters -- [--clusters 100] [--lowers 2] [--pods 5]`.
//!
//! A machine that runs a hundred control planes is a large one: here many Secrets lead to a few of them. For the process
//! each is a cluster of its own, with its own lease, connection, watches and virtual node. What is not simulated so are
//! lower clusters that differ: each virtual node sees the pods of the others as lower pods of ours, and drops them.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use e2e::measure::{Report, Table, describe_machine};
use e2e::support::{self, await_condition};
use e2e::{Cluster, ClusterSpec, Component, NodeTemplate, PortLease};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Secret};
use kube::api::ListParams;
use kube::{Api, Client};
use serde_json::json;

/// Longest time for all clusters of a step to be ready.
const DEADLINE: Duration = Duration::from_secs(300);
/// How long the process is watched doing nothing.
const IDLE: Duration = Duration::from_secs(20);
const SYSTEM: &str = "tensile-system";
/// State of an established connection in /proc/net/tcp.
const ESTABLISHED: &str = "01";

/// How large a run is.
#[derive(Debug, Parser)]
struct Args {
    /// Lower clusters in the last step; a tenth of them in the one before.
    #[arg(long, default_value_t = 100)]
    clusters: usize,
    /// Real control planes that they are spread over.
    #[arg(long, default_value_t = 2)]
    lowers: usize,
    /// Pods of each lower cluster.
    #[arg(long, default_value_t = 5)]
    pods: usize,
    /// Virtual nodes of each lower cluster.
    #[arg(long, default_value_t = 1)]
    nodes: usize,
    /// Given by `cargo bench`; without it, as from `cargo test --benches`, nothing is measured.
    #[arg(long, hide = true)]
    bench: bool,
}

struct Ground {
    upper: Cluster,
    client: Client,
    lowers: Vec<Cluster>,
    namespace: String,
    component: Component,
    _ports: [PortLease; 2],
}

/// What the process needs at one moment.
#[derive(Clone, Copy, Debug)]
struct Needs {
    /// Anonymous memory in bytes; the program itself is not in it, so that a debug build shows the same.
    memory: f64,
    upper_connections: usize,
    lower_connections: usize,
}

fn main() -> Result<()> {
    let args = Args::parse();
    e2e::measure::run("many_clusters", args.bench, measure(&args))
}

async fn measure(args: &Args) -> Result<()> {
    let ground = Ground::start(args).await?;
    let mut table = Table {
        title: format!(
            "{} virtual nodes and {} pods per lower cluster, {} control planes below",
            args.nodes, args.pods, args.lowers
        ),
        header: [
            "lower clusters",
            "memory (MB)",
            "more per cluster (KB)",
            "connections above",
            "connections below",
            "idle CPU (% of a core)",
            "ready after (s)",
        ]
        .map(str::to_owned)
        .to_vec(),
        rows: Vec::new(),
    };
    let (mut there, mut first) = (0, None);
    for wanted in [1, (args.clusters / 10).max(2), args.clusters] {
        let started = Instant::now();
        ground.add(there..wanted, args).await?;
        let took = started.elapsed();
        let needs = ground.needs()?;
        let idle = ground.idle().await?;
        let (base, from) = *first.get_or_insert((needs.memory, wanted));
        let more = if wanted > from {
            format!("{:.0}", (needs.memory - base) / count(wanted - from) / 1024.0)
        } else {
            String::new()
        };
        table.rows.push(vec![
            wanted.to_string(),
            format!("{:.1}", needs.memory / 1024.0 / 1024.0),
            more,
            needs.upper_connections.to_string(),
            needs.lower_connections.to_string(),
            format!("{idle:.1}"),
            format!("{:.1}", took.as_secs_f64()),
        ]);
        there = wanted;
    }
    let report = Report {
        title: "Many lower clusters in one process".to_owned(),
        facts: vec![format!("measured on {}", describe_machine())],
        tables: vec![table],
        ..Report::default()
    };
    println!("{}", report.text());
    Ok(())
}

fn count(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

fn id(number: usize) -> String {
    format!("many-{number}")
}

fn node(cluster: usize, number: usize) -> String {
    format!("many-{cluster}-{number}")
}

// === impl Ground ===

impl Ground {
    async fn start(args: &Args) -> Result<Self> {
        let upper = Cluster::start(ClusterSpec::new("many-upper")).await?;
        let mut lowers = Vec::new();
        for number in 0..args.lowers.max(1) {
            let lower = Cluster::start(ClusterSpec::new(&format!("many-lower-{number}"))).await?;
            for pool in 0..args.nodes.max(1) {
                let template = NodeTemplate::default()
                    .pods(10_000)
                    .label("pool", &pool.to_string())
                    .name_prefix(&format!("pool-{pool}"));
                lower.kwok(2, template).await?;
            }
            lowers.push(lower);
        }
        let client = upper.client().await?;
        let system = json!({"metadata": {"name": SYSTEM}});
        support::create(&Api::<Namespace>::all(client.clone()), system).await?;
        let namespace = support::namespace_for_pods(&client).await?;
        let ports = [PortLease::take()?, PortLease::take()?];
        let flags = [
            "--clusters-from-secrets".to_owned(),
            format!("--kubeconfig={}", upper.kubeconfig().display()),
            format!("--admin-listen=127.0.0.1:{}", ports[0].port()),
            format!("--listen=127.78.0.1:{}", ports[1].port()),
        ];
        Ok(Self {
            component: Component::start("virtual-node", &flags, &[])?,
            upper,
            client,
            lowers,
            namespace,
            _ports: ports,
        })
    }

    /// Adds lower clusters with their pods and waits until all of that runs.
    async fn add(&self, clusters: std::ops::Range<usize>, args: &Args) -> Result<()> {
        for number in clusters.clone() {
            let lower = &self.lowers[number % self.lowers.len()];
            let nodes: Vec<_> = (0..args.nodes)
                .map(|pool| {
                    json!({"name": node(number, pool), "selector": {"matchLabels": {"pool": pool.to_string()}}})
                })
                .collect();
            let secret = json!({
                "metadata": {"name": id(number), "labels": {"tensile.dev/cluster": id(number)}},
                "stringData": {
                    "kubeconfig": fs::read_to_string(lower.kubeconfig())?,
                    "nodes.yaml": json!({"nodes": nodes}).to_string(),
                },
            });
            support::create(&Api::<Secret>::namespaced(self.client.clone(), SYSTEM), secret).await?;
        }
        let all = clusters.end * args.nodes;
        await_condition("all Nodes to be ready", DEADLINE, || async {
            self.component.check_running()?;
            let nodes = Api::<Node>::all(self.client.clone());
            let nodes = nodes
                .list(&ListParams::default().labels("type=virtual-kubelet"))
                .await?;
            let ready = nodes.items.iter().filter(|node| is_ready(node)).count();
            ensure!(ready == all, "{ready} of {all}");
            Ok(Some(()))
        })
        .await?;
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        for cluster in clusters.clone() {
            for number in 0..args.pods {
                let spec = json!({"nodeName": node(cluster, number % args.nodes),
                                  "automountServiceAccountToken": false,
                                  "containers": [{"name": "main", "image": "ours"}]});
                let name = format!("p-{cluster}-{number}");
                support::create(&pods, json!({"metadata": {"name": name}, "spec": spec})).await?;
            }
        }
        let all = clusters.end * args.pods;
        await_condition("all pods to run", DEADLINE, || async {
            let running = ListParams::default().fields("status.phase=Running");
            let running = pods.list_metadata(&running).await?.items.len();
            ensure!(running == all, "{running} of {all}");
            Ok(Some(()))
        })
        .await
    }

    fn needs(&self) -> Result<Needs> {
        let pid = self.component.pid();
        let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
        let kilobytes: u32 = line
            .and_then(|line| line.split_whitespace().next()?.parse().ok())
            .context("no RssAnon in /proc")?;
        let connections = connections(pid)?;
        let to = |cluster: &Cluster| {
            connections
                .get(&cluster.api_server().port())
                .copied()
                .unwrap_or_default()
        };
        Ok(Needs {
            memory: f64::from(kilobytes) * 1024.0,
            upper_connections: to(&self.upper),
            lower_connections: self.lowers.iter().map(to).sum(),
        })
    }

    /// Per cent of a core that the process uses when nothing happens.
    async fn idle(&self) -> Result<f64> {
        let before = self.component.cpu_seconds()?;
        tokio::time::sleep(IDLE).await;
        Ok((self.component.cpu_seconds()? - before) / IDLE.as_secs_f64() * 100.0)
    }
}

fn is_ready(node: &Node) -> bool {
    let conditions = node.status.as_ref().and_then(|status| status.conditions.as_ref());
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

/// Connections of a process by port at the other end.
fn connections(pid: u32) -> Result<HashMap<u16, usize>> {
    let mut sockets = HashSet::new();
    for file in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // One may be closed while we look.
        if let Ok(link) = fs::read_link(file?.path()) {
            let name = link.to_string_lossy().into_owned();
            sockets.extend(
                name.strip_prefix("socket:[")
                    .map(|rest| rest.trim_end_matches(']').to_owned()),
            );
        }
    }
    let mut ports = HashMap::new();
    for line in fs::read_to_string(format!("/proc/{pid}/net/tcp"))?
        .lines()
        .skip(1)
    {
        // sl local_address rem_address st … inode, see proc_net_tcp(5).
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [_, _, remote, state, ..] = fields[..] else {
            continue;
        };
        let ours = fields.get(9).is_some_and(|inode| sockets.contains(*inode));
        let port = remote
            .rsplit_once(':')
            .and_then(|(_, port)| u16::from_str_radix(port, 16).ok());
        if let Some(port) = port.filter(|_| ours && state == ESTABLISHED) {
            *ports.entry(port).or_default() += 1;
        }
    }
    Ok(ports)
}
