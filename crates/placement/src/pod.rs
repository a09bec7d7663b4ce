//! Pods of a lower cluster, as the model keeps them.
//!
//! Of a million pods most are replicas of each other: what replicas have in common is a [`Shape`] and kept
//! once, and what is left of a pod is its key, its shape and its node.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde::Deserialize;
use tensile_core::hash::Fnv;
use tensile_core::labels::Labels;
use tensile_core::names;
use tensile_core::resources::{
    ContainerRequests, PodCondition, PodLevelRequests, PodRequests, Requirements, Resources,
    RunningContainer, RunningRequests,
};
use tensile_core::view::Phase;

use crate::intern::Interner;
use crate::labels::SharedLabels;
use crate::terms::{AffinityTerm, RawPodAffinities, or_default};

/// UID of an upper pod as a number. UIDs that are no UUIDs are hashed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Uid(u128);

/// What tells a pod from the others of its cluster: a hash of namespace and name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodKey(u128);

/// A pod of a lower cluster, read straight from API JSON.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(from = "RawPod")]
pub struct Pod {
    /// Made of namespace and name.
    pub key: PodKey,
    /// UID of the upper pod that it stands for, from the label that says so.
    pub origin: Option<Uid>,
    /// `spec.nodeName`, if the pod is bound.
    pub node_name: Option<Box<str>>,
    /// `status.phase`.
    pub phase: Phase,
    /// `metadata.namespace`.
    pub namespace: Box<str>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// The effective request.
    pub request: Resources,
    /// Ports of the node that it takes.
    pub host_ports: Box<[HostPort]>,
    /// Required anti-affinity: it keeps other pods away, too.
    pub anti_affinity: Box<[AffinityTerm]>,
    /// Names of the PersistentVolumeClaims that it mounts, sorted; one that it mounts twice is there twice, since
    /// kube-scheduler looks for two volumes then.
    pub claims: Box<[Box<str>]>,
}

/// What pods that the filters cannot tell apart have in common.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.labels` without the UID of the origin, which no selector asks for.
    pub labels: SharedLabels,
    /// Whether the pods are being deleted.
    pub deleting: bool,
    /// The effective request.
    pub request: Resources,
    /// Ports of the node that each pod takes.
    pub host_ports: Box<[HostPort]>,
    /// Required anti-affinity.
    pub anti_affinity: Box<[AffinityTerm]>,
    /// Names of the PersistentVolumeClaims that each pod mounts, sorted.
    pub claims: Box<[Arc<str>]>,
}

/// A port of the node that a container listens on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: Box<str>,
    /// The address that it listens on; empty is every address.
    pub ip: Box<str>,
    /// The port.
    pub port: u16,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawPod {
    metadata: RawMetadata,
    spec: RawSpec,
    status: RawStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawMetadata {
    name: Box<str>,
    namespace: Box<str>,
    #[serde(deserialize_with = "or_default")]
    labels: Labels,
    deletion_timestamp: Option<serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawSpec {
    node_name: Option<Box<str>>,
    host_network: bool,
    #[serde(deserialize_with = "or_default")]
    containers: Vec<RawContainer>,
    #[serde(deserialize_with = "or_default")]
    init_containers: Vec<RawContainer>,
    resources: PodLevelRequests,
    overhead: Resources,
    #[serde(deserialize_with = "or_default")]
    affinity: RawPodAffinities,
    #[serde(deserialize_with = "or_default")]
    volumes: Vec<RawVolume>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawContainer {
    name: Box<str>,
    restart_policy: Option<Box<str>>,
    resources: Requirements,
    #[serde(deserialize_with = "or_default")]
    ports: Vec<RawPort>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPort {
    host_port: u16,
    container_port: u16,
    #[serde(rename = "hostIP")]
    host_ip: Box<str>,
    protocol: Option<Box<str>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawVolume {
    name: Box<str>,
    persistent_volume_claim: Option<RawClaimSource>,
    ephemeral: Option<serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawClaimSource {
    claim_name: Box<str>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawStatus {
    phase: Phase,
    #[serde(deserialize_with = "or_default")]
    container_statuses: Vec<RunningContainer>,
    #[serde(deserialize_with = "or_default")]
    init_container_statuses: Vec<RunningContainer>,
    #[serde(deserialize_with = "or_default")]
    conditions: Vec<PodCondition>,
    resources: Option<Requirements>,
    allocated_resources: Resources,
}

// === impl Uid ===

impl From<&str> for Uid {
    fn from(text: &str) -> Self {
        let digits: String = text.chars().filter(|c| *c != '-').collect();
        let number = (digits.len() == 32)
            .then(|| u128::from_str_radix(&digits, 16).ok())
            .flatten();
        Self(number.unwrap_or_else(|| wide_hash(text)))
    }
}

impl fmt::Display for Uid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

// === impl PodKey ===

impl PodKey {
    /// The key of the pod `namespace/name`.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self(wide_hash(&format!("{namespace}/{name}")))
    }
}

/// 128 bits, so that among a million texts two with the same hash are not to be expected.
fn wide_hash(text: &str) -> u128 {
    let reversed: Vec<u8> = text.bytes().rev().collect();
    (u128::from(Fnv::of(text.as_bytes())) << 64) | u128::from(Fnv::of(&reversed))
}

// === impl Pod ===

impl Pod {
    /// The node that the pod holds resources of: it is bound there and not over.
    #[must_use]
    pub fn occupied_node(&self) -> Option<&str> {
        self.node_name.as_deref().filter(|_| !self.phase.is_terminal())
    }

    /// Whether no filter can tell the two apart when they ask for a place.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.request == other.request
            && self.namespace == other.namespace
            && self.told_labels().eq(other.told_labels())
            && self.node_name == other.node_name
            && self.host_ports == other.host_ports
            && self.anti_affinity == other.anti_affinity
            && self.claims == other.claims
    }

    /// Hashes what [`Pod::is_like`] compares.
    pub(crate) fn hash_kind(&self, hasher: &mut impl Hasher) {
        (&self.request, &self.namespace, &self.node_name, &self.claims).hash(hasher);
        (&self.host_ports, &self.anti_affinity).hash(hasher);
        self.told_labels().for_each(|label| label.hash(hasher));
    }

    /// The labels without the UID of the origin, which no selector asks for.
    fn told_labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.labels.iter().filter(|(key, _)| *key != names::ORIGIN_UID)
    }

    pub(crate) fn shape(&self, interner: &mut Interner) -> Shape {
        let mut claims: Vec<Arc<str>> = self.claims.iter().map(|name| interner.get(name)).collect();
        claims.dedup();
        Shape {
            namespace: interner.get(&self.namespace),
            labels: SharedLabels::new(&self.labels, |key| key == names::ORIGIN_UID, interner),
            deleting: self.deleting,
            request: self.request.clone(),
            host_ports: self.host_ports.clone(),
            anti_affinity: self.anti_affinity.clone(),
            claims: claims.into(),
        }
    }
}

impl From<RawPod> for Pod {
    fn from(
        RawPod {
            metadata,
            spec,
            status,
        }: RawPod,
    ) -> Self {
        let running = RunningRequests {
            container_statuses: status.container_statuses,
            init_container_statuses: status.init_container_statuses,
            conditions: status.conditions,
            resources: status.resources,
            allocated_resources: status.allocated_resources,
        };
        Self {
            key: PodKey::new(&metadata.namespace, &metadata.name),
            origin: metadata.labels.get(names::ORIGIN_UID).map(Uid::from),
            phase: status.phase,
            deleting: metadata.deletion_timestamp.is_some(),
            host_ports: spec.host_ports(),
            anti_affinity: spec.affinity.anti_affinity(&metadata.namespace, &metadata.labels),
            claims: spec.claims(&metadata.name),
            node_name: spec.node_name.clone().filter(|name| !name.is_empty()),
            request: spec.request(&running),
            namespace: metadata.namespace,
            labels: metadata.labels,
        }
    }
}

// === impl RawSpec ===

impl RawSpec {
    fn request(self, running: &RunningRequests) -> Resources {
        let slim =
            |containers: Vec<RawContainer>| containers.into_iter().map(RawContainer::requests).collect();
        let requests = PodRequests {
            containers: slim(self.containers),
            init_containers: slim(self.init_containers),
            resources: self.resources,
            overhead: self.overhead,
        };
        requests.effective(running)
    }

    /// Init containers count only as sidecars (`getHostPorts` in kube-scheduler's nodeports plugin).
    fn host_ports(&self) -> Box<[HostPort]> {
        let sidecars = self
            .init_containers
            .iter()
            .filter(|container| container.is_sidecar());
        let ports = self
            .containers
            .iter()
            .chain(sidecars)
            .flat_map(|container| &container.ports);
        let mut ports: Vec<HostPort> = ports.filter_map(|port| port.on_host(self.host_network)).collect();
        ports.sort();
        ports.dedup();
        ports.into()
    }

    /// A generic ephemeral volume has a claim named after the pod and the volume.
    fn claims(&self, pod_name: &str) -> Box<[Box<str>]> {
        let claim = |volume: &RawVolume| match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(source), _) => Some(source.claim_name.clone()),
            (None, Some(_)) => Some(format!("{pod_name}-{}", volume.name).into()),
            (None, None) => None,
        };
        let mut claims: Vec<Box<str>> = self.volumes.iter().filter_map(claim).collect();
        claims.sort();
        claims.into()
    }
}

impl RawContainer {
    fn is_sidecar(&self) -> bool {
        self.restart_policy.as_deref() == Some("Always")
    }

    fn requests(self) -> ContainerRequests {
        ContainerRequests {
            name: self.name,
            restart_policy: self.restart_policy,
            resources: self.resources,
        }
    }
}

impl RawPort {
    /// With `hostNetwork` the API server sets the host port to the container port.
    fn on_host(&self, host_network: bool) -> Option<HostPort> {
        let port = match self.host_port {
            0 if host_network => self.container_port,
            port => port,
        };
        (port != 0).then(|| HostPort {
            protocol: self.protocol.clone().unwrap_or_else(|| "TCP".into()),
            ip: if &*self.host_ip == "0.0.0.0" {
                "".into()
            } else {
                self.host_ip.clone()
            },
            port,
        })
    }
}
