//! One lower cluster: its lease, and while that is held, all of its virtual nodes. What fails here stays here.

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use tensile_runtime::admin::{Condition, Readiness};
use tensile_runtime::cluster::{Cluster, ClusterError, Identity};
use tensile_runtime::clusters::NodeConfig;
use tensile_runtime::lease::{ApiStore, Candidate, Leadership, while_held};
use tensile_runtime::shutdown::Shutdown;

use crate::args::Args;
use crate::context::Context;
use crate::engine::{Engine, Member};
use crate::kubelet::{Current, Kubelet};
use crate::leaving::Leaving;
use crate::metrics::{ClusterMetrics, Metrics, Sizes};
use crate::node::{Capacity, NodeError, check_owner, hold};
use crate::pools::Pool;
use crate::process::Process;
use crate::registries::{NodeState, OwnRegistry};
use crate::shared::Shared;
use crate::watches::Side;

/// Time between attempts to find out who the lower cluster is.
const ASK_INTERVAL: Duration = Duration::from_secs(5);
/// Longest time for an answer.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// A lower cluster with its virtual nodes.
pub struct LowerCluster {
    process: Arc<Process>,
    /// Its id.
    pub id: String,
    /// How to reach it.
    pub cluster: Cluster,
    /// The upper cluster, over a connection of its own: lower clusters must not keep each other's requests waiting.
    upper: Cluster,
    lease: String,
    nodes: Vec<VirtualNode>,
    metrics: ClusterMetrics,
    /// Its figures end with it.
    _registry: OwnRegistry,
    readiness: Readiness,
    leading: Condition,
    servers: Vec<JoinHandle<()>>,
    shutdown: Shutdown,
}

/// One virtual node of it.
pub struct VirtualNode {
    /// The flags, with those of this node in place.
    pub args: Args,
    taints: Option<Vec<serde_json::Value>>,
    pool: Pool,
    metrics: Metrics,
    current: Current,
    /// Its figures end with it.
    _registry: OwnRegistry,
}

/// Why a cluster cannot be run as it is configured, however long one waits.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    /// It is the upper cluster.
    #[error(
        "the kubeconfig of lower cluster {id} (--client-kubeconfig) opens the upper cluster itself (kube-system has uid \
         {uid}); give that of another cluster"
    )]
    SameCluster {
        /// The cluster's id.
        id: String,
        /// UID of both.
        uid: String,
    },
    /// A name is taken.
    #[error(transparent)]
    Node(#[from] NodeError),
}

// === impl LowerCluster ===

impl LowerCluster {
    /// Binds the ports of its virtual nodes and starts to answer there. `nodes` are pairs of flags and configuration.
    ///
    /// # Errors
    /// When a port is taken or a certificate cannot be used.
    pub async fn new(
        process: Arc<Process>,
        id: &str,
        lease: &str,
        cluster: &Cluster,
        nodes: &[(Args, NodeConfig)],
        readiness: Readiness,
        shutdown: Shutdown,
    ) -> anyhow::Result<Self> {
        let configs: Vec<NodeConfig> = nodes.iter().map(|(_, config)| config.clone()).collect();
        let registry = process.registries.add_cluster(id)?;
        let metrics = ClusterMetrics::new(&registry.registry)?;
        let [above, below] = metrics.requests.clone();
        let mut lower = Self {
            leading: readiness.condition("lease"),
            cluster: cluster.separate(below)?,
            upper: process.upper.separate(above)?,
            process,
            id: id.to_owned(),
            lease: lease.to_owned(),
            nodes: Vec::new(),
            metrics,
            _registry: registry,
            readiness,
            servers: Vec::new(),
            shutdown,
        };
        for (index, (args, config)) in nodes.iter().enumerate() {
            let pool = Pool::new(&configs, index);
            lower.add(args, config, pool).await?;
        }
        Ok(lower)
    }

    async fn add(&mut self, args: &Args, config: &NodeConfig, pool: Pool) -> anyhow::Result<()> {
        let process = &self.process;
        let current = Current::default();
        let own = process.registries.add_node(NodeState {
            cluster: self.id.clone(),
            name: args.nodename.clone(),
            current: current.clone(),
        })?;
        Sizes::register(&own.registry, current.clone())?;
        let kubelet = Kubelet::new(
            args,
            &process.node_ip,
            &self.upper.client,
            &self.cluster,
            current.clone(),
            &own.registry,
        )
        .await?;
        let ready = self.readiness.condition("client-ca");
        let serving = kubelet.run(self.shutdown.clone(), ready, self.metrics.watches.clone());
        self.servers.push(tokio::spawn(serving));
        self.nodes.push(VirtualNode {
            args: args.clone(),
            taints: config.taints.clone(),
            pool,
            metrics: Metrics::new(&own.registry)?,
            current,
            _registry: own,
        });
        Ok(())
    }

    /// Names of its virtual nodes.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.nodes.iter().map(|node| node.args.nodename.as_str())
    }

    /// Finds out what cannot work however long one waits. A cluster that does not answer is no such thing.
    ///
    /// # Errors
    /// What is wrong.
    pub async fn check(&self) -> Result<(), Unusable> {
        for name in self.names() {
            check_owner(&self.process.upper.client, name).await?;
        }
        match self.ask().await {
            Ok(identity) => self.check_identity(&identity),
            Err(_) => Ok(()),
        }
    }

    fn check_identity(&self, lower: &Identity) -> Result<(), Unusable> {
        if lower.uid == self.process.upper_id.uid {
            return Err(Unusable::SameCluster {
                id: self.id.clone(),
                uid: lower.uid.clone(),
            });
        }
        Ok(())
    }

    async fn ask(&self) -> Result<Identity, String> {
        match tokio::time::timeout(ASK_TIMEOUT, self.cluster.identity()).await {
            Ok(answer) => answer.map_err(|error: ClusterError| error.to_string()),
            Err(_) => Err(format!("no answer within {} s", ASK_TIMEOUT.as_secs())),
        }
    }

    /// Takes part in the election and runs the virtual nodes whenever it is won, until shutdown.
    pub async fn run(mut self, leaving: Leaving) {
        let store = ApiStore::new(
            self.process.upper.client.clone(),
            &self.process.args.common.system_namespace,
            &self.lease,
        )
        .owned_by(leaving.owner());
        let candidate = Candidate::new(store, &self.lease, &self.process.identity).hesitant();
        let over = Shutdown::default();
        let _also_when_dropped = over.token().drop_guard();
        let (leadership, campaign) = candidate.spawn(over.clone());
        tokio::select! {
            () = self.shutdown.wait() => {}
            () = self.lead(leadership, &leaving) => self.shutdown.wait().await,
        }
        self.shutdown.trigger();
        self.ended();
        // Only now, when nothing writes any more, may somebody else have the lease.
        over.trigger();
        // They end by themselves; a panic in one of them has been logged.
        let _ = campaign.await;
        join_all(self.servers.drain(..)).await;
    }

    /// Returns when the cluster has left.
    async fn lead(&self, mut leadership: watch::Receiver<Leadership>, leaving: &Leaving) {
        while leadership.wait_for(Leadership::held).await.is_ok() {
            self.leading.set(true);
            self.metrics.leading.set(1);
            let left = async {
                tokio::select! { () = self.term() => {}, () = leaving.drain() => {} }
                // Nobody is there any more who would make the Nodes again.
                leaving.farewell().await;
            };
            let left = while_held(&mut leadership, left).await.is_some();
            self.ended();
            if left {
                tracing::info!(cluster = self.id, "the lower cluster has left");
                return;
            }
            self.leading.set(false);
            tracing::warn!(cluster = self.id, "lease lost: everything stopped");
        }
    }

    /// Nothing runs for the virtual nodes any more.
    fn ended(&self) {
        self.metrics.ended();
        self.nodes.iter().for_each(|node| *node.current.lock() = None);
    }

    /// Runs the virtual nodes until dropped; anew when the lower cluster was set back to an earlier state.
    async fn term(&self) {
        loop {
            self.run_engine().await;
        }
    }

    /// Runs the virtual nodes until dropped, or until nothing of what is known can be trusted any more.
    async fn run_engine(&self) {
        let identity = self.wait_for_identity().await;
        let capacity = Arc::default();
        let members: Vec<Member> = self
            .nodes
            .iter()
            .map(|node| self.member(node, &identity, &capacity))
            .collect();
        for (node, member) in self.nodes.iter().zip(&members) {
            *node.current.lock() = Some(member.context.shared.clone());
        }
        self.engine(&identity).run(&members).await;
    }

    /// Waits until the lower cluster says who it is. Meanwhile the Nodes say that it is unreachable, and live: that we
    /// have just started must not look like the death of its pods.
    async fn wait_for_identity(&self) -> Identity {
        let reason = match self.usable().await {
            Ok(identity) => return identity,
            Err(reason) => reason,
        };
        tracing::warn!(
            cluster = self.id,
            reason,
            "the lower cluster cannot be used, trying on"
        );
        // An unreachable cluster is one of those that tell whether it is we who are cut off.
        let down = self.process.all_down.add(&self.id);
        down.set(true);
        let upper = &self.process.upper.client;
        let hold = join_all(self.names().map(|name| hold(upper, name, &reason)));
        let ask = async {
            loop {
                tokio::time::sleep(ASK_INTERVAL).await;
                if let Ok(identity) = self.usable().await {
                    return identity;
                }
            }
        };
        tokio::select! { identity = ask => identity, _ = hold => std::future::pending().await }
    }

    async fn usable(&self) -> Result<Identity, String> {
        let identity = self.ask().await?;
        self.check_identity(&identity)
            .map_err(|error| error.to_string())?;
        Ok(identity)
    }

    fn engine(&self, lower: &Identity) -> Engine {
        let (process, watches) = (&self.process, &self.metrics.watches);
        Engine {
            id: self.id.clone(),
            upper: Side {
                cluster: self.upper.clone(),
                minor: process.upper_id.minor,
                metrics: watches.of(&format!("the upper cluster, for {}", self.id)),
            },
            lower: Side {
                cluster: self.cluster.clone(),
                minor: lower.minor,
                metrics: watches.of(&format!("lower cluster {}", self.id)),
            },
            grace: process.args.unreachable_grace,
            pod_workers: process.args.pod_workers.into(),
            readiness: self.readiness.clone(),
            reachable: self.metrics.reachable.clone(),
            all_down: process.all_down.clone(),
        }
    }

    fn member(&self, node: &VirtualNode, lower: &Identity, capacity: &Arc<Mutex<Capacity>>) -> Member {
        let (process, args) = (&self.process, &node.args);
        let identity = process.node(args, node.taints.as_ref(), &lower.version);
        let settings = Arc::new(process.settings(args, &identity, node.pool.clone()));
        let context = Context {
            upper: self.upper.client.clone(),
            lower: self.cluster.client.clone(),
            shared: Shared::new(settings.clone(), capacity.clone(), node.metrics.clone()),
            recorder: process.recorder.clone(),
            metrics: node.metrics.clone(),
            settings,
        };
        Member { identity, context }
    }
}
