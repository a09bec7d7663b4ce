//! Node selector terms and the ignored keys: what a term says about virtual nodes, and what is left of it
//! once a virtual node is chosen.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::affinity::{AffinityError, Requirement};
use crate::labels::LabelLookup;

/// Which of a term's requirements name ignored keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    /// None of them; the term is about lower nodes.
    Below,
    /// Some of them.
    Mixed,
    /// All of them, or the term has none: it can be decided on the virtual node alone.
    Above,
}

/// What is left of a term on a given virtual node.
#[derive(Debug, PartialEq)]
pub(super) enum Resolved {
    /// Every lower node satisfies it.
    Always,
    /// No lower node can.
    Never,
    /// The lower node must satisfy the rest.
    Rest(Value),
}

/// Who owns the requirements of a term.
pub(super) fn share(term: &Value, ignored: &BTreeSet<String>) -> Share {
    let ignored_count = expressions(term)
        .iter()
        .filter(|requirement| is_ignored(requirement, ignored))
        .count();
    match requirements(term) - ignored_count {
        0 => Share::Above,
        _ if ignored_count == 0 => Share::Below,
        _ => Share::Mixed,
    }
}

/// Whether the term has no requirement, so that it matches nothing.
pub(super) fn is_empty(term: &Value) -> bool {
    requirements(term) == 0
}

/// The term's requirements on ignored keys: what it says about the virtual node.
pub(super) fn above(term: &Value, ignored: &BTreeSet<String>) -> Value {
    let kept = expressions(term)
        .iter()
        .filter(|requirement| is_ignored(requirement, ignored))
        .cloned()
        .collect();
    Value::Object(Map::from_iter([(
        "matchExpressions".to_owned(),
        Value::Array(kept),
    )]))
}

/// The weakest condition on the virtual node that a list of ORed terms implies; `None` if it implies none.
/// Terms that match nothing say nothing, unless there is no other.
pub(super) fn necessary(terms: &[Value], ignored: &BTreeSet<String>) -> Option<Vec<Value>> {
    let mut conditions = Vec::with_capacity(terms.len());
    for term in terms.iter().filter(|term| !is_empty(term)) {
        let condition = above(term, ignored);
        if is_empty(&condition) {
            return None;
        }
        if !conditions.contains(&condition) {
            conditions.push(condition);
        }
    }
    Some(conditions)
}

/// Decides the term's requirements on ignored keys with the virtual node's labels.
pub(super) fn resolve(
    term: &Value,
    labels: &impl LabelLookup,
    ignored: &BTreeSet<String>,
) -> Result<Resolved, AffinityError> {
    if is_empty(term) {
        return Ok(Resolved::Never);
    }
    let mut rest = Vec::new();
    for (index, requirement) in expressions(term).iter().enumerate() {
        if !is_ignored(requirement, ignored) {
            rest.push(requirement.clone());
            continue;
        }
        let requirement = Requirement::read(requirement)
            .map_err(|error| error.under(&format!("matchExpressions[{index}]")))?;
        if !requirement.holds(labels.label(requirement.key())) {
            return Ok(Resolved::Never);
        }
    }
    let mut term = term.as_object().cloned().unwrap_or_default();
    if rest.is_empty() {
        term.remove("matchExpressions");
    } else {
        term.insert("matchExpressions".to_owned(), rest.into());
    }
    let term = Value::Object(term);
    Ok(if is_empty(&term) {
        Resolved::Always
    } else {
        Resolved::Rest(term)
    })
}

/// All requirements of both terms in one: it holds where both hold.
pub(super) fn both(left: &Value, right: &Value) -> Value {
    let mut term = left.as_object().cloned().unwrap_or_default();
    for field in ["matchExpressions", "matchFields"] {
        let mut requirements = list(left, field).to_vec();
        requirements.extend(
            list(right, field)
                .iter()
                .filter(|one| !list(left, field).contains(one))
                .cloned(),
        );
        if !requirements.is_empty() {
            term.insert(field.to_owned(), requirements.into());
        }
    }
    Value::Object(term)
}

fn requirements(term: &Value) -> usize {
    expressions(term).len() + list(term, "matchFields").len()
}

fn expressions(term: &Value) -> &[Value] {
    list(term, "matchExpressions")
}

fn list<'a>(term: &'a Value, field: &str) -> &'a [Value] {
    term.get(field)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

fn is_ignored(requirement: &Value, ignored: &BTreeSet<String>) -> bool {
    requirement
        .get("key")
        .and_then(Value::as_str)
        .is_some_and(|key| ignored.contains(key))
}
