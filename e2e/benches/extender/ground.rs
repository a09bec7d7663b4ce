//! The clusters, and pods in them.

use std::time::Duration;

use anyhow::{Context, Result};
use e2e::descheduler::write_clusters;
use e2e::extender::{Extender, ExtenderSpec};
use e2e::{Cluster, ClusterSpec, NodeTemplate, support};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Pod, ServiceAccount};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tensile_core::names::{CLUSTER_ID, NODE_TYPE, NODE_TYPE_VALUE, PROVIDER_TAINT};

/// Ids of the lower clusters.
pub(crate) const LOWER: [&str; 3] = ["a", "b", "c"];
/// Nodes of each, of two CPUs each.
pub(crate) const NODES: usize = 30;
/// Where all pods are.
pub(crate) const NAMESPACE: &str = "bench";
/// Longest time for anything that is waited for.
pub(crate) const DEADLINE: Duration = Duration::from_secs(240);
/// Keeps pods that are meant for real virtual nodes off the simulated ones.
const SIMULATED: &str = "e2e/simulated";
/// Nodes of the upper clusters have no heartbeats.
const PATIENCE_WITH_NODES: &str = "--node-monitor-grace-period=24h";
/// Requests at a time.
const WRITERS: usize = 20;

/// Which nodes a pod may go to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Place {
    /// Nodes of the upper cluster that only look like virtual nodes, and that nobody runs pods on.
    Simulated,
    /// Virtual nodes.
    Virtual,
}

/// An upper cluster with its scheduler.
pub(crate) struct Upper {
    pub(crate) what: &'static str,
    pub(crate) cluster: Cluster,
}

/// Two upper clusters before the same lower ones.
pub(crate) struct Ground {
    pub(crate) with: Upper,
    pub(crate) without: Upper,
    pub(crate) lower: Vec<Cluster>,
    spec: ExtenderSpec,
}

// === impl Ground ===

impl Ground {
    pub(crate) async fn start() -> Result<Self> {
        let spec = ExtenderSpec::new()?;
        let config = spec.scheduler_config()?;
        let mut alone = config.clone();
        alone["extenders"] = json!([]);
        let upper = |name, config| {
            let spec = ClusterSpec::new(name).scheduler_config(config);
            Cluster::start(spec.controller_manager_args([PATIENCE_WITH_NODES]))
        };
        let lower = |id: &str| Cluster::start(ClusterSpec::new(&format!("lower-{id}")));
        let (with, without) = tokio::try_join!(upper("with", config), upper("without", alone))?;
        let (a, b, c) = tokio::try_join!(lower("a"), lower("b"), lower("c"))?;
        let ground = Self {
            with: Upper {
                what: "with the extender",
                cluster: with,
            },
            without: Upper {
                what: "by sums alone",
                cluster: without,
            },
            lower: vec![a, b, c],
            spec,
        };
        for cluster in &ground.lower {
            let template = NodeTemplate::default().cpu("2").memory("8Gi");
            cluster.kwok(NODES, template).await?;
            make_namespace(cluster).await?;
        }
        for upper in [&ground.with, &ground.without] {
            make_namespace(&upper.cluster).await?;
            for id in LOWER {
                let template = NodeTemplate::default()
                    .name_prefix(id)
                    .cpu("60")
                    .memory("240Gi")
                    .pods(3_300)
                    .label(NODE_TYPE, NODE_TYPE_VALUE)
                    .label(CLUSTER_ID, id)
                    .taint(SIMULATED, "", "NoSchedule");
                upper.cluster.kwok(1, template).await?;
            }
            // The nodes are Ready. Pods that it ran would take the processors from the scheduler, and more so from a fast one.
            upper.cluster.stop_component("kwok").await?;
        }
        Ok(ground)
    }

    /// Starts the extender and waits until it knows all lower clusters.
    pub(crate) async fn start_extender(&self) -> Result<Extender> {
        let all: Vec<(&str, &Cluster)> = LOWER.into_iter().zip(&self.lower).collect();
        let source = format!(
            "--clusters-dir={}",
            write_clusters(self.spec.folder(), &all)?.display()
        );
        let extender = self.spec.start(&self.with.cluster, &[&source]).await?;
        support::await_condition("the extender to know all nodes", DEADLINE, || async {
            let clusters = extender.page("/fragments").await?;
            let nodes = clusters.as_object().into_iter().flat_map(serde_json::Map::values);
            let nodes: usize = nodes
                .filter_map(|cluster| Some(cluster["nodes"].as_array()?.len()))
                .sum();
            Ok((nodes == LOWER.len() * NODES).then_some(()))
        })
        .await?;
        Ok(extender)
    }

    pub(crate) fn uppers(&self) -> [&Upper; 2] {
        [&self.without, &self.with]
    }
}

// === functions ===

async fn make_namespace(cluster: &Cluster) -> Result<()> {
    let client = cluster.client().await?;
    support::create(
        &Api::<Namespace>::all(client.clone()),
        json!({"metadata": {"name": NAMESPACE}}),
    )
    .await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(client, NAMESPACE);
    support::await_condition("the service account of pods", DEADLINE, || async {
        Ok(accounts.get_opt("default").await?.map(drop))
    })
    .await
}

pub(crate) fn pods(client: &Client) -> Api<Pod> {
    Api::namespaced(client.clone(), NAMESPACE)
}

/// A pod that asks for so many thousandths of a CPU.
pub(crate) fn mk_pod(name: &str, milli_cpu: usize, place: Place) -> Result<Value> {
    let key = match place {
        Place::Simulated => SIMULATED,
        Place::Virtual => PROVIDER_TAINT,
    };
    Ok(json!({
        "metadata": {"name": name, "labels": {"app": "bench"}},
        "spec": {
            "schedulerName": ExtenderSpec::scheduler_name()?, "automountServiceAccountToken": false,
            "terminationGracePeriodSeconds": 0, "tolerations": [{"key": key, "operator": "Exists"}],
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": format!("{milli_cpu}m")}}}],
        },
    }))
}

pub(crate) async fn create(client: &Client, all: Vec<Value>) -> Result<()> {
    let api = pods(client);
    stream::iter(all)
        .map(|pod| support::create(&api, pod))
        .buffer_unordered(WRITERS)
        .try_for_each(async |_| Ok(()))
        .await
}

/// Deletes all pods, and waits until they are gone.
pub(crate) async fn clear(client: &Client) -> Result<()> {
    let api = pods(client);
    let at_once = DeleteParams::default().grace_period(0);
    api.delete_collection(&at_once, &ListParams::default()).await?;
    support::pods_gone(&api, &ListParams::default(), DEADLINE)
        .await
        .context("clearing")
}
