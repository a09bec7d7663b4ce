//! One group of tasks per lower cluster, as the Secrets come and go. A cluster that fails disturbs no other.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use tensile_runtime::admin::Readiness;
use tensile_runtime::cluster::Cluster;
use tensile_runtime::clusters::{Change, Config, NodeConfig};
use tensile_runtime::shutdown::Shutdown;

use crate::args::Args;
use crate::leaving::{Leaving, Wish};
use crate::lower::LowerCluster;
use crate::ports::{Port, Ports};
use crate::process::Process;

/// Time between attempts to set a cluster up: a port may become free, a certificate be written.
const RETRY_INTERVAL: Duration = Duration::from_secs(10);

/// Runs lower clusters.
pub struct Supervisor {
    process: Arc<Process>,
    ports: Ports,
    shutdown: Shutdown,
    running: BTreeMap<Arc<str>, Running>,
}

/// The tasks of one cluster.
struct Running {
    wish: watch::Sender<Wish>,
    stop: Shutdown,
    task: JoinHandle<()>,
}

// === impl Supervisor ===

impl Supervisor {
    /// Nothing runs yet; everything ends with `shutdown`.
    #[must_use]
    pub fn new(process: Arc<Process>, shutdown: Shutdown) -> Self {
        Self {
            ports: Ports::new(process.args.listen()),
            process,
            shutdown,
            running: BTreeMap::new(),
        }
    }

    /// Carries out a change of the set of clusters, without waiting for it.
    pub fn change(&mut self, change: Change) {
        match change {
            Change::Apply(config) => self.start(config),
            Change::Credentials(config) => self.wish(config, None),
            Change::Leave(config) => self.wish(config, Some(true)),
            Change::Remove(id) => {
                if let Some(running) = self.running.remove(&id) {
                    tracing::info!(cluster = %id, "lower cluster removed");
                    running.stop.trigger();
                }
            }
            Change::Synced => tracing::info!(clusters = self.running.len(), "lower clusters known"),
        }
    }

    fn wish(&self, config: Arc<Config>, leaving: Option<bool>) {
        if let Some(running) = self.running.get(&config.id) {
            running.wish.send_modify(|wish| {
                wish.config = config;
                wish.leaving = leaving.unwrap_or(wish.leaving);
            });
        }
    }

    /// Starts a cluster; what ran for it before ends first.
    fn start(&mut self, config: Arc<Config>) {
        let id = config.id.clone();
        tracing::info!(cluster = %id, nodes = config.nodes.len(), "lower cluster joins");
        let before = self.running.remove(&id);
        let leaving = before.as_ref().is_some_and(|before| before.wish.borrow().leaving);
        let (wish, wished) = watch::channel(Wish { config, leaving });
        let stop = self.shutdown.sub();
        let (process, ports, ended) = (self.process.clone(), self.ports.clone(), stop.clone());
        let task = tokio::spawn(async move {
            if let Some(before) = before {
                before.stop.trigger();
                // A panic in it has been logged; it is over either way.
                let _ = before.task.await;
            }
            keep(process, ports, wished, ended).await;
        });
        self.running.insert(id, Running { wish, stop, task });
    }

    /// Waits until everything has ended, leases given back.
    pub async fn end(self) {
        for running in self.running.into_values() {
            running.stop.trigger();
            // As above.
            let _ = running.task.await;
        }
    }
}

/// Runs one cluster until `stop`, trying again when it cannot be set up. Not dropped before it ends by itself, so that
/// the lease is given back and streams are finished.
async fn keep(process: Arc<Process>, ports: Ports, mut wished: watch::Receiver<Wish>, stop: Shutdown) {
    let mut reported = String::new();
    loop {
        let config = wished.borrow_and_update().config.clone();
        // Ports are given back when this round is over.
        let made = tokio::select! {
            () = stop.wait() => return,
            made = set_up(&process, &ports, &config, &stop) => made,
        };
        match made {
            Ok((lower, _ports)) => {
                let names = lower.names().map(str::to_owned).collect();
                let leaving = Leaving::new(
                    process.upper.client.clone(),
                    lower.cluster.client.clone(),
                    &process.upper_id.uid,
                    names,
                    Some(wished.clone()),
                );
                let cluster = lower.cluster.clone();
                tokio::join!(lower.run(leaving), follow(&cluster, wished, &stop));
                return;
            }
            Err(error) => {
                let text = format!("{error:#}");
                if text != reported {
                    tracing::error!(cluster = %config.id, error = text, "lower cluster cannot be set up, trying on");
                }
                reported = text;
            }
        }
        tokio::select! {
            () = stop.wait() => return,
            () = tokio::time::sleep(RETRY_INTERVAL) => {}
            _ = wished.changed() => {}
        }
    }
}

async fn set_up(
    process: &Arc<Process>,
    ports: &Ports,
    config: &Config,
    stop: &Shutdown,
) -> anyhow::Result<(LowerCluster, Vec<Port>)> {
    let cluster = Cluster::given(&config.id, config.kubeconfig.content()).await?;
    let taken = config
        .nodes
        .iter()
        .map(|_| ports.take())
        .collect::<Result<Vec<_>, _>>()?;
    let nodes: Vec<(Args, NodeConfig)> = config
        .nodes
        .iter()
        .zip(&taken)
        .map(|(node, port)| (process.args.of_node(&config.id, node, port.number), node.clone()))
        .collect();
    let lease = format!("tensile-{}", config.id);
    // What one cluster waits for must not keep the process from being ready.
    let readiness = Readiness::default();
    let lower = LowerCluster::new(
        process.clone(),
        &config.id,
        &lease,
        &cluster,
        &nodes,
        readiness,
        stop.sub(),
    )
    .await?;
    lower.check().await?;
    Ok((lower, taken))
}

/// Takes over other credentials until `stop`.
async fn follow(cluster: &Cluster, mut wished: watch::Receiver<Wish>, stop: &Shutdown) {
    let follow = async {
        while wished.changed().await.is_ok() {
            let config = wished.borrow_and_update().config.clone();
            match cluster.take_over(config.kubeconfig.content()).await {
                Ok(true) => tracing::info!(cluster = %config.id, "new credentials in use"),
                Ok(false) => {}
                Err(error) => tracing::error!(%error, "new credentials not taken over"),
            }
        }
        stop.wait().await;
    };
    tokio::select! { () = stop.wait() => {}, () = follow => {} }
}
