//! `cargo demo`: an upper cluster, two lower clusters, a virtual node for each, and a Deployment that runs
//! across them. With `--once` it ends by itself, with exit code 0 only if all of it worked.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use e2e::virtual_node::{VirtualNode, VirtualNodeSpec};
use e2e::{
    BUSYBOX_IMAGE, Binaries, Cluster, ClusterSpec, Components, NodeTemplate, real_nodes_available, support,
};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use tensile_runtime::exit::exit;
use tensile_runtime::shutdown::Shutdown;

/// Replicas of the Deployment: three for each lower cluster, so that both are seen.
const REPLICAS: usize = 6;
const DEADLINE: Duration = Duration::from_secs(120);
const LOWERS: [&str; 2] = ["lower-a", "lower-b"];

/// Shows Tensile at work on this machine.
#[derive(Parser)]
struct Args {
    /// End after everything was shown.
    #[arg(long)]
    once: bool,
    /// Simulated nodes in the lower clusters, also where real ones are possible.
    #[arg(long)]
    simulated: bool,
    /// The demo starts itself again as the components it shows.
    #[command(subcommand)]
    component: Option<Components>,
}

/// Everything that runs. Virtual nodes end before their clusters.
struct Demo {
    nodes: Vec<VirtualNode>,
    upper: Cluster,
    lowers: Vec<Cluster>,
    real: bool,
}

/// Prints what happens, with the time since the start.
struct Progress(Instant);

#[tokio::main]
async fn main() -> ExitCode {
    exit(start().await)
}

async fn start() -> Result<()> {
    let args = Args::parse();
    let shutdown = Shutdown::on_signals()?;
    if let Some(component) = args.component {
        return component.run(shutdown).await;
    }
    let progress = Progress(Instant::now());
    tokio::select! {
        () = shutdown.wait() => Ok(()),
        shown = show(&args, &progress, &shutdown) => shown,
    }
}

async fn show(args: &Args, progress: &Progress, shutdown: &Shutdown) -> Result<()> {
    let demo = Demo::start(args, progress).await?;
    demo.deploy().await?;
    demo.watch_pods(progress).await?;
    demo.logs_and_exec(progress).await?;
    demo.print_kubeconfigs(progress);
    if !args.once {
        progress.say("everything runs; Ctrl-C ends it");
        shutdown.wait().await;
    }
    Ok(())
}

// === impl Progress ===

impl Progress {
    fn say(&self, what: &str) {
        println!("[{:5.1} s] {what}", self.0.elapsed().as_secs_f32());
    }
}

// === impl Demo ===

impl Demo {
    async fn start(args: &Args, progress: &Progress) -> Result<Self> {
        progress.say("Kubernetes binaries: from the cache, or built once (about eight minutes)");
        Binaries::obtain().await?;
        let real = match real_nodes_available() {
            Ok(()) => !args.simulated,
            Err(reason) => {
                progress.say(&format!("no real nodes on this machine: {reason}"));
                false
            }
        };
        let kind = if real {
            "a real kubelet with containerd"
        } else {
            "simulated nodes (kwok)"
        };
        progress.say(&format!(
            "starting one upper and two lower clusters, each lower one with {kind}"
        ));
        let lower = |name: &str| {
            if real {
                ClusterSpec::new(name).with_real_node()
            } else {
                ClusterSpec::new(name)
            }
        };
        let (upper, a, b) = tokio::try_join!(
            Cluster::start(ClusterSpec::new("upper")),
            Cluster::start(lower(LOWERS[0])),
            Cluster::start(lower(LOWERS[1])),
        )?;
        let lowers = vec![a, b];
        if !real {
            for lower in &lowers {
                lower
                    .kwok(2, NodeTemplate::default().cpu("4").memory("8Gi"))
                    .await?;
                lower.add_kwok_log("hello from a simulated pod")?;
            }
        }
        progress.say("starting one virtual node per lower cluster");
        let (a, b) = (
            VirtualNodeSpec::new("virtual-a"),
            VirtualNodeSpec::new("virtual-b"),
        );
        let nodes = tokio::try_join!(a.start(&upper, &lowers[0]), b.start(&upper, &lowers[1]))?;
        let demo = Self {
            nodes: vec![nodes.0, nodes.1],
            upper,
            lowers,
            real,
        };
        println!("{}", demo.kubectl(&["get", "nodes", "-o", "wide"]).await?);
        Ok(demo)
    }

    async fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.upper.kubectl(args).await?.ok()
    }

    async fn deploy(&self) -> Result<()> {
        let manifests =
            json!({"apiVersion": "v1", "kind": "List", "items": [config(), secret(), deployment()]});
        self.upper.apply(&manifests.to_string()).await
    }

    /// Says of each pod, as it comes up, where it runs.
    async fn watch_pods(&self, progress: &Progress) -> Result<()> {
        progress.say("a Deployment of six pods with a ConfigMap and a Secret, created in the upper cluster:");
        let mut told = Vec::new();
        let pods: Api<Pod> = Api::default_namespaced(self.upper.client().await?);
        while told.len() < REPLICAS {
            let running = support::await_condition("the next pod to be Running", DEADLINE, || async {
                let list = pods.list(&ListParams::default().labels("app=hello")).await?;
                let name = |pod: &Pod| pod.metadata.name.clone().unwrap_or_default();
                Ok(list
                    .items
                    .into_iter()
                    .find(|pod| support::is_ready(pod) && !told.contains(&name(pod))))
            })
            .await?;
            let name = running.metadata.name.clone().unwrap_or_default();
            progress.say(&format!("  {}", self.placement(&running).await?));
            told.push(name);
        }
        Ok(())
    }

    async fn placement(&self, pod: &Pod) -> Result<String> {
        let name = pod.metadata.name.as_deref().context("a pod without a name")?;
        let virtual_node = pod
            .spec
            .as_ref()
            .and_then(|spec| spec.node_name.as_deref())
            .context("not bound")?;
        let index = self
            .nodes
            .iter()
            .position(|node| node.name() == virtual_node)
            .context("not a virtual node")?;
        let below: Api<Pod> = Api::default_namespaced(self.lowers[index].client().await?);
        let lower_node = below
            .get(name)
            .await?
            .spec
            .and_then(|spec| spec.node_name)
            .unwrap_or_default();
        Ok(format!(
            "{name}: virtual node {virtual_node}, in {} on node {lower_node}",
            LOWERS[index]
        ))
    }

    async fn logs_and_exec(&self, progress: &Progress) -> Result<()> {
        progress.say("kubectl logs deployment/hello, through the upper cluster:");
        let logs = support::await_condition("the log to be there", DEADLINE, || async {
            let logs = self.kubectl(&["logs", "deployment/hello"]).await?;
            Ok(logs.contains("hello").then_some(logs))
        })
        .await?;
        print!("{logs}");
        progress.say("kubectl exec deployment/hello, through the upper cluster:");
        let command = if self.real {
            "hostname; cat /config/greeting; echo; echo $PASSWORD"
        } else {
            "echo exec works"
        };
        let output = self
            .kubectl(&["exec", "deployment/hello", "--", "sh", "-c", command])
            .await?;
        print!("{output}");
        let expected = if self.real {
            ["hello-", "from a ConfigMap", "from a Secret"].as_slice()
        } else {
            &["exec works"]
        };
        ensure!(
            expected.iter().all(|part| output.contains(part)),
            "exec printed something else"
        );
        Ok(())
    }

    fn print_kubeconfigs(&self, progress: &Progress) {
        progress.say("look around with kubectl:");
        for cluster in std::iter::once(&self.upper).chain(&self.lowers) {
            println!(
                "export KUBECONFIG={}  # {}",
                cluster.kubeconfig().display(),
                cluster.name()
            );
        }
    }
}

fn config() -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "greeting"}, "data": {"greeting": "from a ConfigMap"}})
}

fn secret() -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "password"}, "stringData": {"PASSWORD": "from a Secret"}})
}

fn deployment() -> Value {
    let script = "echo hello from $POD; trap 'exit 0' TERM; while :; do sleep 1; done";
    let container = json!({
        "name": "hello",
        "image": BUSYBOX_IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
        "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        "envFrom": [{"secretRef": {"name": "password"}}],
        "volumeMounts": [{"name": "config", "mountPath": "/config"}],
        "resources": {"requests": {"cpu": "10m", "memory": "8Mi"}},
    });
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "hello"},
        "spec": {
            "replicas": REPLICAS,
            "selector": {"matchLabels": {"app": "hello"}},
            "template": {
                "metadata": {"labels": {"app": "hello"}},
                "spec": {
                    "terminationGracePeriodSeconds": 2,
                    "tolerations": [{"key": "virtual-kubelet.io/provider", "operator": "Exists"}],
                    "containers": [container],
                    "volumes": [{"name": "config", "configMap": {"name": "greeting"}}],
                },
            },
        },
    })
}
