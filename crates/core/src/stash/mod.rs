//! The stash: scheduling constraints on their way to the lower cluster, in the annotation `clusterSelector`.
//!
//! The webhook [`split`]s what a user wrote between the upper pod, where it can be decided between virtual
//! nodes, and the stash. Virtual node and extender turn the stash back into the constraints of the lower pod
//! with [`lower_constraints`]. Together the two lose nothing: for every virtual node V and lower node L, what
//! stays above holds on V and what comes out below holds on L exactly when the original holds on L, with
//! the *ignored keys* (labels that only virtual nodes have, as `clusterID`) read from V.
//!
//! The annotation is tensile-kube's: a JSON object whose members may all be missing, whose keys are read in
//! any case, and which may be `null`. An empty annotation is no stash.

mod check;
mod keys;
mod label_keys;
mod lower;
mod split;
mod terms;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Map, Value};

pub use self::{
    lower::lower_constraints,
    split::{Split, SplitError, split},
};
use crate::affinity::AffinityError;
use crate::read::{Under, object, present};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
pub(crate) const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
/// Room for an annotation of usual length, in bytes: it then does not grow while it is written.
const USUAL_LENGTH: usize = 1 << 10;
/// The members of an affinity that speak about other pods, each with both fields.
const AMONG_PODS: [&str; 2] = ["podAffinity", "podAntiAffinity"];

/// The four scheduling members of a pod's spec; `None` leaves the member out.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Constraints {
    /// `spec.nodeSelector`.
    pub node_selector: Option<Value>,
    /// `spec.affinity`.
    pub affinity: Option<Value>,
    /// `spec.tolerations`.
    pub tolerations: Option<Value>,
    /// `spec.topologySpreadConstraints`.
    pub topology_spread_constraints: Option<Value>,
}

/// What the annotation holds. Empty members are left out of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stash {
    /// `nodeSelector`: labels of the lower node.
    pub node_selector: Map<String, Value>,
    /// `affinity`: node affinity, and the pod (anti-)affinity that acts below only.
    pub affinity: Map<String, Value>,
    /// `tolerations`: for the taints of lower nodes.
    pub tolerations: Vec<Value>,
    /// `topologySpreadConstraints`: those that act below only.
    pub topology_spread_constraints: Vec<Value>,
    /// Members that this version does not know; they survive.
    unknown: Map<String, Value>,
}

/// Why a stash cannot be read, or a pod with one cannot be translated.
#[derive(Debug, thiserror::Error)]
pub enum StashError {
    /// The annotation is not the JSON that it should be.
    #[error("annotation clusterSelector, at {path}: {problem}")]
    Malformed {
        /// Where in the annotation.
        path: String,
        /// What is wrong there.
        problem: String,
    },
    /// The upper pod has a scheduling constraint that cannot be read.
    #[error("pod, at spec.{0}")]
    Pod(#[source] AffinityError),
}

// === impl Constraints ===

impl Constraints {
    /// The scheduling members of a pod spec. A member that is `null` is missing.
    #[must_use]
    pub fn of_spec(spec: &Value) -> Self {
        let member = |name: &str| spec.get(name).filter(|value| !value.is_null()).cloned();
        Self {
            node_selector: member("nodeSelector"),
            affinity: member("affinity"),
            tolerations: member("tolerations"),
            topology_spread_constraints: member("topologySpreadConstraints"),
        }
    }
}

// === impl Stash ===

impl Stash {
    /// Reads the annotation; `None` if it is empty, which is as if it were missing.
    ///
    /// # Errors
    /// When it is not JSON, or a member that Tensile knows is not what its name says.
    pub fn decode(annotation: &str) -> Result<Option<Self>, StashError> {
        if annotation.is_empty() {
            return Ok(None);
        }
        let mut value: Value = serde_json::from_str(annotation).map_err(|error| {
            let path = format!("line {} column {}", error.line(), error.column());
            StashError::Malformed {
                path,
                problem: error.to_string(),
            }
        })?;
        if value.is_null() {
            return Ok(Some(Self::default()));
        }
        keys::canonicalise(&mut value);
        object(&value)
            .under("the top")
            .map_err(StashError::from_annotation)?;
        Constraints::of_spec(&value)
            .check()
            .map_err(StashError::from_annotation)?;
        let mut members = into_object(value);
        let mut take = |name: &str| members.remove(name).unwrap_or_default();
        Ok(Some(Self {
            node_selector: into_object(take("nodeSelector")),
            affinity: into_object(take("affinity")),
            tolerations: into_list(take("tolerations")),
            topology_spread_constraints: into_list(take("topologySpreadConstraints")),
            unknown: members,
        }))
    }

    /// The annotation's text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut text = Vec::with_capacity(USUAL_LENGTH);
        // Serialising JSON values into memory cannot fail, and gives UTF-8.
        let _written = serde_json::to_writer(&mut text, self);
        String::from_utf8(text).unwrap_or_default()
    }
}

impl Serialize for Stash {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        if !self.affinity.is_empty() {
            map.serialize_entry("affinity", &self.affinity)?;
        }
        if !self.node_selector.is_empty() {
            map.serialize_entry("nodeSelector", &self.node_selector)?;
        }
        if !self.tolerations.is_empty() {
            map.serialize_entry("tolerations", &self.tolerations)?;
        }
        if !self.topology_spread_constraints.is_empty() {
            map.serialize_entry("topologySpreadConstraints", &self.topology_spread_constraints)?;
        }
        for (name, value) in &self.unknown {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

// === impl StashError ===

impl StashError {
    fn from_annotation(error: AffinityError) -> Self {
        Self::Malformed {
            path: error.path,
            problem: error.problem,
        }
    }
}

/// The terms of an affinity's required node affinity; `None` is no condition, an empty list matches nothing.
fn required_terms(affinity: &Map<String, Value>) -> Option<&[Value]> {
    let required = present(present(affinity.get("nodeAffinity"))?.get(REQUIRED))?;
    Some(
        required
            .get("nodeSelectorTerms")
            .and_then(Value::as_array)
            .map_or(&[], Vec::as_slice),
    )
}

/// Takes the terms out of an affinity's required node affinity; an empty member is left of it.
fn take_required_terms(affinity: &mut Map<String, Value>) -> Vec<Value> {
    let node = affinity.get_mut("nodeAffinity");
    let required = node.and_then(|node| node.get_mut(REQUIRED));
    let terms = required.and_then(|required| required.get_mut("nodeSelectorTerms"));
    into_list(terms.map(Value::take).unwrap_or_default())
}

/// Puts the terms of an affinity's required node affinity; other members of it survive.
fn put_required_terms(affinity: &mut Map<String, Value>, terms: Option<Vec<Value>>) {
    let required = terms.map(|terms| {
        let node = affinity.get_mut("nodeAffinity");
        let old = node.and_then(|node| node.get_mut(REQUIRED));
        let mut required = into_object(old.map(Value::take).unwrap_or_default());
        required.insert("nodeSelectorTerms".to_owned(), terms.into());
        required.into()
    });
    put(affinity, "nodeAffinity", REQUIRED, required);
}

/// The list at `kind.field` of an affinity (`podAntiAffinity`, required or preferred).
fn list_at<'a>(affinity: &'a Map<String, Value>, kind: &str, field: &str) -> &'a [Value] {
    let list = affinity.get(kind).and_then(|kind| kind.get(field)?.as_array());
    list.map_or(&[], Vec::as_slice)
}

/// Takes the list at `kind.field` out of an affinity; an empty one is left, which [`put_list`] then replaces.
fn take_list(affinity: &mut Map<String, Value>, kind: &str, field: &str) -> Vec<Value> {
    let list = affinity.get_mut(kind).and_then(|kind| kind.get_mut(field));
    into_list(list.map(Value::take).unwrap_or_default())
}

/// Puts `list` at `kind.field` of an affinity; an empty list removes the field, and `kind` with its last field.
fn put_list(affinity: &mut Map<String, Value>, kind: &str, field: &str, list: Vec<Value>) {
    put(affinity, kind, field, (!list.is_empty()).then(|| list.into()));
}

/// Puts `value` at `kind.field` of an affinity; `None` removes the field, and `kind` with its last field.
fn put(affinity: &mut Map<String, Value>, kind: &str, field: &str, value: Option<Value>) {
    if !affinity.get(kind).is_some_and(Value::is_object) {
        if value.is_none() {
            affinity.remove(kind);
            return;
        }
        affinity.insert(kind.to_owned(), Map::new().into());
    }
    let Some(fields) = affinity.get_mut(kind).and_then(Value::as_object_mut) else {
        return;
    };
    match (value, fields.get_mut(field)) {
        (Some(value), Some(old)) => *old = value,
        (Some(value), None) => drop(fields.insert(field.to_owned(), value)),
        (None, _) => drop(fields.remove(field)),
    }
    if fields.is_empty() {
        affinity.remove(kind);
    }
}

/// The topology key of a spread constraint, of a pod affinity term, or of the term that a preference wraps.
fn topology_key(constraint: &Value) -> Option<&str> {
    let term = constraint.get("podAffinityTerm").unwrap_or(constraint);
    term.get("topologyKey")?.as_str()
}

/// Whether the constraint's domains are told apart by the virtual nodes alone: no lower node has the label.
fn is_among_virtual_nodes(constraint: &Value, ignored: &BTreeSet<String>) -> bool {
    topology_key(constraint).is_some_and(|key| ignored.contains(key))
}

fn into_object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

fn into_list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(list) => list,
        _ => Vec::new(),
    }
}
