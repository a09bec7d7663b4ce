//! Avoidance in a pod's required node affinity: the pod stays away from a virtual node by its name, in every
//! term.
//!
//! Which nodes were added is noted in an annotation. So a pod that comes by again (a second admission round,
//! a copy of its manifest made weeks later) first loses what was added then, and the user's own conditions
//! are never taken for ours.

use serde_json::{Map, Value, json};
use tensile_core::affinity::NAME_FIELD;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const TERMS: &str = "nodeSelectorTerms";
const FIELDS: &str = "matchFields";

/// Takes out what [`add`] put in for these nodes.
pub(crate) fn remove(affinity: &mut Option<Value>, nodes: &[&str]) {
    let Some(terms) = terms_mut(affinity) else { return };
    let is_ours = |requirement: &Value| nodes.iter().any(|node| *requirement == keep_off(node));
    let mut emptied = false;
    for term in terms.iter_mut().filter_map(Value::as_object_mut) {
        let Some(Value::Array(fields)) = term.get_mut(FIELDS) else {
            continue;
        };
        fields.retain(|requirement| !is_ours(requirement));
        if fields.is_empty() {
            term.remove(FIELDS);
        }
        emptied |= is_empty(term);
    }
    // A term of ours alone stood for "anywhere else"; without it there is no condition left.
    if emptied {
        drop_required(affinity);
    }
}

/// Keeps the pod off these nodes.
pub(crate) fn add(affinity: &mut Option<Value>, nodes: &[&str]) {
    if nodes.is_empty() {
        return;
    }
    if required_mut(affinity).is_none() {
        let fields: Vec<Value> = nodes.iter().map(|node| keep_off(node)).collect();
        let affinity = affinity.get_or_insert_with(|| json!({}));
        affinity["nodeAffinity"][REQUIRED] = json!({TERMS: [{FIELDS: fields}]});
        return;
    }
    // No term matches nothing, and an empty one neither; both must go on doing so.
    let terms = terms_mut(affinity)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut);
    for term in terms.filter(|term| !is_empty(term)) {
        let fields = term.entry(FIELDS).or_insert_with(|| json!([]));
        if !fields.is_array() {
            *fields = json!([]);
        }
        for requirement in nodes.iter().map(|node| keep_off(node)) {
            if let Some(fields) = fields
                .as_array_mut()
                .filter(|fields| !fields.contains(&requirement))
            {
                fields.push(requirement);
            }
        }
    }
}

/// By the field and not by a label: it is the one thing that no one can have changed. The API allows one
/// value for each requirement on a field.
fn keep_off(node: &str) -> Value {
    json!({"key": NAME_FIELD, "operator": "NotIn", "values": [node]})
}

fn required_mut(affinity: &mut Option<Value>) -> Option<&mut Value> {
    affinity
        .as_mut()?
        .get_mut("nodeAffinity")?
        .get_mut(REQUIRED)
        .filter(|required| !required.is_null())
}

fn terms_mut(affinity: &mut Option<Value>) -> Option<&mut Vec<Value>> {
    required_mut(affinity)?.get_mut(TERMS)?.as_array_mut()
}

fn is_empty(term: &Map<String, Value>) -> bool {
    ["matchExpressions", FIELDS].iter().all(|list| {
        term.get(*list)
            .and_then(Value::as_array)
            .is_none_or(Vec::is_empty)
    })
}

/// Removes the required node affinity, and what is empty without it.
fn drop_required(affinity: &mut Option<Value>) {
    let Some(Value::Object(members)) = affinity else {
        return;
    };
    if let Some(Value::Object(node)) = members.get_mut("nodeAffinity") {
        node.remove(REQUIRED);
        if node.is_empty() {
            members.remove("nodeAffinity");
        }
    }
    if members.is_empty() {
        *affinity = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_affinity(terms: &[Value]) -> Value {
        json!({"nodeAffinity": {REQUIRED: {TERMS: terms}}})
    }

    #[test]
    fn keeps_off_in_every_term_and_can_be_taken_out_again() {
        let cluster = |id: &str| json!({"key": "clusterID", "operator": "In", "values": [id]});
        let a = json!({"matchExpressions": [cluster("a")]});
        let b = json!({"matchExpressions": [cluster("b")], FIELDS: [keep_off("own")]});
        let other = json!({"podAffinity": {}});
        for (before, after) in [
            (
                None,
                mk_affinity(&[json!({FIELDS: [keep_off("v"), keep_off("w")]})]),
            ),
            (
                Some(mk_affinity(&[a, b])),
                mk_affinity(&[
                    json!({"matchExpressions": [cluster("a")], FIELDS: [keep_off("v"), keep_off("w")]}),
                    json!({"matchExpressions": [cluster("b")], FIELDS: [keep_off("own"), keep_off("v"), keep_off("w")]}),
                ]),
            ),
            (Some(mk_affinity(&[json!({})])), mk_affinity(&[json!({})])),
            (Some(other), {
                let mut both = mk_affinity(&[json!({FIELDS: [keep_off("v"), keep_off("w")]})]);
                both["podAffinity"] = json!({});
                both
            }),
        ] {
            let mut affinity = before.clone();
            add(&mut affinity, &["v", "w"]);
            assert_eq!(affinity.as_ref(), Some(&after));
            add(&mut affinity, &["v", "w"]);
            assert_eq!(affinity.as_ref(), Some(&after), "twice is once");
            if after != mk_affinity(&[json!({})]) {
                remove(&mut affinity, &["v", "w"]);
                assert_eq!(affinity, before, "taken out");
            }
        }
    }

    #[test]
    fn what_matches_nothing_goes_on_matching_nothing() {
        for required in [
            json!({}),
            json!({TERMS: null}),
            json!({TERMS: []}),
            json!({TERMS: [{}]}),
        ] {
            let before = json!({"nodeAffinity": {REQUIRED: required}});
            let mut affinity = Some(before.clone());
            add(&mut affinity, &["v"]);
            assert_eq!(affinity, Some(before));
        }
    }

    #[test]
    fn what_others_wrote_is_not_taken_out() {
        let before = mk_affinity(&[json!({FIELDS: [keep_off("theirs")]})]);
        let mut affinity = Some(before.clone());
        remove(&mut affinity, &["ours"]);
        assert_eq!(affinity, Some(before));
    }
}
