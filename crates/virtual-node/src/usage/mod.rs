//! CPU and memory of the node and its pods, from what the lower cluster knows of them.
//!
//! Figures are fetched when somebody asks, at most every 5 s, from the first source that answers. Lower names
//! become upper ones, pods that are not ours are left out, and counters go on where they were when the source changes.

mod merge;
mod metrics_api;
mod source;

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::Mutex;
use tokio::time::Instant;

use tensile_core::names;
use tensile_kubelet_api::backend::Unavailable;
use tensile_kubelet_api::read::relabel::Merged;
use tensile_kubelet_api::usage::{NodeUsage, Sum};
use tensile_runtime::key::Key;

use crate::kubelet::Current;
use crate::shared::Shared;

use merge::Containers;
pub use source::UsageSource;
use source::{Fetched, Source};

/// How old figures may be that are shown again. Kubelets renew theirs every 10 to 15 s, metrics-server asks every 15 s.
const MAX_AGE: Duration = Duration::from_secs(5);

/// Fetches figures for one virtual node.
pub struct Collector {
    lower: Client,
    current: Current,
    node_name: String,
    wanted: UsageSource,
    /// Locked while figures are fetched, so that callers at the same time share them.
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    containers: Containers,
    node: Sum,
    /// The source that answered last.
    answered: Option<Source>,
    last: Option<(Instant, NodeUsage)>,
}

// === impl Collector ===

impl Collector {
    /// Fetches from `wanted` for the pods of `current` that run in the cluster of `lower`.
    #[must_use]
    pub fn new(lower: Client, current: Current, node_name: &str, wanted: UsageSource) -> Self {
        Self {
            lower,
            current,
            node_name: node_name.to_owned(),
            wanted,
            state: Mutex::default(),
        }
    }

    /// The figures of now, or of a moment ago.
    ///
    /// # Errors
    /// When no source answers, or another process runs the node.
    pub async fn usage(&self) -> Result<NodeUsage, Unavailable> {
        let shared = self.shared()?;
        let mut state = self.state.lock().await;
        if let Some((time, usage)) = &state.last
            && time.elapsed() < MAX_AGE
        {
            return Ok(usage.clone());
        }
        let nodes = shared.node_names();
        let (source, fetched) = self.fetch(&nodes, state.answered).await?;
        state.answered = Some(source);
        let pods = state.containers.take(fetched.containers, &shared.running_pods());
        let usage = NodeUsage {
            started_ms: None,
            node: state.node.take(&merge::parts(&fetched.nodes, &nodes, &pods)),
            pods,
        };
        state.last = Some((Instant::now(), usage.clone()));
        Ok(usage)
    }

    /// What the lower kubelets show of our pods for cAdvisor.
    ///
    /// # Errors
    /// When none of them answers, or another process runs the node.
    pub async fn cadvisor(&self) -> Result<String, Unavailable> {
        let shared = self.shared()?;
        let nodes = shared.node_names();
        let (mut merged, running) = (Merged::default(), shared.running_pods());
        for text in source::cadvisor(&self.lower, nodes.into_keys().collect()).await? {
            merged.add(&text, |namespace, name| {
                let (upper, _) = running.get(&Key::new(namespace, name))?;
                Some((upper.namespace.to_string(), upper.name.to_string()))
            });
        }
        Ok(merged.into_text())
    }

    fn shared(&self) -> Result<Arc<Shared>, Unavailable> {
        let current = self.current.lock().clone();
        current.ok_or_else(|| Unavailable("another replica runs this node".to_owned()))
    }

    /// From the first source that answers, beginning with the one that did last.
    async fn fetch(
        &self,
        nodes: &merge::NodeNames,
        answered: Option<Source>,
    ) -> Result<(Source, Fetched), Unavailable> {
        let selector = format!("{}={}", names::ORIGIN_NODE, self.node_name);
        let mut reasons = Vec::new();
        for source in self.wanted.order(nodes.len(), answered) {
            let nodes = nodes.keys().cloned().collect();
            match source.fetch(&self.lower, nodes, &selector).await {
                Ok(fetched) => return Ok((source, fetched)),
                Err(error) => reasons.push(format!("{source}: {error}")),
            }
        }
        Err(Unavailable(if reasons.is_empty() {
            "usage is not asked for (--usage-source none)".to_owned()
        } else {
            format!("the lower cluster shows no usage: {}", reasons.join("; "))
        }))
    }
}
