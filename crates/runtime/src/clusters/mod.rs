//! Lower clusters that come and go: one Secret each, labelled `tensile.dev/cluster=<id>`, in the system namespace.
//!
//! ```text
//! Secrets ── watch ──▶ Index (pure: parse, claim, compare) ──▶ Change: Apply, Credentials, Leave, Remove
//!                           └──▶ problem ──▶ annotation and event on the Secret
//! ```
//!
//! All components read the same Secrets through this module. A Secret with nonsense in it disturbs nothing: a
//! cluster that runs goes on with what was read last. Only a cluster whose Secret really says something else is
//! told of.

mod config;
mod index;
mod nodes;
mod overrides;
mod report;

use std::sync::Arc;

use kube::runtime::watcher;
use kube::{Api, Client};
use tokio::sync::mpsc;

use tensile_core::names;

use crate::admin::Condition;
use crate::watch::{Metrics, Watch};

pub use config::{Config, ConfigError, Kubeconfig, SecretRef};
pub use index::{Index, Problem, Secret};
pub use nodes::{NodeConfig, Pattern};
pub use overrides::{NotApplied, Override};
pub use report::Reporter;

/// Whether lower clusters are read from Secrets.
#[derive(Clone, Copy, Debug, Default, clap::Args)]
pub struct ClusterArgs {
    /// Read the lower clusters from the Secrets of the system namespace that have the label tensile.dev/cluster.
    #[arg(long, env = "CLUSTERS_FROM_SECRETS")]
    pub clusters_from_secrets: bool,
}

/// What happens to the set of lower clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A cluster is new, or its server or nodes are others: what runs for it starts anew.
    Apply(Arc<Config>),
    /// Only its credentials are others: hand them to [`Cluster::take_over`](crate::cluster::Cluster::take_over).
    Credentials(Arc<Config>),
    /// Its Secret is being deleted, but held by a finalizer; told again when `abandon` changes.
    Leave(Arc<Config>),
    /// It is gone.
    Remove(Arc<str>),
    /// All clusters that there were at the start have been told. Once.
    Synced,
}

/// Follows the Secrets of lower clusters.
pub struct Clusters {
    /// The upper cluster.
    pub client: Client,
    /// The system namespace.
    pub namespace: String,
    /// Met while the Secrets have been listed.
    pub ready: Condition,
    /// Where the watch counts.
    pub metrics: Metrics,
    /// Who tells of Secrets that cannot be used; one component does, the others only log.
    pub reporter: Option<Reporter>,
}

// === impl Clusters ===

impl Clusters {
    /// Tells `on` of changes until the future is dropped.
    pub async fn run(self, mut on: impl FnMut(Change)) {
        let watch = Watch::<Secret> {
            api: Api::namespaced(self.client, &self.namespace),
            config: watcher::Config::default().labels(names::CLUSTER),
            name: "cluster-secrets",
            ready: self.ready,
            metrics: self.metrics,
        };
        let mut index = Index::default();
        let (problems, told) = mpsc::unbounded_channel();
        let watched = watch.run(|change| {
            let news = index.change(change);
            news.changes.into_iter().for_each(&mut on);
            for problem in news.problems {
                // The receiver lives as long as this future.
                let _ = problems.send(problem);
            }
        });
        tokio::join!(watched, report::deliver(told, self.reporter));
    }
}

#[cfg(test)]
mod tests;
