//! Lower clusters from the Secrets of the system namespace: they come and go while we run.

use std::collections::BTreeMap;
use std::sync::Arc;

use tensile_core::labels::Selector;
use tensile_runtime::clusters::{Change, Clusters, Config, Kubeconfig};
use tensile_runtime::watch::Metrics;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::lower::{Companion, Credentials, Feed};
use crate::shared::Shared;

/// The lower clusters of which there are Secrets.
#[derive(Debug)]
pub struct Secrets {
    shared: Shared,
    metrics: Metrics,
    companion: Companion,
    feeds: BTreeMap<Arc<str>, Running>,
}

/// The feed of one cluster; ends when dropped.
#[derive(Debug)]
struct Running {
    task: JoinHandle<()>,
    credentials: watch::Sender<Kubeconfig>,
    /// The virtual nodes that it told of.
    nodes: Vec<String>,
}

// === impl Secrets ===

impl Secrets {
    /// Clusters that feed `shared`.
    #[must_use]
    pub fn new(shared: Shared, metrics: Metrics) -> Self {
        Self {
            shared,
            metrics,
            companion: Companion::default(),
            feeds: BTreeMap::new(),
        }
    }

    /// Does this with every cluster besides feeding its model.
    #[must_use]
    pub fn with(mut self, companion: Companion) -> Self {
        self.companion = companion;
        self
    }

    /// Follows the Secrets until the future is dropped; the feeds end with it.
    pub async fn follow(mut self, clusters: Clusters) {
        clusters.run(|change| self.changed(change)).await;
    }

    fn changed(&mut self, change: Change) {
        match change {
            Change::Apply(config) => self.start(&config),
            Change::Credentials(config) => {
                if let Some(running) = self.feeds.get(&config.id) {
                    running.credentials.send_replace(config.kubeconfig.clone());
                }
            }
            // While it leaves, its pods are still there: the model is needed until the end.
            Change::Leave(_) => {}
            Change::Synced => self.shared.world().clusters_listed(),
            Change::Remove(id) => self.stop(&id),
        }
    }

    fn start(&mut self, config: &Config) {
        self.stop(&config.id);
        tracing::info!(cluster = %config.id, "lower cluster joins");
        for node in &config.nodes {
            let pool = Some(node.selector.clone()).filter(|pool| !Selector::is_empty(pool));
            self.shared.world().configure(&node.name, pool, &node.overrides);
        }
        let (credentials, given) = watch::channel(config.kubeconfig.clone());
        let feed = Feed {
            id: config.id.to_string(),
            credentials: Credentials::Given(given),
            shared: self.shared.clone(),
            metrics: self.metrics.clone(),
            companion: self.companion.clone(),
        };
        let running = Running {
            task: feed.spawn(),
            credentials,
            nodes: config.nodes.iter().map(|node| node.name.clone()).collect(),
        };
        self.feeds.insert(config.id.clone(), running);
    }

    fn stop(&mut self, id: &str) {
        let Some(running) = self.feeds.remove(id) else {
            return;
        };
        let mut world = self.shared.world();
        for node in &running.nodes {
            world.forget_configuration(node);
        }
        world.delete_cluster(id);
        tracing::info!(cluster = id, "lower cluster left");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use tensile_runtime::clusters::{NodeConfig, SecretRef};
    use tensile_runtime::key::Key;

    use super::*;
    use crate::World;

    fn mk_config(selector: &str) -> Arc<Config> {
        let kubeconfig = "{current-context: c, contexts: [{name: c, context: {cluster: k, user: u}}], \
                          clusters: [{name: k, cluster: {server: 'https://127.0.0.1:1'}}], \
                          users: [{name: u, user: {token: t}}]}";
        let node = NodeConfig {
            selector: selector.parse().unwrap(),
            ..NodeConfig::new("va")
        };
        Arc::new(Config {
            id: "a".into(),
            secret: SecretRef {
                key: Key::new("tensile-system", "a"),
                uid: "u".into(),
            },
            kubeconfig: Kubeconfig::read(kubeconfig.to_owned()).unwrap(),
            nodes: vec![node],
            abandon: false,
        })
    }

    #[tokio::test]
    async fn clusters_and_pools_come_and_go_with_their_secrets() {
        let shared = Shared::new(World::default());
        let labels = [("type", "virtual-kubelet"), ("clusterID", "a")];
        let labels = labels
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
        shared.world().apply_node("va", &labels, None);
        let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
        let mut secrets = Secrets::new(shared.clone(), metrics);
        let pool = |shared: &Shared| {
            shared
                .world()
                .virtual_node("va")
                .and_then(|node| node.pool.clone())
        };
        secrets.changed(Change::Apply(mk_config("disk=ssd")));
        assert_eq!(pool(&shared), Some("disk=ssd".parse().unwrap()));
        secrets.changed(Change::Apply(mk_config("")));
        assert_eq!(pool(&shared), None, "an empty selector selects all");
        secrets.changed(Change::Apply(mk_config("disk=hdd")));
        shared.world().apply_node("va", &labels, None);
        assert_eq!(
            pool(&shared),
            Some("disk=hdd".parse().unwrap()),
            "also for a node that comes later"
        );
        assert_eq!(secrets.feeds.len(), 1);
        secrets.changed(Change::Remove("a".into()));
        assert!(secrets.feeds.is_empty() && pool(&shared).is_none());
        assert_eq!(shared.world().clusters().count(), 0);
    }
}
