//! An upper pod on a virtual node, as far as decisions look at it.

use std::collections::HashSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tensile_core::avoidance::lineage;
use tensile_core::names;
use tensile_core::owners::controller;
use tensile_core::resources::{Resources, pod_request};
use tensile_core::view::Phase;
use tensile_runtime::key::Key;

/// Annotation of sigs.k8s.io/descheduler: its user asks not to move the pod.
const PREFER_NO_EVICTION: &str = "descheduler.alpha.kubernetes.io/prefer-no-eviction";
/// Annotation that kubelets put on pods that do not come from the API (`kubelettypes.ConfigSourceAnnotationKey`).
const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// Annotation on the stand-ins of such pods in the API (`v1.MirrorPodAnnotationKey`).
const MIRROR: &str = "kubernetes.io/config.mirror";
/// Annotation by which users say which replicas to delete first (`core.PodDeletionCost`).
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";
/// Priority from which on pods are critical (`scheduling.SystemCriticalPriority`).
const CRITICAL: i64 = 2_000_000_000;
/// Members of a pod's spec that decide on its place.
const PLACING: [&str; 17] = [
    "affinity",
    "hostNetwork",
    "nodeSelector",
    "os",
    "overhead",
    "podGroup",
    "priority",
    "resourceClaims",
    "resources",
    "schedulerName",
    "schedulingGates",
    "schedulingGroup",
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
    "workloadRef",
    "priorityClassName",
];
/// Members of a container that decide on its pod's place.
const PLACING_OF_CONTAINER: [&str; 5] = ["name", "ports", "resizePolicy", "resources", "restartPolicy"];

/// An upper pod on a virtual node.
#[derive(Clone, Debug, PartialEq)]
pub struct Pod {
    /// Namespace and name.
    pub key: Key,
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// The virtual node that it is bound to.
    pub node: Arc<str>,
    /// UID of the owner that controls it and makes a new one when it goes; of a pod without one that was moved before,
    /// that of the first pod of its name.
    pub owner: Option<Box<str>>,
    /// When it was made, in seconds since the Unix epoch.
    pub created: u64,
    /// `spec.priority`.
    pub priority: i64,
    /// The effective request.
    pub request: Resources,
    /// What its user says that it costs to restart it: its `controller.kubernetes.io/pod-deletion-cost`, else 0.
    pub restart_cost: i64,
    /// `status.phase`.
    pub phase: Phase,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// What speaks against ever moving it, sorted.
    pub marks: Vec<Mark>,
    /// What decides on its place, as JSON; replicas share it.
    pub template: Arc<str>,
}

/// Something that speaks against moving a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Mark {
    /// It comes from a file of a kubelet, or stands for such a pod.
    Static,
    /// Its DaemonSet would put it back on the node.
    DaemonSet,
    /// Its user asks not to.
    PreferNoEviction,
    /// The cluster needs it (`system-cluster-critical` and above).
    Critical,
    /// It would lose what it has written to emptyDir or hostPath volumes.
    LocalStorage,
    /// It has a PersistentVolumeClaim, whose data may be in the lower cluster.
    Claim,
    /// Nobody makes it again.
    Bare,
}

/// Copies of templates, so that replicas share one.
#[derive(Debug, Default)]
pub struct Templates(HashSet<Arc<str>>);

// === impl Mark ===

impl Mark {
    /// Why the pod stays, for people.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Static => "static pods are not moved",
            Self::DaemonSet => "pods of DaemonSets are not moved",
            Self::PreferNoEviction => "its annotation prefer-no-eviction asks not to",
            Self::Critical => "critical pods are not moved unless the policy allows it",
            Self::LocalStorage => "pods with local storage are not moved unless the policy allows it",
            Self::Claim => "the policy protects pods with PersistentVolumeClaims",
            Self::Bare => "nobody makes it again, and the policy does not allow to move such pods",
        }
    }
}

// === impl Pod ===

impl Pod {
    /// Reads a pod as the API server gave it.
    #[must_use]
    pub fn read(pod: &Value, templates: &mut Templates) -> Self {
        let (metadata, spec) = (&pod["metadata"], &pod["spec"]);
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let created = metadata["creationTimestamp"]
            .as_str()
            .and_then(crate::clock::seconds);
        Self {
            key: Key::new(&text(&metadata["namespace"]), &text(&metadata["name"])),
            uid: text(&metadata["uid"]).into(),
            node: text(&spec["nodeName"]).into(),
            owner: lineage(metadata).map(Into::into),
            created: created.unwrap_or(u64::MAX),
            priority: spec["priority"].as_i64().unwrap_or_default(),
            request: pod_request(spec).unwrap_or_default(),
            restart_cost: restart_cost(metadata),
            phase: Phase::deserialize(&pod["status"]["phase"]).unwrap_or_default(),
            deleting: !metadata["deletionTimestamp"].is_null(),
            marks: marks(pod),
            template: templates.get(&template(pod)),
        }
    }

    /// The pod as the models judge it: with its name, without a node.
    #[must_use]
    pub fn unplaced(&self) -> Value {
        let mut pod: Value = serde_json::from_str(&self.template).unwrap_or_default();
        pod["metadata"]["namespace"] = json!(&*self.key.namespace);
        pod["metadata"]["name"] = json!(&*self.key.name);
        pod["metadata"]["uid"] = json!(&*self.uid);
        pod
    }

    /// Seconds since the pod was made; a pod from the future has no age.
    #[must_use]
    pub fn age(&self, now: u64) -> u64 {
        now.saturating_sub(self.created)
    }
}

// === impl Templates ===

impl Templates {
    fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return known.clone();
        }
        let shared: Arc<str> = text.into();
        self.0.insert(shared.clone());
        shared
    }

    /// Forgets those that no pod has any more.
    pub fn sweep(&mut self) {
        self.0.retain(|template| Arc::strong_count(template) > 1);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn restart_cost(metadata: &Value) -> i64 {
    let text = metadata["annotations"][DELETION_COST].as_str();
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn marks(pod: &Value) -> Vec<Mark> {
    let (metadata, spec) = (&pod["metadata"], &pod["spec"]);
    let annotated = |key: &str| metadata["annotations"].get(key).is_some();
    let owner = controller(metadata);
    let volumes = spec["volumes"].as_array().map(Vec::as_slice).unwrap_or_default();
    let has = |kinds: &[&str]| {
        let of_kind = |volume: &Value| kinds.iter().any(|kind| !volume[kind].is_null());
        volumes.iter().any(of_kind)
    };
    let owned_by = |kind: &str| owner.is_some_and(|owner| owner["kind"] == kind);
    let from_file = annotated(CONFIG_SOURCE) && metadata["annotations"][CONFIG_SOURCE] != "api";
    let priority = spec["priority"].as_i64().unwrap_or_default();
    let marks = [
        // A kubelet owns the stand-ins of its static pods.
        (Mark::Static, from_file || annotated(MIRROR) || owned_by("Node")),
        (Mark::DaemonSet, owned_by("DaemonSet")),
        (Mark::PreferNoEviction, annotated(PREFER_NO_EVICTION)),
        (Mark::Critical, priority >= CRITICAL),
        (Mark::LocalStorage, has(&["emptyDir", "hostPath"])),
        (Mark::Claim, has(&["persistentVolumeClaim", "ephemeral"])),
        (Mark::Bare, owner.is_none()),
    ];
    marks
        .into_iter()
        .filter(|(_, applies)| *applies)
        .map(|(mark, _)| mark)
        .collect()
}

fn template(pod: &Value) -> String {
    let spec = &pod["spec"];
    let mut placing = pick(spec, &PLACING);
    for list in ["containers", "initContainers"] {
        if let Some(containers) = spec[list].as_array() {
            let slim = containers
                .iter()
                .map(|container| Value::Object(pick(container, &PLACING_OF_CONTAINER)));
            placing.insert(list.to_owned(), slim.collect());
        }
    }
    let annotations = pick(
        &pod["metadata"]["annotations"],
        &[names::CLUSTER_SELECTOR, names::AVOIDED_NODES, names::SPLIT],
    );
    let metadata = json!({"labels": pod["metadata"]["labels"], "annotations": annotations});
    json!({"metadata": metadata, "spec": placing}).to_string()
}

/// These members of an object, where they are there.
fn pick(object: &Value, members: &[&str]) -> Map<String, Value> {
    let present = members.iter().filter_map(|member| {
        let value = object.get(*member).filter(|value| !value.is_null())?;
        Some(((*member).to_owned(), value.clone()))
    });
    present.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::mk_replica;

    fn read(pod: &Value) -> Pod {
        Pod::read(pod, &mut Templates::default())
    }

    #[test]
    fn what_speaks_against_moving_is_found() {
        let owner = |kind: &str| json!([{"kind": kind, "uid": "o", "controller": true}]);
        let volume = |kind: &str| json!([{"name": "v", kind: {}}]);
        for (pointer, value, marks) in [
            ("/metadata/ownerReferences", owner("ReplicaSet"), vec![]),
            ("/metadata/ownerReferences", json!([]), vec![Mark::Bare]),
            (
                "/metadata/ownerReferences",
                json!([{"kind": "ReplicaSet", "uid": "o"}]),
                vec![Mark::Bare],
            ),
            (
                "/metadata/ownerReferences",
                owner("DaemonSet"),
                vec![Mark::DaemonSet],
            ),
            ("/metadata/ownerReferences", owner("Node"), vec![Mark::Static]),
            ("/metadata/annotations", json!({MIRROR: "x"}), vec![Mark::Static]),
            (
                "/metadata/annotations",
                json!({CONFIG_SOURCE: "file"}),
                vec![Mark::Static],
            ),
            ("/metadata/annotations", json!({CONFIG_SOURCE: "api"}), vec![]),
            (
                "/metadata/annotations",
                json!({PREFER_NO_EVICTION: ""}),
                vec![Mark::PreferNoEviction],
            ),
            ("/spec/priority", json!(2_000_000_000), vec![Mark::Critical]),
            ("/spec/priority", json!(1_999_999_999), vec![]),
            ("/spec/volumes", volume("emptyDir"), vec![Mark::LocalStorage]),
            ("/spec/volumes", volume("hostPath"), vec![Mark::LocalStorage]),
            (
                "/spec/volumes",
                volume("persistentVolumeClaim"),
                vec![Mark::Claim],
            ),
            ("/spec/volumes", volume("configMap"), vec![]),
        ] {
            let mut pod = mk_replica("p", "1", "va");
            let (parent, member) = pointer.rsplit_once('/').unwrap();
            pod.pointer_mut(parent).unwrap()[member] = value.clone();
            assert_eq!(read(&pod).marks, marks, "{pointer} {value}");
        }
    }

    #[test]
    fn a_pod_from_the_future_or_without_a_time_has_no_age() {
        let mut pod = mk_replica("p", "1", "va");
        assert_eq!(read(&pod).age(crate::testing::CREATED + 7), 7);
        assert_eq!(read(&pod).age(crate::testing::CREATED - 7), 0);
        pod["metadata"]["creationTimestamp"] = json!(null);
        assert_eq!(read(&pod).age(u64::MAX), 0);
    }

    #[test]
    fn what_it_takes_and_costs_is_read() {
        let mut pod = mk_replica("p", "2", "va");
        assert_eq!((read(&pod).request.milli_cpu, read(&pod).restart_cost), (2000, 0));
        for (text, cost) in [("-7", -7), ("12", 12), ("much", 0)] {
            pod["metadata"]["annotations"] = json!({DELETION_COST: text});
            assert_eq!(read(&pod).restart_cost, cost, "{text}");
        }
    }

    #[test]
    fn replicas_share_what_decides_on_their_place() {
        let mut templates = Templates::default();
        let one = Pod::read(&mk_replica("p", "1", "va"), &mut templates);
        let mut other = mk_replica("q", "1", "vb");
        other["spec"]["containers"][0]["env"] = json!([{"name": "A", "value": "b"}]);
        let other = Pod::read(&other, &mut templates);
        assert!(Arc::ptr_eq(&one.template, &other.template));
        let larger = Pod::read(&mk_replica("r", "2", "va"), &mut templates);
        assert!(!Arc::ptr_eq(&one.template, &larger.template));
        assert_eq!(templates.len(), 2);
        drop(larger);
        templates.sweep();
        assert_eq!(templates.len(), 1);
        assert!(!templates.is_empty());
    }

    #[test]
    fn what_is_judged_has_the_pods_name_and_no_node() {
        let pod = read(&mk_replica("p", "1", "va")).unplaced();
        assert_eq!(pod["metadata"]["name"], "p");
        assert_eq!(pod["metadata"]["uid"], "p");
        assert_eq!(pod["spec"]["containers"][0]["resources"]["requests"]["cpu"], "1");
        assert!(pod["spec"]["nodeName"].is_null());
    }
}
