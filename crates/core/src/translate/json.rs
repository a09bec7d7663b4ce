//! Short cuts into the JSON of a pod.

use serde_json::{Map, Value};

/// A JSON object.
pub(super) type Object = Map<String, Value>;

/// The three container lists of a pod spec.
const CONTAINER_LISTS: [&str; 3] = ["initContainers", "containers", "ephemeralContainers"];

/// Every container of a pod spec, of all three lists.
pub(super) fn containers_mut(spec: &mut Object) -> impl Iterator<Item = &mut Object> {
    spec.iter_mut()
        .filter(|(key, _)| CONTAINER_LISTS.contains(&key.as_str()))
        .filter_map(|(_, list)| list.as_array_mut())
        .flatten()
        .filter_map(Value::as_object_mut)
}

/// The objects in the list at `key`; none when there is no such list.
pub(super) fn objects_mut<'a>(object: &'a mut Object, key: &str) -> impl Iterator<Item = &'a mut Object> {
    object
        .get_mut(key)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

/// Keeps the elements of the list at `key` that `keep` wants, and drops a list that becomes empty.
pub(super) fn retain(object: &mut Object, key: &str, keep: impl FnMut(&Value) -> bool) {
    if let Some(list) = object.get_mut(key).and_then(Value::as_array_mut) {
        list.retain(keep);
        if list.is_empty() {
            object.remove(key);
        }
    }
}

/// Sets `key` to `value`, or removes it.
pub(super) fn set(object: &mut Object, key: &str, value: Option<Value>) {
    match value {
        Some(value) => object.insert(key.to_owned(), value),
        None => object.remove(key),
    };
}

/// Changes the object at `key`, which is made when missing and dropped when empty.
pub(super) fn edit(object: &mut Object, key: &str, change: impl FnOnce(&mut Object)) {
    let mut members = match object.remove(key) {
        Some(Value::Object(members)) => members,
        _ => Object::new(),
    };
    change(&mut members);
    if !members.is_empty() {
        object.insert(key.to_owned(), Value::Object(members));
    }
}

/// The string at `key`; empty when there is none, as Kubernetes itself reads it.
pub(super) fn text<'a>(object: &'a Object, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}
