//! A real kube-scheduler with the extender, as the chart sets them up, in front of three clusters of thirty nodes.
//!
//! All tests share the clusters and take turns: each needs to know what is free.

mod avoidance;
mod burst;
mod certificate;
mod fragments;
mod pages;
mod preemption;
mod prefixed;
mod secrets;
mod splits;
mod unknown;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::descheduler::write_clusters;
use e2e::extender::{Extender, ExtenderSpec};
use e2e::support::{self, Shared};
use e2e::virtual_node::{VirtualNode, VirtualNodeSpec};
use e2e::{Cluster, ClusterSpec, NodeTemplate, TestResult};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tensile_core::resources::Resources;
use tokio::sync::Mutex;

/// Longest time for one thing to happen.
const DEADLINE: Duration = Duration::from_secs(90);
/// Nodes of each lower cluster, of two CPUs each.
const NODES: usize = 30;
const NODE_MILLI_CPU: usize = 2_000;
/// Requests at a time.
const PARALLEL: usize = 16;
/// Where the lower clusters' own pods are.
const FILLERS: &str = "default";

static GROUND: Shared<Ground> = Shared::new();

struct Ground {
    upper: Cluster,
    /// By id.
    lower: BTreeMap<&'static str, Cluster>,
    _nodes: Vec<VirtualNode>,
    spec: ExtenderSpec,
    clusters: PathBuf,
    /// Who has it has the turn.
    extender: Mutex<Option<Extender>>,
}

/// The ground while it is one test's turn.
struct Site<'a> {
    ground: &'a Ground,
    upper: Client,
    namespace: String,
}

async fn mk_ground() -> Result<Ground> {
    let spec = ExtenderSpec::new()?;
    let upper = ClusterSpec::new("ext-upper").scheduler_config(spec.scheduler_config()?);
    let (upper, a, b, c) = tokio::try_join!(
        Cluster::start(upper),
        Cluster::start(ClusterSpec::new("ext-a")),
        Cluster::start(ClusterSpec::new("ext-b")),
        Cluster::start(ClusterSpec::new("ext-c")),
    )?;
    let lower = BTreeMap::from([("a", a), ("b", b), ("c", c)]);
    let mut nodes = Vec::new();
    for (id, cluster) in &lower {
        let template = NodeTemplate::default().cpu("2").memory("8Gi");
        cluster.kwok(NODES, template).await?;
        nodes.push(VirtualNodeSpec::new(id).start(&upper, cluster).await?);
    }
    let all: Vec<(&str, &Cluster)> = lower.iter().map(|(id, cluster)| (*id, cluster)).collect();
    let clusters = write_clusters(nodes[0].component.folder(), &all)?;
    Ok(Ground {
        upper,
        lower,
        _nodes: nodes,
        spec,
        clusters,
        extender: Mutex::default(),
    })
}

/// Runs a test when it is its turn, with an extender that has just started and in a namespace of its own; all pods of
/// both levels go when it ends.
fn on_site(test: impl AsyncFnOnce(&Site<'_>, &mut Option<Extender>) -> Result<()>) -> TestResult {
    GROUND.run(mk_ground, async |ground| {
        let mut extender = ground.extender.lock().await;
        let upper = ground.upper.client().await?;
        let namespace = support::namespace_for_pods(&upper).await?;
        let site = Site {
            ground,
            upper,
            namespace,
        };
        site.start_extender(&mut extender, &[]).await?;
        // Also after a failure: others come after this one.
        let outcome = test(&site, &mut extender).await;
        outcome.and(site.clear().await)
    })
}

// === impl Site ===

impl Site<'_> {
    /// Starts the extender anew with the folder of all clusters and these flags, and waits until it knows them.
    async fn start_extender(&self, extender: &mut Option<Extender>, args: &[&str]) -> Result<()> {
        let all = self.ground.lower.len();
        self.start_extender_from(extender, &self.folder(), args, all)
            .await
    }

    /// Starts the extender anew while one cluster is dead.
    async fn start_extender_with_dead(&self, extender: &mut Option<Extender>, args: &[&str]) -> Result<()> {
        let all = self.ground.lower.len();
        self.start_extender_from(extender, &self.folder(), args, all - 1)
            .await
    }

    fn folder(&self) -> String {
        format!("--clusters-dir={}", self.ground.clusters.display())
    }

    /// Starts the extender anew with clusters from `source`, and waits until it knows so many.
    async fn start_extender_from(
        &self,
        extender: &mut Option<Extender>,
        source: &str,
        args: &[&str],
        known: usize,
    ) -> Result<()> {
        let ground = self.ground;
        // The old one's ports are free only when it is gone.
        drop(extender.take());
        let args: Vec<&str> = [source].iter().chain(args).copied().collect();
        let started = extender.insert(ground.spec.start(&ground.upper, &args).await?);
        self.knows(started, known).await
    }

    /// Waits until the extender trusts its models of so many clusters.
    async fn knows(&self, extender: &Extender, clusters: usize) -> Result<()> {
        support::await_condition("models to be trusted", DEADLINE, || async {
            let told = self.explain_any(extender).await?;
            let trusted = told.values().filter(|told| told["error"].is_null()).count();
            ensure!(trusted == clusters, "{told:?}");
            Ok(Some(()))
        })
        .await
    }

    /// What every virtual node says to a pod that asks for nothing.
    async fn explain_any(&self, extender: &Extender) -> Result<serde_json::Map<String, Value>> {
        let api: Api<Pod> = Api::namespaced(self.upper.clone(), &self.namespace);
        if api.get_opt("any").await?.is_none() {
            let mut pod = self.mk_pod("any", 0)?;
            // It is only asked about.
            pod["spec"]["schedulerName"] = json!("nobody");
            support::create(&api, pod).await?;
        }
        let told = extender
            .page(&format!("/explain?pod={}/any", self.namespace))
            .await?;
        Ok(told.as_object().cloned().unwrap_or_default())
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.upper.clone(), &self.namespace)
    }

    async fn below(&self, cluster: &str) -> Result<Client> {
        let cluster = self.ground.lower.get(cluster).context("no such cluster")?;
        cluster.client().await
    }

    /// A pod that asks for so many thousandths of a CPU.
    fn mk_pod(&self, name: &str, milli_cpu: usize) -> Result<Value> {
        let cpu = format!("{milli_cpu}m");
        Ok(json!({
            "metadata": {"name": name, "labels": {"app": "ours"}},
            "spec": {
                "schedulerName": ExtenderSpec::scheduler_name()?,
                "terminationGracePeriodSeconds": 0,
                "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}],
            },
        }))
    }

    async fn create(&self, pods: Vec<Value>) -> Result<()> {
        let api = self.pods();
        let create = |pod| support::create(&api, pod);
        stream::iter(pods)
            .map(create)
            .buffer_unordered(PARALLEL)
            .try_for_each(async |_| Ok(()))
            .await
    }

    /// Lets pods of the lower clusters themselves take so many thousandths of a CPU of each of these nodes.
    async fn fill(&self, extender: &Extender, fillers: &[(&str, String)], milli_cpu: usize) -> Result<()> {
        for (cluster, node) in fillers {
            let client = self.below(cluster).await?;
            support::service_account(&client, FILLERS).await?;
            let api: Api<Pod> = Api::namespaced(client, FILLERS);
            let mut pod = self.mk_pod(&format!("filler-{node}"), milli_cpu)?;
            pod["metadata"]["labels"] = json!({"app": "filler"});
            pod["spec"]["schedulerName"] = Value::Null;
            pod["spec"]["nodeName"] = json!(node);
            support::create(&api, pod).await?;
        }
        // What the extender knows must be what is there before pods are asked for.
        support::await_condition(
            "the extender and the virtual nodes to see all of them",
            DEADLINE,
            || async {
                let free = self.free(extender).await?;
                let expected = self.ground.lower.len() * NODES * NODE_MILLI_CPU - fillers.len() * milli_cpu;
                ensure!(free == expected as i64, "{free}m CPUs are free, not {expected}m");
                let shown = self.shown().await?;
                ensure!(shown == free, "virtual nodes show {shown}m CPUs, not {free}m");
                Ok(Some(()))
            },
        )
        .await
    }

    /// Thousandths of CPUs that the virtual nodes offer.
    async fn shown(&self) -> Result<i64> {
        let nodes: Api<Node> = Api::all(self.upper.clone());
        let mut shown = 0;
        for id in self.ground.lower.keys() {
            let node = serde_json::to_value(nodes.get(id).await?)?;
            let allocatable = node["status"]["allocatable"].clone();
            shown += serde_json::from_value::<Resources>(allocatable)?.milli_cpu;
        }
        Ok(shown)
    }

    /// Thousandths of CPUs that are free in all lower clusters, as the extender sees it.
    async fn free(&self, extender: &Extender) -> Result<i64> {
        let clusters = extender.page("/fragments").await?;
        let mut free = 0;
        for cluster in clusters.as_object().into_iter().flat_map(serde_json::Map::values) {
            free += serde_json::from_value::<Resources>(cluster["free"].clone())?.milli_cpu;
        }
        Ok(free)
    }

    /// The lower pod of this name, and the id of its cluster.
    async fn find_below(&self, name: &str) -> Result<Option<(String, Pod)>> {
        for id in self.ground.lower.keys() {
            let api: Api<Pod> = Api::namespaced(self.below(id).await?, &self.namespace);
            if let Some(pod) = api.get_opt(name).await? {
                return Ok(Some(((*id).to_owned(), pod)));
            }
        }
        Ok(None)
    }

    /// Waits until the pod runs below; gives back where.
    async fn running_below(&self, name: &str) -> Result<(String, Pod)> {
        support::await_condition("the pod to run below", DEADLINE, || async {
            let found = self.find_below(name).await?;
            Ok(found.filter(|(_, pod)| {
                pod.status
                    .as_ref()
                    .is_some_and(|status| status.phase.as_deref() == Some("Running"))
            }))
        })
        .await
    }

    /// Waits until the scheduler has said that the pod cannot be placed; gives back why.
    async fn refused(&self, name: &str) -> Result<String> {
        let api = self.pods();
        support::await_condition("the pod to be refused", DEADLINE, || async {
            Ok(refusal(&api.get(name).await?))
        })
        .await
    }

    /// Waits until the pod is bound; gives back the virtual node.
    async fn bound(&self, name: &str) -> Result<String> {
        let api = self.pods();
        support::await_condition("the pod to be bound", DEADLINE, || async {
            let pod = api.get(name).await?;
            node_of(&pod)
                .map(|node| Some(node.to_owned()))
                .with_context(|| refusal(&pod).unwrap_or_default())
        })
        .await
    }

    /// Deletes all pods of both levels, and waits until they are gone and the virtual nodes show it: kube-scheduler itself
    /// passes over a Node that seems full.
    async fn clear(&self) -> Result<()> {
        let at_once = DeleteParams::default().grace_period(0);
        let mut levels = vec![self.pods()];
        for id in self.ground.lower.keys() {
            let client = self.below(id).await?;
            let fillers: Api<Pod> = Api::namespaced(client.clone(), FILLERS);
            levels.extend([fillers, Api::namespaced(client, &self.namespace)]);
        }
        for level in levels {
            support::await_condition("all pods to be gone", DEADLINE, || async {
                level.delete_collection(&at_once, &ListParams::default()).await?;
                let left = level.list(&ListParams::default()).await?.items.len();
                ensure!(left == 0, "{left} are left");
                Ok(Some(()))
            })
            .await?;
        }
        let nodes: Api<Node> = Api::all(self.upper.clone());
        for id in self.ground.lower.keys() {
            support::await_condition("a virtual node to show its room", DEADLINE, || async {
                let status = nodes.get(id).await?.status.unwrap_or_default();
                let cpu = [status.capacity, status.allocatable].map(|all| all?.remove("cpu"));
                Ok((cpu[0].is_some() && cpu[0] == cpu[1]).then_some(()))
            })
            .await?;
        }
        Ok(())
    }

    fn node(&self, cluster: &str, index: usize) -> String {
        format!("ext-{cluster}-{index}")
    }
}

/// Why the scheduler did not place the pod.
fn refusal(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions
        .iter()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    Some(condition.message.clone().unwrap_or_default())
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}
