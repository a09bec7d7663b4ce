//! Lower clusters from Secrets: they come, change, share replicas, fail and leave. On simulated nodes.
//!
//! All tests share one upper and two lower clusters; each has processes, cluster ids and virtual nodes of its own.

mod below;
mod neighbours;
mod pools;
mod replicas;
mod rolling;
mod secrets;
mod unreachable;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::support::{self, Shared};
use e2e::{Cluster, ClusterSpec, Component, NodeTemplate, PortLease, TestResult};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, Secret};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

/// Longest time for one thing to happen.
const DEADLINE: Duration = Duration::from_secs(60);
const SYSTEM: &str = "tensile-system";

static GROUND: Shared<Ground> = Shared::new();

struct Ground {
    upper: Cluster,
    first: Cluster,
    second: Cluster,
}

/// One process that takes clusters from the Secrets of a system namespace of its own, so that tests do not share any.
struct Replica {
    component: Component,
    admin: PortLease,
    _kubelet: PortLease,
}

/// What one test works with.
struct Site {
    ground: &'static Ground,
    upper: Client,
    /// For pods.
    namespace: String,
    /// For the Secrets.
    system: String,
}

/// Nodes of tests that are over stay behind, not ready: they must neither stop evictions nor hold them up.
const EVICTION: [&str; 2] = ["--unhealthy-zone-threshold=1", "--node-eviction-rate=10"];

async fn mk_ground() -> Result<Ground> {
    let (upper, first, second) = tokio::try_join!(
        Cluster::start(ClusterSpec::new("clusters-upper").controller_manager_args(EVICTION)),
        Cluster::start(ClusterSpec::new("clusters-first").with_audit_log()),
        Cluster::start(ClusterSpec::new("clusters-second").with_audit_log()),
    )?;
    tokio::try_join!(
        first.kwok(
            2,
            NodeTemplate::default()
                .cpu("4")
                .label("disk", "ssd")
                .name_prefix("ssd")
        ),
        first.kwok(
            1,
            NodeTemplate::default()
                .cpu("8")
                .label("disk", "hdd")
                .name_prefix("hdd")
        ),
        second.kwok(2, NodeTemplate::default()),
        // Where no Node at all is ready, nothing is evicted.
        upper.kwok(
            1,
            NodeTemplate::default().taint("e2e/simulated", "", "NoSchedule")
        ),
    )?;
    Ok(Ground { upper, first, second })
}

fn on_site(name: &str, test: impl AsyncFnOnce(&Site) -> Result<()>) -> TestResult {
    GROUND.run(mk_ground, async |ground| {
        let upper = ground.upper.client().await?;
        let system = format!("{SYSTEM}-{name}");
        let object = serde_json::from_value(json!({"metadata": {"name": system}}))?;
        Api::<Namespace>::all(upper.clone())
            .create(&PostParams::default(), &object)
            .await?;
        let namespace = support::namespace_for_pods(&upper).await?;
        test(&Site {
            ground,
            upper,
            namespace,
            system,
        })
        .await
    })
}

/// A pod bound to `node`.
fn mk_pod(name: &str, node: &str) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "ours"}]},
    })
}

fn condition<'a>(object: &'a Value, name: &str) -> &'a Value {
    let mut conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions
        .find(|condition| condition["type"] == name)
        .unwrap_or(&Value::Null)
}

// === impl Replica ===

impl Replica {
    /// A page of its admin server.
    async fn page(&self, path: &str) -> Result<String> {
        let admin = std::net::SocketAddr::from(([127, 0, 0, 1], self.admin.port()));
        let (status, text) = support::http_get(admin, path).await?;
        ensure!(status == 200, "{path}: {status} {text}");
        Ok(text)
    }

    /// A figure of its metrics; none while there is no such thing.
    async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> Result<Option<f64>> {
        let page = self.page("/metrics").await?;
        let is_it = |line: &&str| {
            line.starts_with(&format!("{name}{{"))
                && labels
                    .iter()
                    .all(|(key, value)| line.contains(&format!("{key}=\"{value}\"")))
        };
        let line = page.lines().find(is_it);
        Ok(line.and_then(|line| line.rsplit(' ').next()?.parse().ok()))
    }

    /// What it knows of a pod.
    async fn state(&self, namespace: &str, pod: &str) -> Result<Value> {
        let page = self.page(&format!("/debug/state?pod={namespace}/{pod}")).await?;
        Ok(serde_json::from_str(&page)?)
    }

    async fn await_log(&self, text: &str) -> Result<()> {
        support::await_condition(&format!("{text:?} in the log"), DEADLINE, || async {
            let log = std::fs::read_to_string(self.component.log())?;
            Ok(log.contains(text).then_some(()))
        })
        .await
    }
}

// === impl Site ===

impl Site {
    fn replica(&self, args: &[&str]) -> Result<Replica> {
        self.replica_of(self.ground.upper.kubeconfig(), args)
    }

    /// A process that reaches the upper cluster by another kubeconfig.
    fn replica_of(&self, kubeconfig: &Path, args: &[&str]) -> Result<Replica> {
        let (admin, kubelet) = (PortLease::take()?, PortLease::take()?);
        let mut flags = vec![
            "--clusters-from-secrets".to_owned(),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--system-namespace={}", self.system),
            format!("--admin-listen=127.0.0.1:{}", admin.port()),
            // An address of its own: further virtual nodes take the next ports, which others may have leased.
            format!(
                "--listen=127.77.{}.{}:{}",
                kubelet.port() >> 8,
                kubelet.port() & 255,
                kubelet.port()
            ),
        ];
        flags.extend(args.iter().map(ToString::to_string));
        Ok(Replica {
            component: Component::start("virtual-node", &flags, &[])?,
            admin,
            _kubelet: kubelet,
        })
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.upper.clone(), &self.system)
    }

    /// A budget `guard` that lets no pod with the label `app=guarded` go while it is the only one.
    async fn guard(&self) -> Result<Api<PodDisruptionBudget>> {
        let budgets: Api<PodDisruptionBudget> = Api::namespaced(self.upper.clone(), &self.namespace);
        let budget = json!({"metadata": {"name": "guard"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "guarded"}}}});
        support::create(&budgets, budget).await?;
        support::await_condition("the budget to be counted", DEADLINE, || async {
            let status = budgets.get("guard").await?.status;
            Ok(status.filter(|status| status.expected_pods == Some(1)).map(drop))
        })
        .await?;
        Ok(budgets)
    }

    fn pods(&self, client: &Client) -> Api<Pod> {
        Api::namespaced(client.clone(), &self.namespace)
    }

    /// Makes or changes the Secret of the cluster `id`.
    async fn secret(&self, id: &str, kubeconfig: &str, nodes: &str) -> Result<()> {
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret",
            "metadata": {"name": id, "labels": {"tensile.dev/cluster": id}},
            "stringData": {"kubeconfig": kubeconfig, "nodes.yaml": nodes},
        });
        let params = PatchParams::apply("test").force();
        self.secrets().patch(id, &params, &Patch::Apply(secret)).await?;
        Ok(())
    }

    async fn await_secret(&self, id: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
        support::await_condition(&format!("Secret {id} {what}"), DEADLINE, || async {
            let secret = serde_json::to_value(self.secrets().get_opt(id).await?)?;
            Ok(is_so(&secret).then_some(secret))
        })
        .await
    }

    async fn await_node(&self, name: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Result<Value> {
        let nodes: Api<Node> = Api::all(self.upper.clone());
        support::await_condition(&format!("node {name} {what}"), DEADLINE, || async {
            let node = serde_json::to_value(nodes.get_opt(name).await?)?;
            if is_so(&node) {
                return Ok(Some(node));
            }
            bail!("it is {node}")
        })
        .await
    }

    async fn await_ready(&self, name: &str) -> Result<Value> {
        self.await_node(name, "ready", |node| condition(node, "Ready")["status"] == "True")
            .await
    }

    async fn await_pod(
        &self,
        client: &Client,
        name: &str,
        what: &str,
        is_so: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        support::await_condition(&format!("pod {name} {what}"), DEADLINE, || async {
            let pod = serde_json::to_value(self.pods(client).get_opt(name).await?)?;
            if is_so(&pod) {
                return Ok(Some(pod));
            }
            bail!("it is {pod}")
        })
        .await
    }

    async fn await_running(&self, client: &Client, name: &str) -> Result<Value> {
        let is_so =
            |pod: &Value| pod["status"]["phase"] == "Running" && condition(pod, "Ready")["status"] == "True";
        self.await_pod(client, name, "running", is_so).await
    }

    /// The UIDs of the lower pods by name.
    async fn uids(&self, client: &Client) -> Result<Vec<(String, String)>> {
        let pods = self.pods(client).list(&ListParams::default()).await?;
        let mut uids: Vec<_> = pods
            .items
            .into_iter()
            .filter_map(|pod| Some((pod.metadata.name?, pod.metadata.uid?)))
            .collect();
        uids.sort();
        Ok(uids)
    }
}

fn kubeconfig(cluster: &Cluster) -> Result<String> {
    std::fs::read_to_string(cluster.kubeconfig()).context("no kubeconfig")
}
