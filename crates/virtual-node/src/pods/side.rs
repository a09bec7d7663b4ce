//! The two sides of a pod, in the few bytes that decisions need.

use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use tensile_core::names;
use tensile_core::refs::{self, Reference};
use tensile_core::status::{self, Fingerprint, Gate, Restarts, Sent};
use tensile_runtime::object::{Pods, Slim};

use super::Body;

/// An upper pod as its watch delivers it.
pub type UpperPod = Slim<Pods>;
/// A lower pod as its watch delivers it: of the spec only the node is of interest.
pub type LowerPod = Slim<Pods, Place>;

/// Where a lower pod runs.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Place {
    /// `spec.nodeName`.
    #[serde(default)]
    node_name: Option<Box<str>>,
}

/// Value of [`names::SERVICE_ACCOUNT`] on lower pods that read tokens of the upper cluster.
pub(super) const UPPER_ACCOUNT: &str = "upper";

/// What is known of an upper pod.
#[derive(Clone, Debug)]
pub struct UpperSide {
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// `metadata.resourceVersion`, as a number; 0 when it is none.
    pub version: u64,
    /// `metadata.generation`.
    pub generation: i64,
    /// `status.phase`.
    pub phase: Box<str>,
    /// Set once deletion was asked for.
    pub deletion: Option<Deletion>,
    /// Whether finalizers hold it.
    pub held: bool,
    /// Whether we have deleted it for good.
    pub deleted: bool,
    /// Why the pod is not run below, if it is not.
    pub not_offloaded: Option<&'static str>,
    /// Whether its status shows that a kubelet has had it.
    pub was_placed: bool,
    /// Its readiness gates.
    pub gates: Box<[Gate]>,
    /// The objects it needs.
    pub references: Arc<[Reference]>,
    /// Hash of the body that was seen last.
    pub body_hash: u64,
    /// The body, until the lower pod carries it out.
    pub body: Option<Arc<Body>>,
    /// Its status as last seen, or as the server returned it for our last patch.
    pub shown: Fingerprint,
    /// What we sent last.
    pub sent: Option<Sent>,
    /// When that was.
    pub sent_at: Option<Timestamp>,
}

/// That, and how, a pod is being deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deletion {
    /// Grace period in seconds.
    pub grace: i64,
}

/// What is known of a lower pod of ours.
#[derive(Clone, Debug)]
pub struct LowerSide {
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// UID of the upper pod it was made for.
    pub origin_uid: Box<str>,
    /// Intent that it carries out.
    pub intent: Box<str>,
    /// Grace period in seconds, once deletion was asked for.
    pub deletion: Option<Deletion>,
    /// When it must have ended (`metadata.deletionTimestamp`), once the watch has shown that deletion was asked for.
    pub ends_at: Option<Timestamp>,
    /// The lower node that it is bound to.
    pub node: Option<Box<str>>,
    /// Whether it reads a Secret with tokens of the upper cluster.
    pub reads_token: bool,
    /// Restarts that earlier lower pods of the same upper pod had.
    pub restarts: Restarts,
    /// Its status as it came; `None` until the watch has shown it.
    pub status: Option<Box<RawValue>>,
}

// === impl UpperSide ===

impl UpperSide {
    /// Reads an upper pod. What was read of the same body before is taken from `before`: most changes of a pod are
    /// changes of its status.
    #[must_use]
    pub fn new(pod: UpperPod, before: Option<&Self>) -> Self {
        let status = value(pod.status.as_deref());
        let not_offloaded = not_offloaded(&pod);
        let held = pod
            .metadata
            .finalizers
            .as_ref()
            .is_some_and(|all| !all.is_empty());
        let (version, deletion) = (
            version(pod.metadata.resource_version.as_deref()),
            deletion(&pod.metadata),
        );
        let (uid, generation) = (
            pod.metadata.uid.clone().unwrap_or_default(),
            pod.metadata.generation,
        );
        let body = pod.spec.map(|spec| Body::new(pod.metadata, spec));
        let body_hash = body.as_ref().map_or(0, Body::hash);
        let known = before.filter(|before| *before.uid == *uid && before.body_hash == body_hash);
        // The API server counts a deletion as a generation. The lower pod carries out what it did before, so that
        // there is nothing to say about it.
        let generation = match known {
            Some(known) if deletion.is_some() => known.generation,
            _ => generation.unwrap_or_default(),
        };
        let (gates, references, body) = match known {
            Some(known) if known.gates.is_empty() => {
                (Box::default(), known.references.clone(), known.body.clone())
            }
            _ => {
                let spec = body.as_ref().map(Body::spec).unwrap_or_default();
                let references = refs::references(&spec).into();
                let gates = status::gates(&json!({"spec": spec, "status": status})).into_boxed_slice();
                let body = known.map_or_else(|| body.map(Arc::new), |known| known.body.clone());
                (gates, references, body)
            }
        };
        Self {
            uid: uid.into(),
            version,
            generation,
            phase: status["phase"].as_str().unwrap_or("Pending").into(),
            deletion,
            held,
            deleted: false,
            not_offloaded,
            was_placed: status["startTime"].is_string(),
            gates,
            references,
            body_hash,
            body,
            shown: Fingerprint::of(&status),
            sent: None,
            sent_at: None,
        }
    }

    /// Whether the pod has ended.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        status::is_terminal(&self.phase)
    }
}

// === impl LowerSide ===

impl LowerSide {
    /// Reads a lower pod of ours.
    #[must_use]
    pub fn new(pod: LowerPod) -> Self {
        let label = |key: &str| pod.metadata.labels.as_ref().and_then(|labels| labels.get(key));
        let annotation = |key: &str| pod.metadata.annotations.as_ref().and_then(|all| all.get(key));
        Self {
            uid: pod.metadata.uid.as_deref().unwrap_or_default().into(),
            origin_uid: label(names::ORIGIN_UID)
                .map(String::as_str)
                .unwrap_or_default()
                .into(),
            intent: annotation(names::INTENT)
                .map(String::as_str)
                .unwrap_or_default()
                .into(),
            deletion: deletion(&pod.metadata),
            ends_at: pod.metadata.deletion_timestamp.as_ref().map(|time| time.0),
            node: pod.spec.and_then(|place| place.node_name),
            reads_token: annotation(names::SERVICE_ACCOUNT).is_some_and(|value| value == UPPER_ACCOUNT),
            restarts: annotation(names::RESTARTS)
                .map_or_else(Restarts::default, |text| Restarts::parse(text)),
            status: pod.status,
        }
    }

    /// The status as JSON, null while it is unknown.
    #[must_use]
    pub fn status(&self) -> Value {
        value(self.status.as_deref())
    }
}

fn value(raw: Option<&RawValue>) -> Value {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok())
        .unwrap_or(Value::Null)
}

fn deletion(metadata: &k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Option<Deletion> {
    metadata.deletion_timestamp.as_ref()?;
    Some(Deletion {
        grace: metadata.deletion_grace_period_seconds.unwrap_or_default(),
    })
}

/// A resourceVersion as a number, 0 if it is none. Since 1.35 the API promises that they can be compared; etcd's always could.
pub(crate) fn version(text: Option<&str>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

/// Pods of DaemonSets and of kube-system serve the machine they are bound to; a virtual node is none.
fn not_offloaded(pod: &UpperPod) -> Option<&'static str> {
    let owners = pod.metadata.owner_references.as_deref().unwrap_or_default();
    if owners
        .iter()
        .any(|owner| owner.kind == "DaemonSet" && owner.controller == Some(true))
    {
        return Some("DaemonSet pods");
    }
    (pod.metadata.namespace.as_deref() == Some(names::KUBE_SYSTEM)).then_some("pods of namespace kube-system")
}
