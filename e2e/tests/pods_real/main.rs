//! Pods of a virtual node on a real lower cluster: what a user of the upper cluster sees and can do.
//!
//! All tests share one pair of clusters and one virtual node; each has a namespace of its own.

mod config;
mod dns;
mod ending;
mod exec;
mod identity;
mod kubelet_port;
mod logs;
mod prefix;
mod surroundings;
mod workloads;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::support::{self, Shared};
use e2e::virtual_node::{VirtualNode, VirtualNodeSpec};
use e2e::{BUSYBOX_IMAGE, Cluster, ClusterSpec, Output, TestResult, real_nodes_or_report};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::{Api, Client};
use serde_json::{Value, json};

/// Longest time for one thing to happen.
const DEADLINE: Duration = Duration::from_secs(90);
/// The virtual node.
const NODE: &str = "vn";
/// A script that does nothing until it is told to end.
const IDLE: &str = "trap 'exit 0' TERM; sleep 3600 & wait";

static GROUND: Shared<Ground> = Shared::new();

/// An upper cluster, a lower one with a real node, and a virtual node between them.
struct Ground {
    upper: Cluster,
    lower: Cluster,
    node: VirtualNode,
}

/// A namespace of its own for one test.
struct Site {
    ground: &'static Ground,
    namespace: String,
    client: Client,
}

async fn mk_ground() -> Result<Ground> {
    let (upper, lower) = tokio::try_join!(
        Cluster::start(ClusterSpec::new("pods-upper").reachable_from_pods()),
        Cluster::start(ClusterSpec::new("pods-lower").with_real_node()),
    )?;
    let node = VirtualNodeSpec::new(NODE).start(&upper, &lower).await?;
    Ok(Ground { upper, lower, node })
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
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": mk_spec(spec),
    })
}

fn mk_spec(more: &Value) -> Value {
    let base = json!({
        "terminationGracePeriodSeconds": 1,
        "tolerations": [{"key": "virtual-kubelet.io/provider", "operator": "Exists"}],
    });
    with(base, more)
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
        self.ground.upper.kubectl(&self.args(args)).await
    }

    /// What kubectl prints; an error if it fails.
    async fn kubectl_ok(&self, args: &[&str]) -> Result<String> {
        self.kubectl(args)
            .await?
            .ok()
            .with_context(|| format!("kubectl {}", args.join(" ")))
    }

    /// Waits until the log is this: a container runs before its command has written anything.
    async fn await_log(&self, args: &[&str], wanted: &str) -> Result<()> {
        let args = [&["logs"], args].concat();
        support::await_condition(&args.join(" "), DEADLINE, || async {
            let log = self.kubectl_ok(&args).await?;
            ensure!(log == wanted, "{log:?}");
            Ok(Some(()))
        })
        .await
    }

    fn args<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        [&["--namespace", &self.namespace], args].concat()
    }

    async fn apply(&self, objects: &[Value]) -> Result<()> {
        let list = json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string();
        let args = self.args(&["apply", "-f", "-"]);
        self.ground
            .upper
            .kubectl_with_input(&args, &list)
            .await?
            .ok()
            .map(drop)
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

    /// The upper pod; null if there is none.
    async fn pod(&self, name: &str) -> Result<Value> {
        pod(self.client.clone(), &self.namespace, name).await
    }

    /// The lower pod; null if there is none.
    async fn lower_pod(&self, name: &str) -> Result<Value> {
        pod(self.ground.lower.client().await?, &self.namespace, name).await
    }

    /// All pods of this namespace above and below.
    async fn pods(&self) -> Result<[Vec<Value>; 2]> {
        let list = async |client: Client| -> Result<Vec<Value>> {
            let pods: Api<Pod> = Api::namespaced(client, &self.namespace);
            let pods = pods.list(&ListParams::default()).await?;
            Ok(pods
                .items
                .iter()
                .map(serde_json::to_value)
                .collect::<Result<_, _>>()?)
        };
        Ok([
            list(self.client.clone()).await?,
            list(self.ground.lower.client().await?).await?,
        ])
    }

    /// Waits until the upper pod is as it should be; returns it.
    async fn await_pod(&self, name: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
        let what = format!("pod {name} {what}");
        support::await_condition(&what, DEADLINE, || async {
            let pod = self.pod(name).await?;
            if is_so(&pod) {
                return Ok(Some(pod));
            }
            anyhow::bail!("its status is {}", pod["status"])
        })
        .await
    }

    /// What a command prints in a pod.
    async fn exec(&self, pod: &str, script: &str) -> Result<String> {
        self.kubectl_ok(&["exec", pod, "--", "sh", "-c", script]).await
    }
}

async fn pod(client: Client, namespace: &str, name: &str) -> Result<Value> {
    let pods: Api<Pod> = Api::namespaced(client, namespace);
    Ok(serde_json::to_value(pods.get_opt(name).await?)?)
}
