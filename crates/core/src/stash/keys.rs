//! JSON keys in any case: tensile-kube reads its annotation with Go's decoder, which does not mind, while the
//! API server that gets the result does.

use serde_json::{Map, Value};

/// Every field name of Kubernetes that can occur in a stash.
const FIELDS: [&str; 33] = [
    "affinity",
    "effect",
    "key",
    "labelSelector",
    "matchExpressions",
    "matchFields",
    "matchLabelKeys",
    "matchLabels",
    "maxSkew",
    "minDomains",
    "mismatchLabelKeys",
    "namespaceSelector",
    "namespaces",
    "nodeAffinity",
    "nodeAffinityPolicy",
    "nodeSelector",
    "nodeSelectorTerms",
    "nodeTaintsPolicy",
    "operator",
    "podAffinity",
    "podAffinityTerm",
    "podAntiAffinity",
    "preference",
    "preferredDuringSchedulingIgnoredDuringExecution",
    "requiredDuringSchedulingIgnoredDuringExecution",
    "tolerationSeconds",
    "tolerations",
    "topologyKey",
    "topologySpreadConstraints",
    "value",
    "values",
    "weight",
    "whenUnsatisfiable",
];
/// Fields whose keys are the user's, not Kubernetes': they stay as they are.
const FREE_MAPS: [&str; 2] = ["nodeSelector", "matchLabels"];

/// Gives every known key in `value` its proper spelling. A key that is there in its proper spelling wins.
pub(super) fn canonicalise(value: &mut Value) {
    match value {
        Value::Object(map) => {
            rename(map);
            let inner = map
                .iter_mut()
                .filter(|(key, _)| !FREE_MAPS.contains(&key.as_str()));
            inner.for_each(|(_, value)| canonicalise(value));
        }
        Value::Array(items) => items.iter_mut().for_each(canonicalise),
        _ => {}
    }
}

fn rename(map: &mut Map<String, Value>) {
    let wrong: Vec<(String, &str)> = map
        .keys()
        .filter_map(|key| Some((key.clone(), proper(key)?)))
        .filter(|(key, proper)| key != proper)
        .collect();
    for (key, proper) in wrong {
        if let Some(value) = map.remove(&key) {
            map.entry(proper).or_insert(value);
        }
    }
}

fn proper(key: &str) -> Option<&'static str> {
    FIELDS
        .iter()
        .find(|field| field.eq_ignore_ascii_case(key))
        .copied()
}
