//! The smallest RFC 6902 operations that turn one JSON value into another, for values of known shape.

use json_patch::jsonptr::{Pointer, PointerBuf};
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
    pub fn change(&mut self, path: &Pointer, before: Option<&Value>, after: Option<&Value>) {
        if before != after {
            self.differ(&mut path.to_buf(), before, after);
        }
    }

    /// As [`Self::change`], for what is known to differ. The path is as it was when this returns.
    fn differ(&mut self, path: &mut PointerBuf, before: Option<&Value>, after: Option<&Value>) {
        match (before, after) {
            (None, Some(value)) => self.add(path.clone(), value.clone()),
            (Some(_), None) => {
                let path = path.clone();
                self.operations
                    .push(PatchOperation::Remove(RemoveOperation { path }));
            }
            (Some(Value::Object(before)), Some(Value::Object(after))) => {
                for (key, value) in before
                    .iter()
                    .filter(|(key, value)| after.get(*key) != Some(*value))
                {
                    path.push_back(key);
                    self.differ(path, Some(value), after.get(key));
                    path.pop_back();
                }
                for (key, value) in after.iter().filter(|(key, _)| !before.contains_key(*key)) {
                    self.add(path.with_trailing_token(key), value.clone());
                }
            }
            (Some(Value::Array(before)), Some(Value::Array(after))) if before.len() <= after.len() => {
                let pairs = before.iter().zip(after).enumerate();
                for (index, (before, after)) in pairs.filter(|(_, (before, after))| before != after) {
                    path.push_back(index);
                    self.differ(path, Some(before), Some(after));
                    path.pop_back();
                }
                for value in &after[before.len()..] {
                    self.add(path.with_trailing_token("-"), value.clone());
                }
            }
            (_, Some(value)) => {
                let (path, value) = (path.clone(), value.clone());
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
            patch.change(Pointer::root(), Some(&before), Some(&after));
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
