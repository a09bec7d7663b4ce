//! What is known of all clusters: virtual nodes, the models of the clusters behind them, and what is promised.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use serde_json::Value;
use tensile_core::labels::Selector;
use tensile_core::names;
use tensile_core::taints::{Effect, Taint};
use tensile_core::translate::namespace::Mapping;
use tensile_core::view::NodeView;
use tensile_placement::{Candidate, Cluster, Explanation, Fit, Uid, Verdict};
use tensile_runtime::clusters::Override;

use crate::lowering::Lowering;
use crate::patience::Patience;
use crate::splits::Splits;

mod asking;
mod sharing;
mod told;

use asking::Question;
pub use sharing::Sharing;

/// Everything that the answers depend on.
#[derive(Debug, Default)]
pub struct World {
    /// The operator's decisions.
    pub settings: Settings,
    virtual_nodes: BTreeMap<String, VirtualNode>,
    /// What the operator says of virtual nodes besides their Node objects, by name.
    configured: BTreeMap<String, Configured>,
    /// Whether the upper nodes have been listed: before, a virtual node would be taken for an ordinary one.
    nodes_listed: bool,
    /// Whether the bound upper pods have been listed: before, promises are missing.
    pods_listed: bool,
    /// Whether it is known which lower clusters there are: before, one of them would be taken for one that nobody
    /// configured.
    clusters_listed: bool,
    /// Whether there was a moment at which nothing was being listed for the first time.
    started: bool,
    clusters: BTreeMap<String, LowerCluster>,
    splits: Splits,
    patience: Patience,
    /// What the descheduler tells.
    told: told::Told,
    /// Upper pods that were gone or being deleted when their lower pods were still there.
    leaving: HashSet<Uid>,
}

/// The operator's decisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// What a cluster that cannot be judged means.
    pub unknown: UnknownPolicy,
    /// Which of the nodes that pass are preferred.
    pub strategy: Strategy,
    /// Label keys that only virtual nodes have.
    pub ignored_keys: BTreeSet<String>,
}

/// What a cluster that cannot be judged means: one whose model is not complete, or a pod that asks for what
/// the model does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum UnknownPolicy {
    /// Nothing is placed there.
    #[default]
    Exclude,
    /// What the scheduler found in the virtual node's status decides.
    TrustNodeStatus,
}

/// Which of the nodes that pass are preferred.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Strategy {
    /// The cluster that is fullest, so that others become empty.
    Fill,
    /// The cluster that is emptiest.
    Spread,
    /// The node that is left with the least that nobody can use.
    #[default]
    LeastStranded,
}

/// A virtual node, as its Node object in the upper cluster shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VirtualNode {
    /// Id of the lower cluster that it stands for.
    pub cluster: String,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// `spec.taints`, and the taint of a cordoned node if it is one.
    pub taints: Vec<Taint>,
    /// What namespaces are called below.
    pub namespaces: Mapping,
    /// Which lower nodes it stands for; `None` for all of them.
    pub pool: Option<Selector>,
    /// Changes on its lower pods.
    pub overrides: Arc<[Override]>,
}

/// What the operator says of a virtual node.
#[derive(Clone, Debug, Default)]
struct Configured {
    pool: Option<Selector>,
    overrides: Arc<[Override]>,
}

/// A lower cluster with its model.
#[derive(Debug, Default)]
pub struct LowerCluster {
    /// Nodes, pods, volumes and promises.
    pub model: Cluster,
    /// Why the model cannot be trusted now; `None` when it can.
    pub doubt: Option<String>,
    /// Whether the model is being listed for the first time, so that the doubt will end soon.
    pub starting: bool,
}

/// What a virtual node says to a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Some lower node fits.
    Fits(Fit),
    /// Nobody can say, and the node's own status is to be trusted.
    Trusted,
    /// Not now; preemption may help.
    Now(String),
    /// Not whatever goes.
    Never(String),
}

// === impl Settings ===

impl Default for Settings {
    fn default() -> Self {
        Self {
            unknown: UnknownPolicy::default(),
            strategy: Strategy::default(),
            ignored_keys: [names::CLUSTER_ID.to_owned()].into(),
        }
    }
}

// === impl World: what is known ===

impl World {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            ..Self::default()
        }
    }

    /// Takes in a node of the upper cluster as it is now. Ordinary nodes are none of ours.
    pub fn apply_node(&mut self, name: &str, labels: &BTreeMap<String, String>, pool: Option<Selector>) {
        let ours = labels
            .get(names::NODE_TYPE)
            .is_some_and(|value| value == names::NODE_TYPE_VALUE);
        match labels.get(names::CLUSTER_ID).filter(|_| ours) {
            Some(cluster) => {
                let configured = self.configured.get(name).cloned().unwrap_or_default();
                let node = VirtualNode {
                    cluster: cluster.clone(),
                    labels: labels.clone(),
                    taints: Vec::new(),
                    namespaces: Mapping::SameName,
                    pool: pool.or(configured.pool),
                    overrides: configured.overrides,
                };
                self.virtual_nodes.insert(name.to_owned(), node);
            }
            None => self.delete_node(name),
        }
    }

    /// As [`World::apply_node`], with what keeps pods off the node whatever runs behind it, and its word on namespaces.
    pub fn apply_view(&mut self, node: &NodeView) {
        let labels = node.labels.iter();
        let labels = labels
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        self.apply_node(&node.name, &labels, None);
        if let Some(virtual_node) = self.virtual_nodes.get_mut(&*node.name) {
            let prefix = node.namespace_prefix.as_deref().map(str::to_owned);
            virtual_node.namespaces = prefix.map_or(Mapping::SameName, Mapping::Prefix);
            virtual_node.taints = node.taints.to_vec();
            virtual_node.taints.extend(node.unschedulable.then(cordon));
        }
    }

    /// Says which lower nodes a virtual node stands for, `None` for all of them, and what is changed on its lower pods,
    /// whether or not it is known already.
    pub fn configure(&mut self, node: &str, pool: Option<Selector>, overrides: &[Override]) {
        let configured = Configured {
            pool,
            overrides: overrides.into(),
        };
        if let Some(virtual_node) = self.virtual_nodes.get_mut(node) {
            virtual_node.pool.clone_from(&configured.pool);
            virtual_node.overrides = configured.overrides.clone();
        }
        self.configured.insert(node.to_owned(), configured);
    }

    /// Takes back what [`World::configure`] said.
    pub fn forget_configuration(&mut self, node: &str) {
        self.configure(node, None, &[]);
        self.configured.remove(node);
    }

    /// Forgets a node of the upper cluster.
    pub fn delete_node(&mut self, name: &str) {
        self.virtual_nodes.remove(name);
    }

    /// Forgets all nodes of the upper cluster but those that `exists` names; from then on all are known.
    pub fn retain_nodes(&mut self, exists: impl Fn(&str) -> bool) {
        self.nodes_listed = true;
        self.virtual_nodes.retain(|name, _| exists(name));
    }

    /// The lower cluster of this id, which becomes known if it was not.
    pub fn cluster_mut(&mut self, id: &str) -> &mut LowerCluster {
        self.clusters.entry(id.to_owned()).or_default()
    }

    /// Forgets a lower cluster.
    pub fn delete_cluster(&mut self, id: &str) {
        self.clusters.remove(id);
    }

    /// The lower clusters by id.
    pub fn clusters(&self) -> impl Iterator<Item = (&str, &LowerCluster)> {
        self.clusters.iter().map(|(id, cluster)| (id.as_str(), cluster))
    }

    /// The virtual nodes by name.
    pub fn virtual_nodes(&self) -> impl Iterator<Item = (&str, &VirtualNode)> {
        self.virtual_nodes
            .iter()
            .map(|(name, node)| (name.as_str(), node))
    }

    /// Says that all bound upper pods have been taken in.
    pub fn pods_listed(&mut self) {
        self.pods_listed = true;
    }

    /// Says that all lower clusters that there are have been named.
    pub fn clusters_listed(&mut self) {
        self.clusters_listed = true;
    }

    /// Whether it is known which nodes are virtual, which pods are bound and which clusters there are.
    #[must_use]
    pub fn is_listed(&self) -> bool {
        self.nodes_listed && self.pods_listed && self.clusters_listed
    }

    /// What must be waited for before any pod may be placed. Once nothing was, a cluster that joins makes nobody
    /// wait but those that fit nowhere else.
    pub fn waits_for(&mut self) -> Option<String> {
        if !self.is_listed() {
            return Some(
                "the upper cluster's nodes, pods and lower clusters have not been listed yet".to_owned(),
            );
        }
        let mut nodes = self.virtual_nodes.keys().filter(|_| !self.started);
        let starting = nodes.find(|node| self.is_starting(node));
        let starting = starting.map(|node| &self.virtual_nodes[node].cluster);
        let waits = starting.map(|cluster| format!("cluster {cluster} is being listed"));
        self.started |= waits.is_none();
        waits
    }

    /// Whether the model of the cluster behind this virtual node is being listed for the first time.
    #[must_use]
    pub fn is_starting(&self, node: &str) -> bool {
        let virtual_node = self.virtual_nodes.get(node);
        virtual_node
            .and_then(|node| self.clusters.get(&node.cluster))
            .is_some_and(|cluster| cluster.starting)
    }

    /// The virtual node of this name; `None` for ordinary nodes.
    #[must_use]
    pub fn virtual_node(&self, name: &str) -> Option<&VirtualNode> {
        self.virtual_nodes.get(name)
    }
}

// === impl World: answers ===

impl World {
    /// What the node says to the pod; `None` for ordinary nodes, which are not ours to judge.
    #[must_use]
    pub fn answer(&self, lowering: &mut Lowering<'_>, node: &str) -> Option<Answer> {
        self.answers(lowering, &[node]).pop()?
    }

    /// What each of these nodes says to the pod, as [`World::answer`]. Clusters of which all nodes must be asked are
    /// asked side by side.
    #[must_use]
    pub fn answers(&self, lowering: &mut Lowering<'_>, nodes: &[&str]) -> Vec<Option<Answer>> {
        let (mut said, mut open) = (Vec::with_capacity(nodes.len()), Vec::new());
        for node in nodes {
            let question = self.question(lowering, node);
            said.push(question.map_or_else(
                |answer| answer,
                |question| {
                    open.push((said.len(), question));
                    None
                },
            ));
        }
        let fits = asking::fits(open.iter().map(|(_, question)| question));
        for ((index, question), fit) in open.iter().zip(fits) {
            said[*index] = Some(self.judge(question.id, fit));
        }
        said
    }

    /// What to ask the cluster behind the node; an error is what the node says without asking.
    fn question(&self, lowering: &mut Lowering<'_>, node: &str) -> Result<Question<'_>, Option<Answer>> {
        let virtual_node = self.virtual_nodes.get(node).ok_or(None)?;
        let id = &virtual_node.cluster;
        let candidate = lowering.candidate(node, virtual_node, &self.settings.ignored_keys);
        let candidate = candidate.map_err(|error| Some(Answer::Never(format!("{id}: {error}"))))?;
        let unknown = |why: &str| Some(self.unknown(format!("{id}: {why}")));
        let cluster = self.clusters.get(id);
        let cluster = cluster.ok_or_else(|| unknown("no such cluster is configured"))?;
        match &cluster.doubt {
            Some(doubt) => Err(unknown(doubt)),
            None => Ok(Question {
                id,
                model: &cluster.model,
                candidate,
                pool: virtual_node.pool.as_ref(),
            }),
        }
    }

    fn judge(&self, cluster: &str, fit: Fit) -> Answer {
        let reason = || format!("{cluster}: {}", fit.summary());
        match fit.verdict() {
            Verdict::Fits => Answer::Fits(fit),
            Verdict::FullNow => Answer::Now(reason()),
            Verdict::Never => Answer::Never(reason()),
            Verdict::Unknown => self.unknown(reason()),
        }
    }

    fn unknown(&self, reason: String) -> Answer {
        match self.settings.unknown {
            UnknownPolicy::Exclude => Answer::Now(reason),
            UnknownPolicy::TrustNodeStatus => Answer::Trusted,
        }
    }

    /// What the virtual node would say if these upper pods were not below; `None` for ordinary nodes.
    pub fn answer_without(
        &mut self,
        lowering: &mut Lowering<'_>,
        node: &str,
        origins: &[Uid],
    ) -> Option<Answer> {
        let virtual_node = self.virtual_nodes.get(node)?;
        let candidate = lowering.candidate(node, virtual_node, &self.settings.ignored_keys);
        let cluster = self
            .clusters
            .get_mut(&virtual_node.cluster)
            .filter(|cluster| cluster.doubt.is_none());
        let (Ok(candidate), Some(cluster)) = (candidate, cluster) else {
            return self.answer(lowering, node);
        };
        let fit = cluster
            .model
            .fit_without(origins, &candidate, virtual_node.pool.as_ref());
        let id = virtual_node.cluster.clone();
        Some(self.judge(&id, fit))
    }

    /// What every virtual node says to the pod, in detail; an error where it has no lower form there.
    #[must_use]
    pub fn explain(&self, lowering: &mut Lowering<'_>) -> BTreeMap<String, Result<Explanation, String>> {
        let explain = |(name, node): (&String, &VirtualNode)| {
            let candidate = lowering.candidate(name, node, &self.settings.ignored_keys);
            let cluster = self.clusters.get(&node.cluster);
            let explanation = match (candidate, cluster.map(|cluster| (cluster, &cluster.doubt))) {
                (Err(error), _) => Err(error),
                (_, None) => Err(format!("cluster {} is not configured", node.cluster)),
                (_, Some((_, Some(doubt)))) => Err(doubt.clone()),
                (Ok(candidate), Some((cluster, None))) => {
                    Ok(Explanation::of(&cluster.model, &candidate, node.pool.as_ref()))
                }
            };
            (name.clone(), explanation)
        };
        self.virtual_nodes.iter().map(explain).collect()
    }
}

// === impl World: promises ===

impl World {
    /// Promises the pod a place behind the virtual node: the best lower node, or `hint` if that is given. Says
    /// which node that is. What was promised to the pod before is taken back.
    pub fn reserve(
        &mut self,
        node: &str,
        candidate: &Arc<Candidate>,
        origin: Uid,
        hint: Option<&str>,
    ) -> Option<String> {
        let virtual_node = self.virtual_nodes.get(node)?;
        let cluster = self.clusters.get_mut(&virtual_node.cluster)?;
        let hinted = hint
            .filter(|hint| cluster.model.node(hint).is_some())
            .map(str::to_owned);
        let lower = hinted.or_else(|| {
            let fit = cluster
                .model
                .fit_without(&[origin], candidate, virtual_node.pool.as_ref());
            fit.best.map(|best| best.node.to_string())
        })?;
        cluster.model.reserve(origin, candidate, &lower).then_some(lower)
    }

    /// Takes back what was promised to an upper pod. Says whether anything was.
    pub fn release(&mut self, origin: Uid) -> bool {
        self.splits.remove(origin);
        self.leave(origin);
        self.clusters.values_mut().fold(false, |released, cluster| {
            cluster.model.release(origin) | released
        })
    }

    /// Notes that the upper pod is on its way out, if its lower pod is still there.
    fn leave(&mut self, origin: Uid) {
        let mut models = self.clusters.values().map(|cluster| &cluster.model);
        if models.any(|model| model.is_settled(origin)) {
            self.leaving.insert(origin);
        }
    }

    /// The upper pods that are gone or being deleted, while their lower pods are still there.
    pub fn leaving(&mut self) -> Vec<Uid> {
        let clusters = &self.clusters;
        let is_there = |origin: Uid| clusters.values().any(|cluster| cluster.model.is_settled(origin));
        self.leaving.retain(|origin| is_there(*origin));
        self.leaving.iter().copied().collect()
    }

    /// The upper pods that have a promise.
    pub fn promised(&self) -> impl Iterator<Item = Uid> {
        let models = self.clusters.values().map(|cluster| &cluster.model);
        let promised = models.flat_map(|model| model.reservations().map(|(origin, _)| origin));
        promised.filter(|origin| !self.is_room(*origin))
    }

    /// Takes in an upper pod as it is now: one that is bound to a virtual node and not seen below yet has a
    /// promise, any other has none. So promises follow from what can be listed, and survive a restart.
    pub fn apply_upper_pod(&mut self, pod: &Value) {
        let origin = uid(pod);
        let phase = pod["status"]["phase"].as_str().unwrap_or_default();
        let node = pod["spec"]["nodeName"].as_str().unwrap_or_default();
        let over = matches!(phase, "Succeeded" | "Failed");
        if pod["metadata"]["deletionTimestamp"].is_string() {
            self.leave(origin);
        }
        let Some(virtual_node) = self.virtual_nodes.get(node).filter(|_| !over) else {
            self.release(origin);
            return;
        };
        if pod["metadata"]["deletionTimestamp"].is_null() {
            self.splits.put(pod, node, None);
        } else {
            self.splits.remove(origin);
        }
        let Some(cluster) = self.clusters.get(&virtual_node.cluster) else {
            return;
        };
        let promised = cluster.model.is_promised(origin);
        if promised || cluster.model.is_settled(origin) {
            return;
        }
        let mut lowering = Lowering::new(pod);
        let Ok(candidate) = lowering.candidate(node, virtual_node, &self.settings.ignored_keys) else {
            return;
        };
        let hint = pod["metadata"]["annotations"][names::PLACEMENT_HINT].as_str();
        self.reserve(node, &candidate, origin, hint);
    }
}

/// UID of an object of the upper cluster.
#[must_use]
pub fn uid(object: &Value) -> Uid {
    Uid::from(object["metadata"]["uid"].as_str().unwrap_or_default())
}

/// The taint that a cordoned node gets from its control plane, some time later.
fn cordon() -> Taint {
    Taint {
        key: names::TAINT_UNSCHEDULABLE.into(),
        value: "".into(),
        effect: Effect::NoSchedule,
    }
}
