//! The smallest RFC 6902 operations that turn one JSON value into another, for values of known shape.

use json_patch::jsonptr::PointerBuf;
use json_patch::{AddOperation, PatchOperation, RemoveOperation, ReplaceOperation};
use serde_json::Value;

/// Operations under construction.
#[derive(Debug, Default)]
pub struct Patch {
    operations: Vec<PatchOperation>,
}

// === impl Patch ===

impl Patch {
    /// The operations, in order.
    #[must_use]
    pub fn into_operations(self) -> Vec<PatchOperation> {
        self.operations
    }

    /// Adds what turns `before` into `after` at `path`. What is the same in both is not touched; lists are
    /// changed entry by entry as long as none has to go.
    pub fn change(&mut self, path: PointerBuf, before: Option<&Value>, after: Option<&Value>) {
        match (before, after) {
            (before, after) if before == after => {}
            (None, Some(value)) => self.add(path, value.clone()),
            (Some(_), None) => self
                .operations
                .push(PatchOperation::Remove(RemoveOperation { path })),
            (Some(Value::Object(before)), Some(Value::Object(after))) => {
                // A path is written only for what differs: most members do not.
                for (key, value) in before
                    .iter()
                    .filter(|(key, value)| after.get(*key) != Some(*value))
                {
                    self.change(path.with_trailing_token(key), Some(value), after.get(key));
                }
                for (key, value) in after.iter().filter(|(key, _)| !before.contains_key(*key)) {
                    self.add(path.with_trailing_token(key), value.clone());
                }
            }
            (Some(Value::Array(before)), Some(Value::Array(after))) if before.len() <= after.len() => {
                let pairs = before.iter().zip(after).enumerate();
                for (index, (before, after)) in pairs.filter(|(_, (before, after))| before != after) {
                    self.change(path.with_trailing_token(index), Some(before), Some(after));
                }
                for value in &after[before.len()..] {
                    self.add(path.with_trailing_token("-"), value.clone());
                }
            }
            (_, Some(value)) => {
                let value = value.clone();
                self.operations
                    .push(PatchOperation::Replace(ReplaceOperation { path, value }));
            }
            (None, None) => {}
        }
    }

    fn add(&mut self, path: PointerBuf, value: Value) {
        self.operations
            .push(PatchOperation::Add(AddOperation { path, value }));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn touches_only_what_differs_and_leads_to_the_wanted_value() {
        for (before, after, expected) in [
            (json!({"a": 1}), json!({"a": 1}), json!([])),
            (
                json!({}),
                json!({"a/b~": 1}),
                json!([{"op": "add", "path": "/a~1b~0", "value": 1}]),
            ),
            (
                json!({"a": 1, "b": 2}),
                json!({"b": 2}),
                json!([{"op": "remove", "path": "/a"}]),
            ),
            (json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": 3, "c": 2}}), {
                json!([{"op": "replace", "path": "/a/b", "value": 3}])
            }),
            (json!({"a": [1, {"b": 2}]}), json!({"a": [1, {"b": 3}, 4]}), {
                json!([{"op": "replace", "path": "/a/1/b", "value": 3}, {"op": "add", "path": "/a/-", "value": 4}])
            }),
            (
                json!({"a": [1, 2]}),
                json!({"a": [2]}),
                json!([{"op": "replace", "path": "/a", "value": [2]}]),
            ),
            (
                json!({"a": {}}),
                json!({"a": []}),
                json!([{"op": "replace", "path": "/a", "value": []}]),
            ),
        ] {
            let mut patch = Patch::default();
            patch.change(PointerBuf::new(), Some(&before), Some(&after));
            let operations = patch.into_operations();
            assert_eq!(
                serde_json::to_value(&operations).unwrap(),
                expected,
                "{before} -> {after}"
            );
            let mut patched = before.clone();
            json_patch::patch(&mut patched, &operations).unwrap();
            assert_eq!(patched, after);
        }
    }
}
