//! Clusters of free nodes behind an upper cluster with all four components: webhook, virtual nodes, scheduler with
//! extender, and whatever descheduler a test starts.
//!
//! All tests share it and take turns: each needs to know what is free.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::descheduler::{Descheduler, write_clusters};
use e2e::extender::{Extender, ExtenderSpec};
use e2e::support::{self, Shared};
use e2e::virtual_node::{VirtualNode, VirtualNodeSpec};
use e2e::webhook::{self, Webhook};
use e2e::{Cluster, ClusterSpec, NodeTemplate, TestResult};
use futures::future::try_join_all;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::Mutex;

/// Longest time for one thing to happen.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);
/// Nodes of each lower cluster, of four CPUs each.
pub(crate) const NODES: usize = 6;
/// Where the lower clusters' own pods are.
pub(crate) const FILLERS: &str = "default";
/// Where Tensile's own objects are.
pub(crate) const SYSTEM: &str = "tensile-system";

static GROUND: Shared<Ground> = Shared::new();
static WIDE_GROUND: Shared<Ground> = Shared::new();

struct Ground {
    upper: Cluster,
    /// By virtual node.
    lower: BTreeMap<&'static str, Cluster>,
    webhook: Webhook,
    _nodes: Vec<VirtualNode>,
    _extender: Extender,
    _ports: ExtenderSpec,
    clusters: PathBuf,
    turn: Mutex<()>,
}

/// The ground while it is one test's turn.
pub(crate) struct Site<'a> {
    ground: &'a Ground,
    /// The upper cluster.
    pub(crate) client: Client,
    pub(crate) namespace: String,
}

/// Clusters of so many nodes behind virtual nodes of these names, or some of them.
async fn mk_ground(name: &str, virtual_nodes: &[&'static str], nodes: usize) -> Result<Ground> {
    let spec = ExtenderSpec::new()?;
    let upper = ClusterSpec::new(&format!("{name}-upper")).scheduler_config(spec.scheduler_config()?);
    let lower = virtual_nodes.iter().map(|node| async move {
        let cluster = Cluster::start(ClusterSpec::new(&format!("{name}-{node}"))).await?;
        anyhow::Ok((*node, cluster))
    });
    let (upper, lower) = tokio::try_join!(Cluster::start(upper), try_join_all(lower))?;
    let lower: BTreeMap<&'static str, Cluster> = lower.into_iter().collect();
    let webhook = Webhook::start(&upper, &[]).await?;
    webhook::register(&upper, webhook.address(), "Fail", Some(upper.client_ca_pem())).await?;
    let mut started = Vec::new();
    for (node, cluster) in &lower {
        let four = NodeTemplate::default().cpu("4").memory("16Gi");
        cluster.kwok(nodes, four).await?;
        started.push(VirtualNodeSpec::new(node).start(&upper, cluster).await?);
    }
    let all: Vec<(&str, &Cluster)> = lower.iter().map(|(node, cluster)| (*node, cluster)).collect();
    let clusters = write_clusters(webhook.component.folder(), &all)?;
    let told = format!("--clusters-dir={}", clusters.display());
    let extender = spec.start(&upper, &[&told]).await?;
    Ok(Ground {
        upper,
        lower,
        webhook,
        _nodes: started,
        _extender: extender,
        _ports: spec,
        clusters,
        turn: Mutex::default(),
    })
}

/// Runs a test when it is its turn, in a namespace of its own; all pods of both levels go when it ends.
pub(crate) fn on_site(test: impl AsyncFnOnce(&Site<'_>) -> Result<()>) -> TestResult {
    let mk_ground = async || mk_ground("fleet", &["va", "vb"], NODES).await;
    GROUND.run(mk_ground, async |ground| take_turn(ground, test).await)
}

/// As [`on_site`], with three clusters of so many nodes.
pub(crate) fn on_wide_site(nodes: usize, test: impl AsyncFnOnce(&Site<'_>) -> Result<()>) -> TestResult {
    let mk_ground = async || mk_ground("wide", &["va", "vb", "vc"], nodes).await;
    WIDE_GROUND.run(mk_ground, async |ground| take_turn(ground, test).await)
}

async fn take_turn(ground: &Ground, test: impl AsyncFnOnce(&Site<'_>) -> Result<()>) -> Result<()> {
    let _turn = ground.turn.lock().await;
    let client = ground.upper.client().await?;
    let namespace = support::namespace_for_pods(&client).await?;
    let site = Site {
        ground,
        client,
        namespace,
    };
    let outcome = test(&site).await;
    let cleared = site.clear().await;
    outcome.and(cleared)
}

// === impl Site ===

impl Site<'_> {
    pub(crate) fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) fn deployments(&self) -> Api<Deployment> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    pub(crate) fn sets(&self) -> Api<ReplicaSet> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The pods of the test's namespace behind a virtual node.
    pub(crate) async fn below(&self, node: &str) -> Result<Api<Pod>> {
        Ok(Api::namespaced(
            self.cluster(node).client().await?,
            &self.namespace,
        ))
    }

    pub(crate) fn cluster(&self, node: &str) -> &Cluster {
        &self.ground.lower[node]
    }

    /// The virtual nodes, by name.
    pub(crate) fn virtual_nodes(&self) -> impl Iterator<Item = &'static str> {
        self.ground.lower.keys().copied()
    }

    /// A pod template with this label `app`.
    pub(crate) fn mk_template(&self, app: &str, cpu: &str) -> Result<Value> {
        Ok(json!({
            "metadata": {"labels": {"app": app, "virtual-pod": "true"}},
            "spec": {
                "schedulerName": ExtenderSpec::scheduler_name()?,
                "terminationGracePeriodSeconds": 1,
                "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}],
            },
        }))
    }

    /// Makes a Deployment of such pods.
    pub(crate) async fn deploy(&self, app: &str, replicas: usize, template: Value) -> Result<()> {
        let spec = json!({
            "replicas": replicas, "selector": {"matchLabels": {"app": app}}, "template": template,
        });
        support::create(
            &self.deployments(),
            json!({"metadata": {"name": app}, "spec": spec}),
        )
        .await?;
        Ok(())
    }

    /// Lets no pod be bound to the virtual node, or lets them again.
    pub(crate) async fn cordon(&self, node: &str, cordoned: bool) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        if cordoned {
            nodes.cordon(node).await?;
        } else {
            nodes.uncordon(node).await?;
        }
        Ok(())
    }

    /// Lets no pod be bound to any node behind the virtual node, or lets them again.
    pub(crate) async fn cordon_below(&self, node: &str, cordoned: bool) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.cluster(node).client().await?);
        for node in nodes.list(&ListParams::default()).await? {
            let name = node.metadata.name.context("no name")?;
            if cordoned {
                nodes.cordon(&name).await?;
            } else {
                nodes.uncordon(&name).await?;
            }
        }
        Ok(())
    }

    /// Kills a descheduler. Its lease goes as well: nobody needs to wait until it has run out.
    pub(crate) async fn kill(&self, descheduler: Descheduler) -> Result<()> {
        descheduler.component.kill().await?;
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), SYSTEM);
        if leases.get_opt("tensile-descheduler").await?.is_some() {
            let now = DeleteParams::default();
            leases.delete("tensile-descheduler", &now).await?;
        }
        Ok(())
    }

    /// Ends a descheduler as Kubernetes does.
    pub(crate) async fn end(&self, descheduler: Descheduler) -> Result<()> {
        descheduler.component.terminate().await?;
        descheduler.component.wait_exit(DEADLINE).await?;
        Ok(())
    }

    /// Starts a descheduler with a round every second.
    pub(crate) fn descheduler(&self, policy: &str, args: &[&str]) -> Result<Descheduler> {
        let file = self.ground.webhook.component.folder().join("policy.yaml");
        std::fs::write(&file, policy)?;
        let policy = format!("--policy-config-file={}", file.display());
        let own = ["--descheduling-interval=1", policy.as_str()];
        let args: Vec<&str> = own.into_iter().chain(args.iter().copied()).collect();
        Descheduler::spawn(&self.ground.upper, &self.ground.clusters, &args)
    }

    /// The pods of an app that are not being deleted.
    pub(crate) async fn of(&self, app: &str) -> Result<Vec<Pod>> {
        let pods = self
            .pods()
            .list(&ListParams::default().labels(&format!("app={app}")))
            .await?;
        let stay = |pod: &Pod| pod.metadata.deletion_timestamp.is_none();
        Ok(pods.items.into_iter().filter(stay).collect())
    }

    /// Waits until all pods of an app run, so many on each virtual node; gives them.
    pub(crate) async fn running(&self, app: &str, wanted: &[(&str, usize)]) -> Result<Vec<Pod>> {
        let wanted: BTreeMap<&str, usize> = wanted.iter().copied().collect();
        support::await_condition(&format!("{app} to run as {wanted:?}"), DEADLINE, || async {
            let pods = self.of(app).await?;
            let mut found: BTreeMap<&str, usize> = BTreeMap::new();
            for pod in &pods {
                let node = if support::is_ready(pod) {
                    node_of(pod)
                } else {
                    "nowhere"
                };
                *found.entry(node).or_default() += 1;
            }
            ensure!(found == wanted, "{found:?}");
            Ok(Some(pods))
        })
        .await
    }

    /// The records of pods on their way.
    pub(crate) fn maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), SYSTEM)
    }

    /// Removes everything of the test, and waits until nothing is left at any level.
    async fn clear(&self) -> Result<()> {
        for node in self.virtual_nodes() {
            self.cordon(node, false).await?;
        }
        self.cordon_below("va", false).await?;
        let params = (DeleteParams::background(), ListParams::default());
        self.deployments().delete_collection(&params.0, &params.1).await?;
        self.sets().delete_collection(&params.0, &params.1).await?;
        let now = DeleteParams::default().grace_period(0);
        self.pods()
            .delete_collection(&now, &ListParams::default())
            .await?;
        let mut levels = vec![self.pods()];
        for node in self.virtual_nodes() {
            levels.push(self.below(node).await?);
            let own: Api<Pod> = Api::namespaced(self.cluster(node).client().await?, FILLERS);
            own.delete_collection(&now, &ListParams::default()).await?;
        }
        for level in levels {
            support::pods_gone(&level, &ListParams::default(), DEADLINE).await?;
        }
        for notes in ["tensile-avoidance", "tensile-promises"] {
            if self.maps().get_opt(notes).await?.is_some() {
                self.maps().delete(notes, &DeleteParams::default()).await?;
            }
        }
        Ok(())
    }
}

pub(crate) fn node_of(pod: &Pod) -> &str {
    let spec = pod.spec.as_ref();
    spec.and_then(|spec| spec.node_name.as_deref())
        .unwrap_or_default()
}

pub(crate) fn uid_of(pod: &Pod) -> Result<&str> {
    pod.metadata.uid.as_deref().context("a pod without UID")
}
