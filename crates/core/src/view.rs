//! Slim, read-only views of pods and nodes, read straight from API JSON.
//!
//! They hold what capacity and placement decide on and skip the rest while parsing, so that a pod costs some
//! hundred bytes. Objects that go to another cluster are never made from them.

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

use crate::labels::Labels;
use crate::resources::{
    ContainerRequests, PodCondition, PodLevelRequests, PodRequests, Requirements, Resources,
    RunningContainer, RunningRequests,
};
use crate::taints::Taint;

/// Label with a node's processor architecture.
const ARCH_LABEL: &str = "kubernetes.io/arch";
/// Label with a node's operating system.
const OS_LABEL: &str = "kubernetes.io/os";

/// What is looked at of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "RawPod")]
pub struct PodView {
    /// `metadata.name`.
    pub name: Box<str>,
    /// `metadata.namespace`.
    pub namespace: Box<str>,
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// The owner that controls the pod.
    pub controller: Option<Owner>,
    /// Whether `metadata.deletionTimestamp` is set.
    pub deleting: bool,
    /// `spec.nodeName`.
    pub node_name: Option<Box<str>>,
    /// `spec.priority`.
    pub priority: i32,
    /// The effective request, resizes included; `pods` is 1.
    pub request: Resources,
    /// `status.phase`.
    pub phase: Phase,
}

/// Who controls an object, from `metadata.ownerReferences`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(default)]
pub struct Owner {
    /// Its kind, for example `ReplicaSet`.
    pub kind: Box<str>,
    /// Its name.
    pub name: Box<str>,
    /// Its UID.
    pub uid: Box<str>,
}

/// `status.phase` of a pod.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
pub enum Phase {
    /// Accepted, not all containers run. Also what a pod without a status is.
    #[default]
    Pending,
    /// Bound, at least one container runs or starts again.
    Running,
    /// All containers ended well.
    Succeeded,
    /// All containers ended, one of them badly.
    Failed,
    /// The node cannot say, or a phase that this version does not know.
    #[serde(other)]
    Unknown,
}

/// What is looked at of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(from = "RawNode")]
pub struct NodeView {
    /// `metadata.name`.
    pub name: Box<str>,
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// The annotation [`NAMESPACE_PREFIX`](crate::names::NAMESPACE_PREFIX) of a virtual node.
    pub namespace_prefix: Option<Box<str>>,
    /// `spec.taints`.
    pub taints: Box<[Taint]>,
    /// `spec.unschedulable`: the node is cordoned.
    pub unschedulable: bool,
    /// Whether the condition Ready is True.
    pub ready: bool,
    /// `status.capacity`.
    pub capacity: Resources,
    /// `status.allocatable`.
    pub allocatable: Resources,
    /// `status.nodeInfo.architecture`, else the label.
    pub architecture: Box<str>,
    /// `status.nodeInfo.operatingSystem`, else the label.
    pub operating_system: Box<str>,
    /// `status.nodeInfo.kubeletVersion`.
    pub kubelet_version: Box<str>,
    /// `status.declaredFeatures`, in the node's order.
    pub declared_features: Box<[Box<str>]>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawPod {
    metadata: RawMetadata,
    spec: RawPodSpec,
    status: RawPodStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawMetadata {
    name: Box<str>,
    namespace: Box<str>,
    uid: Box<str>,
    #[serde(deserialize_with = "or_default")]
    labels: Labels,
    #[serde(deserialize_with = "or_default")]
    annotations: RawAnnotations,
    #[serde(deserialize_with = "or_default")]
    owner_references: Vec<RawOwner>,
    deletion_timestamp: Option<IgnoredAny>,
}

/// Others are skipped while parsing.
#[derive(Default, Deserialize)]
#[serde(default)]
struct RawAnnotations {
    /// [`NAMESPACE_PREFIX`](crate::names::NAMESPACE_PREFIX)
    #[serde(rename = "tensile.dev/namespace-prefix")]
    namespace_prefix: Option<Box<str>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawOwner {
    controller: bool,
    kind: Box<str>,
    name: Box<str>,
    uid: Box<str>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPodSpec {
    node_name: Option<Box<str>>,
    #[serde(deserialize_with = "or_default")]
    containers: Vec<ContainerRequests>,
    #[serde(deserialize_with = "or_default")]
    init_containers: Vec<ContainerRequests>,
    resources: PodLevelRequests,
    overhead: Resources,
    priority: Option<i32>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawPodStatus {
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

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawNode {
    metadata: RawMetadata,
    spec: RawNodeSpec,
    status: RawNodeStatus,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawNodeSpec {
    #[serde(deserialize_with = "or_default")]
    taints: Box<[Taint]>,
    unschedulable: bool,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawNodeStatus {
    capacity: Resources,
    allocatable: Resources,
    #[serde(deserialize_with = "or_default")]
    conditions: Vec<RawCondition>,
    node_info: RawNodeInfo,
    #[serde(deserialize_with = "or_default")]
    declared_features: Box<[Box<str>]>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RawCondition {
    r#type: Box<str>,
    status: Box<str>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawNodeInfo {
    architecture: Box<str>,
    operating_system: Box<str>,
    kubelet_version: Box<str>,
}

// === impl PodView ===

impl PodView {
    /// Whether the pod holds resources of a node: it is bound and not over.
    #[must_use]
    pub fn occupies_node(&self) -> bool {
        self.node_name.is_some() && !self.phase.is_terminal()
    }
}

impl From<RawPod> for PodView {
    fn from(
        RawPod {
            metadata,
            spec,
            status,
        }: RawPod,
    ) -> Self {
        let requests = PodRequests {
            containers: spec.containers,
            init_containers: spec.init_containers,
            resources: spec.resources,
            overhead: spec.overhead,
        };
        let running = RunningRequests {
            container_statuses: status.container_statuses,
            init_container_statuses: status.init_container_statuses,
            conditions: status.conditions,
            resources: status.resources,
            allocated_resources: status.allocated_resources,
        };
        let controller = metadata
            .owner_references
            .into_iter()
            .find(|owner| owner.controller);
        Self {
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            labels: metadata.labels,
            controller: controller.map(|RawOwner { kind, name, uid, .. }| Owner { kind, name, uid }),
            deleting: metadata.deletion_timestamp.is_some(),
            node_name: spec.node_name.filter(|name| !name.is_empty()),
            priority: spec.priority.unwrap_or_default(),
            request: requests.effective(&running),
            phase: status.phase,
        }
    }
}

// === impl Phase ===

impl Phase {
    /// Whether the pod is over for good, so that it holds nothing of its node any more.
    #[must_use]
    pub fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

// === impl NodeView ===

impl From<RawNode> for NodeView {
    fn from(
        RawNode {
            metadata,
            spec,
            status,
        }: RawNode,
    ) -> Self {
        let label_or = |told: Box<str>, label| match metadata.labels.get(label) {
            Some(value) if told.is_empty() => value.into(),
            _ => told,
        };
        let ready = status
            .conditions
            .iter()
            .any(|condition| &*condition.r#type == "Ready" && &*condition.status == "True");
        Self {
            architecture: label_or(status.node_info.architecture, ARCH_LABEL),
            operating_system: label_or(status.node_info.operating_system, OS_LABEL),
            kubelet_version: status.node_info.kubelet_version,
            name: metadata.name,
            uid: metadata.uid,
            labels: metadata.labels,
            namespace_prefix: metadata.annotations.namespace_prefix,
            taints: spec.taints,
            unschedulable: spec.unschedulable,
            ready,
            capacity: status.capacity,
            allocatable: status.allocatable,
            declared_features: status.declared_features,
        }
    }
}

/// Reads `null` as the default, as Go does.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_pod(json: &serde_json::Value) -> PodView {
        serde_json::from_str(&json.to_string()).unwrap()
    }

    fn mk_node(json: &serde_json::Value) -> NodeView {
        serde_json::from_str(&json.to_string()).unwrap()
    }

    fn mk_resources(list: serde_json::Value) -> Resources {
        serde_json::from_value(list).unwrap()
    }

    #[test]
    fn a_pod_is_read_with_what_decisions_need() {
        let pod = mk_pod(&json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "p", "namespace": "ns", "uid": "u", "labels": {"b": "2", "a": "1"},
                "deletionTimestamp": "2026-01-01T00:00:00Z",
                "managedFields": [{"fieldsV1": {"f:spec": {}}}],
                "ownerReferences": [
                    {"kind": "ConfigMap", "name": "other", "uid": "x"},
                    {"kind": "ReplicaSet", "name": "rs", "uid": "r", "controller": true, "blockOwnerDeletion": true}
                ]
            },
            "spec": {
                "nodeName": "n", "priority": 7, "tomorrow": {"a": [1]},
                "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1", "memory": "1Gi"}}}],
                "overhead": {"cpu": "100m"}
            },
            "status": {
                "phase": "Running",
                "containerStatuses": [{
                    "name": "c", "state": {"running": {}}, "resources": {"requests": {"cpu": "2"}},
                    "allocatedResources": {"cpu": "2"}
                }]
            }
        }));
        let expected = PodView {
            name: "p".into(),
            namespace: "ns".into(),
            uid: "u".into(),
            labels: [("a", "1"), ("b", "2")].into_iter().collect(),
            controller: Some(Owner {
                kind: "ReplicaSet".into(),
                name: "rs".into(),
                uid: "r".into(),
            }),
            deleting: true,
            node_name: Some("n".into()),
            priority: 7,
            request: mk_resources(json!({"cpu": "2100m", "memory": "1Gi", "pods": "1"})),
            phase: Phase::Running,
        };
        assert_eq!(pod, expected);
    }

    #[test]
    fn only_bound_pods_that_are_not_over_occupy_a_node() {
        for (node, phase, occupies) in [
            (json!("n"), "Pending", true),
            (json!("n"), "Running", true),
            (json!("n"), "Unknown", true),
            (json!("n"), "Tomorrow", true),
            (json!("n"), "Succeeded", false),
            (json!("n"), "Failed", false),
            (json!(""), "Pending", false),
            (json!(null), "Pending", false),
        ] {
            let pod = mk_pod(&json!({"spec": {"nodeName": node}, "status": {"phase": phase}}));
            assert_eq!(pod.occupies_node(), occupies, "{node} {phase}");
        }
        assert_eq!(
            mk_pod(&json!({})).phase,
            Phase::Pending,
            "a pod without a status is new"
        );
    }

    #[test]
    fn a_node_is_read_with_what_decisions_need() {
        let node = mk_node(&json!({
            "metadata": {
                "name": "n", "uid": "u", "labels": {"kubernetes.io/arch": "amd64", "kubernetes.io/os": "linux"},
                "annotations": {crate::names::NAMESPACE_PREFIX: "p", "other": "x"}
            },
            "spec": {"unschedulable": true, "taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]},
            "status": {
                "capacity": {"cpu": "4", "pods": "110"},
                "allocatable": {"cpu": "3900m", "pods": "110"},
                "conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": "True"}],
                "nodeInfo": {"architecture": "arm64", "kubeletVersion": "v1.36.3", "kernelVersion": "6"},
                "declaredFeatures": ["B", "A"],
                "images": [{"names": ["i"]}]
            }
        }));
        let expected = NodeView {
            name: "n".into(),
            uid: "u".into(),
            labels: [("kubernetes.io/arch", "amd64"), ("kubernetes.io/os", "linux")]
                .into_iter()
                .collect(),
            namespace_prefix: Some("p".into()),
            taints: serde_json::from_value(json!([{"key": "k", "value": "v", "effect": "NoSchedule"}]))
                .unwrap(),
            unschedulable: true,
            ready: true,
            capacity: mk_resources(json!({"cpu": "4000m", "pods": "110"})),
            allocatable: mk_resources(json!({"cpu": "3900m", "pods": "110"})),
            architecture: "arm64".into(),
            operating_system: "linux".into(),
            kubelet_version: "v1.36.3".into(),
            declared_features: ["B".into(), "A".into()].into(),
        };
        assert_eq!(node, expected);
    }

    #[test]
    fn a_node_is_ready_only_when_it_says_so() {
        for (status, ready) in [("True", true), ("False", false), ("Unknown", false)] {
            let node = mk_node(&json!({"status": {"conditions": [{"type": "Ready", "status": status}]}}));
            assert_eq!(node.ready, ready, "{status}");
        }
        assert!(!mk_node(&json!({"status": {"conditions": null}})).ready);
    }
}
