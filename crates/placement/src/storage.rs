//! Volumes, claims, classes and drivers of a lower cluster.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use tensile_core::affinity::Term;
use tensile_core::labels::{LabelLookup, Labels, Selector};
use tensile_core::quantity::Quantity;

use crate::terms::or_default;

/// Set by the volume controller when a claim and its volume know each other.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Set by a scheduler that chose a node for a claim that is being provisioned.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Class annotation older than `storageClassName`; it wins where both are set.
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
/// Provisioner of classes that provision nothing.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";

/// Storage objects of one cluster, by name.
#[derive(Debug, Default)]
pub struct Storage {
    /// PersistentVolumes.
    pub volumes: Table<Volume>,
    /// PersistentVolumeClaims, by `namespace/name`.
    pub claims: Table<Claim>,
    /// StorageClasses.
    pub classes: Table<Class>,
    /// CSINodes: the drivers on each node.
    pub csi_nodes: Table<CsiNode>,
    /// CSIDrivers.
    pub drivers: Table<Driver>,
}

/// Objects of one kind.
#[derive(Debug)]
pub struct Table<T>(HashMap<Box<str>, T>);

/// An object that knows its key within its kind.
pub trait Keyed {
    /// Name, or `namespace/name`.
    fn key(&self) -> Box<str>;
}

/// A PersistentVolume.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "RawVolume")]
pub struct Volume {
    /// `metadata.name`.
    pub name: Box<str>,
    /// `metadata.labels`; zone labels bind a volume to nodes.
    pub labels: Labels,
    /// Required node affinity; `None` is no condition.
    pub node_affinity: Option<Box<[Term]>>,
    /// `spec.capacity.storage`.
    pub capacity: Quantity,
    /// `spec.accessModes`.
    pub access_modes: Box<[Box<str>]>,
    /// `spec.storageClassName`.
    pub class: Box<str>,
    /// `spec.volumeMode`.
    pub mode: VolumeMode,
    /// `namespace/name` and UID of the claim that it is bound or promised to; the UID may be empty.
    pub claim: Option<(Box<str>, Box<str>)>,
    /// Whether it can be bound.
    pub available: bool,
    /// Driver and handle, for CSI volumes.
    pub csi: Option<(Box<str>, Box<str>)>,
}

/// A PersistentVolumeClaim.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "RawClaim")]
pub struct Claim {
    /// `namespace/name`.
    pub key: Box<str>,
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// `spec.volumeName`.
    pub volume: Option<Box<str>>,
    /// Whether claim and volume know each other.
    pub bound: bool,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// Whether its volume is gone (`status.phase: Lost`).
    pub lost: bool,
    /// `spec.storageClassName`.
    pub class: Box<str>,
    /// `spec.resources.requests.storage`.
    pub request: Quantity,
    /// `spec.accessModes`.
    pub access_modes: Box<[Box<str>]>,
    /// `spec.volumeMode`.
    pub mode: VolumeMode,
    /// `spec.selector`.
    pub selector: Option<Selector>,
    /// The node that a scheduler chose for provisioning.
    pub selected_node: Option<Box<str>>,
}

/// How a volume is offered to containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum VolumeMode {
    /// As a file system.
    #[default]
    Filesystem,
    /// As a device.
    Block,
}

/// A StorageClass.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "RawClass")]
pub struct Class {
    /// `metadata.name`.
    pub name: Box<str>,
    /// Whether claims wait for their first pod.
    pub delayed: bool,
    /// `provisioner`, if it provisions.
    pub provisioner: Option<Box<str>>,
    /// `allowedTopologies`: one of the terms must hold; none is no condition.
    pub topologies: Box<[TopologyTerm]>,
}

/// A term of `allowedTopologies`: every label must have one of its values.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TopologyTerm {
    #[serde(deserialize_with = "or_default")]
    match_label_expressions: Vec<TopologyExpression>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
struct TopologyExpression {
    key: Box<str>,
    values: Box<[Box<str>]>,
}

/// A CSINode.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "RawCsiNode")]
pub struct CsiNode {
    /// `metadata.name`.
    pub name: Box<str>,
    /// How many volumes of each driver the node takes; drivers without a limit are left out.
    pub limits: BTreeMap<Box<str>, u32>,
}

/// A CSIDriver.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "RawDriver")]
pub struct Driver {
    /// `metadata.name`.
    pub name: Box<str>,
    /// Whether the scheduler must look at CSIStorageCapacity objects.
    pub tracks_capacity: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawMetadata {
    name: Box<str>,
    namespace: Box<str>,
    uid: Box<str>,
    #[serde(deserialize_with = "or_default")]
    labels: Labels,
    #[serde(deserialize_with = "or_default")]
    annotations: Labels,
    #[serde(rename = "deletionTimestamp")]
    deletion_timestamp: Option<serde::de::IgnoredAny>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawVolume {
    metadata: RawMetadata,
    spec: RawVolumeSpec,
    status: RawStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawVolumeSpec {
    capacity: StorageAmount,
    #[serde(deserialize_with = "or_default")]
    access_modes: Box<[Box<str>]>,
    storage_class_name: Box<str>,
    volume_mode: Option<VolumeMode>,
    claim_ref: Option<RawClaimRef>,
    #[serde(deserialize_with = "node_affinity")]
    node_affinity: Option<Box<[Term]>>,
    csi: Option<RawCsi>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StorageAmount {
    storage: Quantity,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawClaimRef {
    namespace: Box<str>,
    name: Box<str>,
    uid: Box<str>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawCsi {
    driver: Box<str>,
    volume_handle: Box<str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawStatus {
    phase: Box<str>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawClaim {
    metadata: RawMetadata,
    spec: RawClaimSpec,
    status: RawStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawClaimSpec {
    volume_name: Option<Box<str>>,
    storage_class_name: Option<Box<str>>,
    resources: RawClaimResources,
    #[serde(deserialize_with = "or_default")]
    access_modes: Box<[Box<str>]>,
    volume_mode: Option<VolumeMode>,
    selector: Option<Selector>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawClaimResources {
    requests: StorageAmount,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawClass {
    metadata: RawMetadata,
    provisioner: Box<str>,
    volume_binding_mode: Option<Box<str>>,
    #[serde(deserialize_with = "or_default")]
    allowed_topologies: Box<[TopologyTerm]>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawCsiNode {
    metadata: RawMetadata,
    spec: RawCsiNodeSpec,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawCsiNodeSpec {
    #[serde(deserialize_with = "or_default")]
    drivers: Vec<RawCsiNodeDriver>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawCsiNodeDriver {
    name: Box<str>,
    allocatable: Option<RawCount>,
}

#[derive(Deserialize)]
struct RawCount {
    count: Option<u32>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawDriver {
    metadata: RawMetadata,
    spec: RawDriverSpec,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawDriverSpec {
    storage_capacity: Option<bool>,
}

// === impl Table ===

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<T: Keyed + PartialEq> Table<T> {
    /// Takes in an object as it is now. Says whether that changed anything.
    pub fn apply(&mut self, object: T) -> bool {
        let key = object.key();
        let changed = self.0.get(&key) != Some(&object);
        self.0.insert(key, object);
        changed
    }

    /// Forgets an object.
    pub fn delete(&mut self, key: &str) -> bool {
        self.0.remove(key).is_some()
    }

    /// Forgets all objects but those whose key `exists` names.
    pub fn retain(&mut self, exists: impl Fn(&str) -> bool) -> bool {
        let before = self.0.len();
        self.0.retain(|key, _| exists(key));
        before != self.0.len()
    }

    /// The object with this key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&T> {
        self.0.get(key)
    }

    /// All objects, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.values()
    }
}

// === impl Volume ===

impl Volume {
    /// Whether a node with these labels can use the volume.
    pub fn reaches(&self, labels: &impl LabelLookup) -> bool {
        // The name of the node is no part of the question (CheckNodeAffinity in component-helpers).
        self.node_affinity
            .as_ref()
            .is_none_or(|terms| terms.iter().any(|term| term.matches("", labels)))
    }

    /// Whether the volume is bound or promised to `claim`.
    #[must_use]
    pub fn is_for(&self, claim: &Claim) -> bool {
        self.claim
            .as_ref()
            .is_some_and(|(key, uid)| *key == claim.key && (uid.is_empty() || *uid == claim.uid))
    }

    /// Whether `claim` could be bound to this volume, wherever its pod goes.
    #[must_use]
    pub fn suits(&self, claim: &Claim) -> bool {
        let large_enough = self.capacity >= claim.request && self.mode == claim.mode;
        let promised = self.is_for(claim);
        let free = self.claim.is_none()
            && self.available
            && self.class == claim.class
            && claim
                .access_modes
                .iter()
                .all(|mode| self.access_modes.contains(mode))
            && claim
                .selector
                .as_ref()
                .is_none_or(|selector| selector.matches(&self.labels));
        large_enough && (promised || free)
    }
}

impl Keyed for Volume {
    fn key(&self) -> Box<str> {
        self.name.clone()
    }
}

impl From<RawVolume> for Volume {
    fn from(
        RawVolume {
            metadata,
            spec,
            status,
        }: RawVolume,
    ) -> Self {
        let class = metadata
            .annotations
            .get(BETA_CLASS)
            .map_or(spec.storage_class_name, Into::into);
        Self {
            name: metadata.name,
            labels: metadata.labels,
            node_affinity: spec.node_affinity,
            capacity: spec.capacity.storage,
            access_modes: spec.access_modes,
            class,
            mode: spec.volume_mode.unwrap_or_default(),
            claim: spec
                .claim_ref
                .map(|claim| (claim_key(&claim.namespace, &claim.name), claim.uid)),
            available: &*status.phase == "Available" && metadata.deletion_timestamp.is_none(),
            csi: spec.csi.map(|csi| (csi.driver, csi.volume_handle)),
        }
    }
}

// === impl Claim ===

impl Keyed for Claim {
    fn key(&self) -> Box<str> {
        self.key.clone()
    }
}

impl From<RawClaim> for Claim {
    fn from(
        RawClaim {
            metadata,
            spec,
            status,
        }: RawClaim,
    ) -> Self {
        let annotation = |key| metadata.annotations.get(key);
        let volume = spec.volume_name.filter(|name| !name.is_empty());
        Self {
            key: claim_key(&metadata.namespace, &metadata.name),
            bound: volume.is_some() && annotation(BIND_COMPLETED).is_some(),
            deleting: metadata.deletion_timestamp.is_some(),
            lost: &*status.phase == "Lost",
            volume,
            class: annotation(BETA_CLASS)
                .map(Into::into)
                .or(spec.storage_class_name)
                .unwrap_or_default(),
            request: spec.resources.requests.storage,
            access_modes: spec.access_modes,
            mode: spec.volume_mode.unwrap_or_default(),
            selector: spec.selector,
            selected_node: annotation(SELECTED_NODE).map(Into::into),
            uid: metadata.uid,
        }
    }
}

/// Key of a claim in [`Storage::claims`].
#[must_use]
pub fn claim_key(namespace: &str, name: &str) -> Box<str> {
    format!("{namespace}/{name}").into()
}

// === impl Class ===

impl Class {
    /// Whether a node with these labels is within `allowedTopologies`.
    pub fn allows(&self, labels: &impl LabelLookup) -> bool {
        self.topologies.is_empty() || self.topologies.iter().any(|term| term.matches(labels))
    }
}

impl TopologyTerm {
    /// A term without expressions matches nothing (`MatchTopologySelectorTerms` in core/v1/helper).
    fn matches(&self, labels: &impl LabelLookup) -> bool {
        let holds = |expression: &TopologyExpression| {
            labels
                .label(&expression.key)
                .is_some_and(|value| expression.values.iter().any(|allowed| **allowed == *value))
        };
        !self.match_label_expressions.is_empty() && self.match_label_expressions.iter().all(holds)
    }
}

impl Keyed for Class {
    fn key(&self) -> Box<str> {
        self.name.clone()
    }
}

impl From<RawClass> for Class {
    fn from(raw: RawClass) -> Self {
        Self {
            name: raw.metadata.name,
            delayed: raw.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
            provisioner: Some(raw.provisioner).filter(|name| !["", NO_PROVISIONER].contains(&&**name)),
            topologies: raw.allowed_topologies,
        }
    }
}

// === impl CsiNode, Driver ===

impl Keyed for CsiNode {
    fn key(&self) -> Box<str> {
        self.name.clone()
    }
}

impl From<RawCsiNode> for CsiNode {
    fn from(raw: RawCsiNode) -> Self {
        let limit = |driver: RawCsiNodeDriver| Some((driver.name, driver.allocatable?.count?));
        Self {
            name: raw.metadata.name,
            limits: raw.spec.drivers.into_iter().filter_map(limit).collect(),
        }
    }
}

impl Keyed for Driver {
    fn key(&self) -> Box<str> {
        self.name.clone()
    }
}

impl From<RawDriver> for Driver {
    fn from(raw: RawDriver) -> Self {
        Self {
            name: raw.metadata.name,
            tracks_capacity: raw.spec.storage_capacity == Some(true),
        }
    }
}

/// Reads `spec.nodeAffinity.required.nodeSelectorTerms` of a volume.
fn node_affinity<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<[Term]>>, D::Error> {
    let affinity = Value::deserialize(deserializer)?;
    let Value::Object(required) = &affinity["required"] else {
        return Ok(None);
    };
    let terms = required
        .get("nodeSelectorTerms")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let path = |index| format!("spec.nodeAffinity.required.nodeSelectorTerms[{index}]");
    let terms = terms
        .enumerate()
        .map(|(index, term)| Term::parse(term, &path(index)));
    terms
        .collect::<Result<_, _>>()
        .map(Some)
        .map_err(serde::de::Error::custom)
}
