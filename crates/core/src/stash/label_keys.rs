//! `matchLabelKeys` of a pod that went through an API server.
//!
//! When a pod is created, the API server adds to each label selector what the keys stand for (`In` with the pod's own
//! value, `NotIn` for `mismatchLabelKeys`) and keeps the keys. A second API server would add it again, and refuses
//! a selector that has it already: "exists in both matchLabelKeys and labelSelector". So the keys whose work is
//! done do not go down.

use serde_json::Value;

/// Removes the keys that the label selector of a pod affinity term or topology spread constraint holds already.
pub(super) fn settle(constraint: &mut Value) {
    for (field, operator) in [("matchLabelKeys", "In"), ("mismatchLabelKeys", "NotIn")] {
        let expressions = constraint
            .pointer("/labelSelector/matchExpressions")
            .and_then(Value::as_array);
        let done: Vec<Value> = expressions
            .into_iter()
            .flatten()
            .filter(|expression| expression["operator"] == operator)
            .map(|expression| expression["key"].clone())
            .collect();
        let Some(Value::Array(keys)) = constraint.get_mut(field) else {
            continue;
        };
        keys.retain(|key| !done.contains(key));
        if keys.is_empty()
            && let Some(constraint) = constraint.as_object_mut()
        {
            constraint.remove(field);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_keys_that_the_selector_holds_are_removed() {
        let merged = |operator: &str| json!({"matchExpressions": [{"key": "hash", "operator": operator, "values": ["x"]}]});
        for (before, after) in [
            (
                json!({"matchLabelKeys": ["hash"], "labelSelector": merged("In")}),
                json!({"labelSelector": merged("In")}),
            ),
            (
                json!({"mismatchLabelKeys": ["hash", "b"], "labelSelector": merged("NotIn")}),
                json!({"mismatchLabelKeys": ["b"], "labelSelector": merged("NotIn")}),
            ),
            // An API server that does not merge yet, or a user's own condition: the lower one decides.
            (
                json!({"matchLabelKeys": ["hash"], "labelSelector": {}}),
                json!({"matchLabelKeys": ["hash"], "labelSelector": {}}),
            ),
            (
                json!({"matchLabelKeys": ["hash"], "labelSelector": merged("NotIn")}),
                { json!({"matchLabelKeys": ["hash"], "labelSelector": merged("NotIn")}) },
            ),
            (json!({"topologyKey": "zone"}), json!({"topologyKey": "zone"})),
        ] {
            let mut constraint = before;
            settle(&mut constraint);
            assert_eq!(constraint, after);
        }
    }
}
