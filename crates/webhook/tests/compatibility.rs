//! tensile-kube's annotation: its rules as reference/tensile-kube.md tables them ("Webhook", step 3), and
//! where ours must be the same.

mod support;

use serde_json::{Map, Value, json};
use support::random::Random;
use support::{Known, admit, mk_pod, mk_rules, stash_of};
use tensile_core::names;
use tensile_core::stash::lower_constraints;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";

/// The stash that tensile-kube writes with `--ignore-selector-keys=clusterID`.
fn tensile_kube(spec: &Value) -> Value {
    let mut stash = Map::new();
    let selector = spec["nodeSelector"].as_object().cloned().unwrap_or_default();
    let moved: Map<String, Value> = selector
        .into_iter()
        .filter(|(key, _)| key != names::CLUSTER_ID)
        .collect();
    if !moved.is_empty() {
        stash.insert("nodeSelector".to_owned(), moved.into());
    }
    let moved: Vec<Value> = terms(spec)
        .iter()
        .map(without_ignored)
        .filter(|term| !is_empty(term))
        .collect();
    if !moved.is_empty() {
        stash.insert(
            "affinity".to_owned(),
            json!({"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": moved}}}),
        );
    }
    if spec["tolerations"]
        .as_array()
        .is_some_and(|list| !list.is_empty())
    {
        stash.insert("tolerations".to_owned(), spec["tolerations"].clone());
    }
    stash.into()
}

fn terms(spec: &Value) -> Vec<Value> {
    let list = &spec["affinity"]["nodeAffinity"][REQUIRED]["nodeSelectorTerms"];
    list.as_array().cloned().unwrap_or_default()
}

fn without_ignored(term: &Value) -> Value {
    let mut kept = Map::new();
    for list in ["matchExpressions", "matchFields"] {
        let all = term[list].as_array().cloned().unwrap_or_default();
        let others: Vec<Value> = all
            .into_iter()
            .filter(|one| one["key"] != names::CLUSTER_ID)
            .collect();
        if !others.is_empty() {
            kept.insert(list.to_owned(), others.into());
        }
    }
    kept.into()
}

fn is_empty(term: &Value) -> bool {
    term.as_object().is_none_or(Map::is_empty)
}

/// Whether each term speaks about clusters alone, or all of them about lower nodes alone: where tensile-kube
/// splits without loss.
fn is_unmixed(spec: &Value) -> bool {
    let full = |term: &Value| {
        ["matchExpressions", "matchFields"]
            .iter()
            .map(|list| term[*list].as_array().map_or(0, Vec::len))
            .sum::<usize>()
    };
    let terms: Vec<Value> = terms(spec).into_iter().filter(|term| full(term) > 0).collect();
    let below = terms
        .iter()
        .filter(|term| !is_empty(&without_ignored(term)))
        .count();
    below == 0
        || (below == terms.len()
            && terms
                .iter()
                .all(|term| full(&without_ignored(term)) == full(term)))
}

#[test]
fn for_pods_without_mixed_terms_the_stash_is_tensile_kubes() {
    let mut compared = 0;
    for seed in 0..4_000 {
        let mut spec = Random(seed).spec();
        if let Some(node) = spec
            .pointer_mut("/affinity/nodeAffinity")
            .and_then(Value::as_object_mut)
        {
            // The one difference of the stash itself: Tensile's holds preferences too.
            node.remove("preferredDuringSchedulingIgnoredDuringExecution");
        }
        if !is_unmixed(&spec) {
            continue;
        }
        compared += 1;
        let ours = stash_of(&admit(&mk_pod(&spec), &mk_rules(), &Known::default()).pod);
        assert_eq!(
            normal(&ours).to_string(),
            normal(&tensile_kube(&spec)).to_string(),
            "{spec}"
        );
    }
    assert!(compared > 1_000, "{compared} pods compared");
}

/// Go leaves empty lists out; so does the API server before it asks us.
fn normal(value: &Value) -> Value {
    match value {
        Value::Object(map) => map
            .iter()
            .filter(|(_, value)| value.as_array().is_none_or(|list| !list.is_empty()))
            .map(|(key, value)| (key.clone(), normal(value)))
            .collect(),
        Value::Array(list) => list.iter().map(normal).collect(),
        other => other.clone(),
    }
}

#[test]
fn an_annotation_that_tensile_kube_wrote_gives_the_lower_pod_that_it_gave() {
    for seed in 0..2_000 {
        let stash = tensile_kube(&Random(seed).spec());
        let pod = json!({
            "metadata": {"annotations": {names::CLUSTER_SELECTOR: stash.to_string()}},
            // What tensile-kube leaves above does not come down.
            "spec": {"nodeSelector": {"clusterID": "a"}, "tolerations": [{"operator": "Exists"}],
                "affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": [
                    {"key": "clusterID", "operator": "In", "values": ["a"]}]}]}}}},
        });
        let labels = std::collections::BTreeMap::from([("clusterID".to_owned(), "a".to_owned())]);
        let lower = lower_constraints(&pod, &labels, &mk_rules().ignored_keys).unwrap();
        let found = json!({"nodeSelector": lower.node_selector, "affinity": lower.affinity, "tolerations": lower.tolerations});
        let wanted = json!({"nodeSelector": stash.get("nodeSelector"), "affinity": stash.get("affinity"),
            "tolerations": stash.get("tolerations")});
        assert_eq!(found, wanted, "{stash}");
    }
}
