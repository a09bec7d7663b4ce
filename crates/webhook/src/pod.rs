//! The pod of a review, read as far as decisions need. Each part is read by itself, so that what cannot be
//! understood can be named.

use std::borrow::{Borrow, Cow};
use std::collections::BTreeMap;

use json_patch::jsonptr::Pointer;
use serde::Deserialize;
use serde::de::Error;
use serde_json::Value;
use serde_json::value::RawValue;
use tensile_core::names;
use tensile_core::stash::Constraints;

use crate::loose::Loose;

/// The parts of a pod that the webhook looks at. Keys and values are as they arrived.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pod<'a> {
    /// `metadata.labels`; `None` if the pod has no such member.
    pub labels: Option<Texts<'a>>,
    /// `metadata.annotations`; `None` if the pod has no such member.
    pub annotations: Option<Texts<'a>>,
    /// `metadata.ownerReferences`.
    pub owners: Vec<Owner<'a>>,
    /// The scheduling members of `spec`.
    pub constraints: Constraints,
    /// `spec.schedulerName`.
    pub scheduler_name: Option<String>,
}

/// Labels or annotations.
pub type Texts<'a> = BTreeMap<Text<'a>, Text<'a>>;

/// A string of the review, borrowed from it unless something in it is escaped.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// An owner of the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Owner<'a> {
    #[serde(borrow)]
    api_version: Cow<'a, str>,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    /// UID of the owner.
    #[serde(borrow)]
    pub uid: Cow<'a, str>,
    controller: Option<bool>,
}

/// A part of the pod that cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("{field}: {source}")]
pub struct PodError {
    /// Path of the part.
    pub field: &'static str,
    /// What is wrong with it.
    #[source]
    pub source: serde_json::Error,
}

/// A pod whose parts are found but not read.
#[derive(Debug, Deserialize)]
pub struct Object<'a> {
    #[serde(borrow, default)]
    metadata: Option<Loose<Metadata<'a>>>,
    #[serde(borrow, default)]
    spec: Option<Loose<Spec<'a>>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow, default)]
    labels: Option<&'a RawValue>,
    #[serde(borrow, default)]
    annotations: Option<&'a RawValue>,
    #[serde(borrow, default)]
    owner_references: Option<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec<'a> {
    #[serde(borrow, default)]
    node_selector: Option<&'a RawValue>,
    #[serde(borrow, default)]
    affinity: Option<&'a RawValue>,
    #[serde(borrow, default)]
    tolerations: Option<&'a RawValue>,
    #[serde(borrow, default)]
    topology_spread_constraints: Option<&'a RawValue>,
    #[serde(borrow, default)]
    scheduler_name: Option<&'a RawValue>,
}

// === impl Pod ===

impl<'a> Pod<'a> {
    /// Reads a pod.
    ///
    /// # Errors
    /// When a part that decisions need has another type than it should.
    pub fn parse(object: &Loose<Object<'a>>) -> Result<Self, PodError> {
        let [
            owners,
            labels,
            annotations,
            node_selector,
            affinity,
            tolerations,
            spread,
            scheduler_name,
        ] = object.parts()?;
        Ok(Self {
            labels: part("metadata.labels", labels)?,
            annotations: part("metadata.annotations", annotations)?,
            owners: part("metadata.ownerReferences", owners)?.unwrap_or_default(),
            constraints: Constraints {
                node_selector: part("spec.nodeSelector", node_selector)?,
                affinity: part("spec.affinity", affinity)?,
                tolerations: part("spec.tolerations", tolerations)?,
                topology_spread_constraints: part("spec.topologySpreadConstraints", spread)?,
            },
            scheduler_name: part("spec.schedulerName", scheduler_name)?,
        })
    }

    /// The value of a label.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels.as_ref()?.get(key).map(Text::as_str)
    }

    /// The value of an annotation; an empty one is as good as none.
    #[must_use]
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations
            .as_ref()?
            .get(key)
            .map(Text::as_str)
            .filter(|value| !value.is_empty())
    }

    /// The owner that replaces the pod when it is gone.
    #[must_use]
    pub fn controller(&self) -> Option<&Owner<'a>> {
        self.owners.iter().find(|owner| owner.controls())
    }

    /// What the pod has in common with those that it replaces: the UID of its owner, or that of the first pod that the
    /// descheduler moved.
    #[must_use]
    pub fn lineage(&self) -> Option<&str> {
        let owner = self.controller().map(|owner| &*owner.uid);
        owner.or_else(|| self.annotation(names::MOVED_FROM))
    }

    /// Whether a DaemonSet made it: such a pod belongs to one node.
    #[must_use]
    pub fn is_of_daemon_set(&self) -> bool {
        self.owners
            .iter()
            .any(|owner| owner.kind == "DaemonSet" && owner.api_version.starts_with("apps/"))
    }
}

/// [`Pod::lineage`] of the pod with these [`parts`](Loose::parts), where they can be read.
pub(crate) fn lineage(parts: &[Option<&RawValue>; 8]) -> Option<String> {
    let [owners, _, annotations, ..] = parts;
    let pod = Pod {
        owners: part("metadata.ownerReferences", *owners)
            .ok()?
            .unwrap_or_default(),
        annotations: part("metadata.annotations", *annotations).ok()?,
        ..Pod::default()
    };
    pod.lineage().map(str::to_owned)
}

/// Reads a part that may be missing.
fn part<'a, T: Deserialize<'a>>(
    field: &'static str,
    raw: Option<&'a RawValue>,
) -> Result<Option<T>, PodError> {
    let read =
        |raw: &'a RawValue| serde_json::from_str(raw.get()).map_err(|source| PodError { field, source });
    raw.map(read).transpose()
}

/// A part that must be there and be an object.
fn there<'a, T>(field: &'static str, part: Option<&'a Loose<T>>) -> Result<&'a T, PodError> {
    let wrong = |problem: &str| PodError {
        field,
        source: serde_json::Error::custom(problem),
    };
    match part {
        Some(Loose::Is(part)) => Ok(part),
        Some(Loose::IsNot) => Err(wrong("must be an object")),
        None => Err(wrong("is missing")),
    }
}

// === impl Text ===

impl Text<'_> {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Text<'_> {
    fn borrow(&self) -> &str {
        &self.0
    }
}

// === impl Owner ===

impl Owner<'_> {
    fn controls(&self) -> bool {
        self.controller == Some(true)
    }
}

// === impl Object ===

impl<'a> Loose<Object<'a>> {
    /// The parts that a [`Pod`] is read from, as they arrived, `metadata.ownerReferences` first. Nothing else of
    /// a pod may be read: decisions are remembered by these.
    pub(crate) fn parts(&self) -> Result<[Option<&'a RawValue>; 8], PodError> {
        let object = there("object", Some(self))?;
        let metadata = there("metadata", object.metadata.as_ref())?;
        let spec = there("spec", object.spec.as_ref())?;
        Ok([
            metadata.owner_references,
            metadata.labels,
            metadata.annotations,
            spec.node_selector,
            spec.affinity,
            spec.tolerations,
            spec.topology_spread_constraints,
            spec.scheduler_name,
        ])
    }
}

/// Where a member of `spec` is, what it was before and what it is after.
pub(crate) type Change<'a> = (&'static Pointer, Option<&'a Value>, Option<&'a Value>);

/// The scheduling members side by side.
pub(crate) fn changes<'a>(before: &'a Constraints, after: &'a Constraints) -> [Change<'a>; 4] {
    [
        (
            Pointer::from_static("/spec/nodeSelector"),
            before.node_selector.as_ref(),
            after.node_selector.as_ref(),
        ),
        (
            Pointer::from_static("/spec/affinity"),
            before.affinity.as_ref(),
            after.affinity.as_ref(),
        ),
        (
            Pointer::from_static("/spec/tolerations"),
            before.tolerations.as_ref(),
            after.tolerations.as_ref(),
        ),
        (
            Pointer::from_static("/spec/topologySpreadConstraints"),
            before.topology_spread_constraints.as_ref(),
            after.topology_spread_constraints.as_ref(),
        ),
    ]
}
