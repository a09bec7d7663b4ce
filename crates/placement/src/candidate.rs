//! A pod that asks for a place, as it will be in the lower cluster, compiled once for all nodes.

use std::hash::{DefaultHasher, Hash, Hasher};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tensile_core::affinity::{AffinityError, RequiredNodeAffinity};
use tensile_core::labels::{Labels, Operator, Selector};
use tensile_core::taints::{TaintError, Toleration};

use crate::pod::Pod;
use crate::terms::{AffinityTerm, RawPodAffinities, or_default, with_label_keys};

/// The scheduler whose rules this crate knows.
const DEFAULT_SCHEDULER: &str = "default-scheduler";
/// Members of a pod spec that make kube-scheduler decide by rules that this crate does not know: dynamic
/// resources, gang scheduling (under its names so far) and gates.
const UNKNOWN_MEMBERS: [&str; 5] = [
    "resourceClaims",
    "schedulingGroup",
    "workloadRef",
    "podGroup",
    "schedulingGates",
];
/// In-tree volumes that two pods may not share on a node or that count against old limits.
const UNKNOWN_VOLUMES: [&str; 6] = [
    "gcePersistentDisk",
    "awsElasticBlockStore",
    "azureDisk",
    "cinder",
    "iscsi",
    "rbd",
];

/// A pod that asks for a place.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// What it has in common with pods that run.
    pub pod: Pod,
    /// `spec.tolerations`.
    pub tolerations: Vec<Toleration>,
    /// `spec.nodeSelector` and the required node affinity.
    pub node_affinity: RequiredNodeAffinity,
    /// Required inter-pod affinity.
    pub affinity: Box<[AffinityTerm]>,
    /// Topology spread constraints that must hold.
    pub spread: Box<[SpreadConstraint]>,
    /// What the pod asks for that nobody here can judge.
    pub unknown: Vec<Unknown>,
    /// A hash that candidates that are alike share.
    pub(crate) kind: u64,
}

/// Something that this crate cannot judge, so that "it fits" would be a guess.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Unknown(pub String);

/// A topology spread constraint with `whenUnsatisfiable: DoNotSchedule`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SpreadConstraint {
    /// By how many pods a domain may be ahead of the emptiest one.
    pub max_skew: i64,
    /// The node label whose values are the domains.
    pub topology_key: Box<str>,
    /// Which pods count, with `matchLabelKeys` merged in; `None` counts none.
    pub selector: Option<Selector>,
    /// With fewer domains than this the emptiest one counts as empty.
    pub min_domains: usize,
    /// Whether nodes that the node affinity rules out are no domains (`nodeAffinityPolicy: Honor`).
    pub honor_node_affinity: bool,
    /// Whether nodes with untolerated taints are no domains (`nodeTaintsPolicy: Honor`).
    pub honor_taints: bool,
}

/// Why a pod cannot be read as a candidate.
#[derive(Debug, thiserror::Error)]
pub enum CandidateError {
    /// Something other than constraints.
    #[error("pod: {0}")]
    Pod(#[source] serde_json::Error),
    /// Node selector or node affinity.
    #[error("spec.{0}")]
    NodeAffinity(#[from] AffinityError),
    /// Tolerations.
    #[error("spec.{0}")]
    Tolerations(#[from] TaintError),
    /// Inter-pod affinity or anti-affinity.
    #[error("spec.affinity: {0}")]
    PodAffinity(#[source] serde_json::Error),
    /// Topology spread constraints.
    #[error("spec.topologySpreadConstraints: {0}")]
    Spread(#[source] serde_json::Error),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSpread {
    max_skew: i64,
    topology_key: Box<str>,
    when_unsatisfiable: WhenUnsatisfiable,
    label_selector: Option<Selector>,
    #[serde(default, deserialize_with = "or_default")]
    match_label_keys: Vec<Box<str>>,
    min_domains: Option<usize>,
    node_affinity_policy: Option<Policy>,
    node_taints_policy: Option<Policy>,
}

#[derive(Deserialize, PartialEq)]
enum WhenUnsatisfiable {
    DoNotSchedule,
    ScheduleAnyway,
}

#[derive(Deserialize, PartialEq)]
enum Policy {
    Honor,
    Ignore,
}

// === impl Candidate ===

impl Candidate {
    /// Compiles a pod in its lower form: after un-stashing and translation.
    ///
    /// # Errors
    /// When a part that decides on the place cannot be read.
    pub fn new(pod: &Value) -> Result<Self, CandidateError> {
        let spec = &pod["spec"];
        let affinities: Option<RawPodAffinities> =
            Deserialize::deserialize(&spec["affinity"]).map_err(CandidateError::PodAffinity)?;
        let spread: Option<Vec<RawSpread>> =
            Deserialize::deserialize(&spec["topologySpreadConstraints"]).map_err(CandidateError::Spread)?;
        let pod = Pod::deserialize(pod).map_err(CandidateError::Pod)?;
        let mut candidate = Self {
            tolerations: Toleration::parse_list(spec.get("tolerations"))?,
            node_affinity: RequiredNodeAffinity::of_spec(spec)?,
            affinity: affinities
                .unwrap_or_default()
                .affinity(&pod.namespace, &pod.labels),
            spread: spread
                .into_iter()
                .flatten()
                .filter_map(|raw| raw.compile(&pod.labels))
                .collect(),
            unknown: unknown_features(spec),
            kind: 0,
            pod,
        };
        candidate.kind = candidate.hash_of_kind();
        Ok(candidate)
    }

    fn hash_of_kind(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.pod.hash_kind(&mut hasher);
        (&self.tolerations, &self.node_affinity, &self.affinity).hash(&mut hasher);
        (&self.spread, &self.unknown).hash(&mut hasher);
        hasher.finish()
    }

    /// Whether no filter can tell the two apart: they differ in their name or in whom they stand for at most.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        self.pod.is_like(&other.pod)
            && self.tolerations == other.tolerations
            && self.node_affinity == other.node_affinity
            && self.affinity == other.affinity
            && self.spread == other.spread
            && self.unknown == other.unknown
    }
}

impl RawSpread {
    /// The constraint, if it must hold, of a pod with these labels.
    fn compile(self, labels: &Labels) -> Option<SpreadConstraint> {
        (self.when_unsatisfiable == WhenUnsatisfiable::DoNotSchedule).then(|| SpreadConstraint {
            max_skew: self.max_skew,
            topology_key: self.topology_key,
            selector: self
                .label_selector
                .map(|selector| with_label_keys(selector, &self.match_label_keys, Operator::In, labels)),
            min_domains: self.min_domains.unwrap_or(1),
            honor_node_affinity: self
                .node_affinity_policy
                .is_none_or(|policy| policy == Policy::Honor),
            honor_taints: self.node_taints_policy == Some(Policy::Honor),
        })
    }
}

fn unknown_features(spec: &Value) -> Vec<Unknown> {
    let present = |value: &Value| match value {
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        _ => true,
    };
    let members = UNKNOWN_MEMBERS
        .into_iter()
        .filter(|member| present(&spec[member]));
    let members = members.map(|member| format!("spec.{member}"));
    let volumes = spec["volumes"].as_array().into_iter().flatten();
    let volumes = volumes
        .flat_map(|volume| UNKNOWN_VOLUMES.into_iter().filter(|kind| present(&volume[kind])))
        .map(|kind| format!("volume of type {kind}"));
    let scheduler = spec["schedulerName"]
        .as_str()
        .filter(|name| !["", DEFAULT_SCHEDULER].contains(name));
    let scheduler = scheduler.map(|name| format!("scheduler {name}"));
    members.chain(volumes).chain(scheduler).map(Unknown).collect()
}
