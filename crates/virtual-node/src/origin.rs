//! From the names of lower objects to those of the upper objects that they stand for.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use tensile_core::names;
use tensile_core::translate::namespace::Mapping;
use tensile_runtime::key::Key;

/// The key of the upper object that a lower object with this metadata stands for. Its annotation says so, and is
/// believed only where it agrees with the mapping: anybody may write annotations below.
#[must_use]
pub fn upper_key(metadata: &ObjectMeta, mapping: &Mapping) -> Option<Key> {
    let namespace = metadata.namespace.as_deref().unwrap_or_default();
    let name = metadata.name.as_deref().unwrap_or_default();
    if *mapping == Mapping::SameName {
        return Some(Key::new(namespace, name));
    }
    let origin = metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get(names::ORIGIN))?;
    let (upper, key) = match origin.split_once('/') {
        Some((upper, _)) => (upper, Key::new(upper, name)),
        // A namespace.
        None => (origin.as_str(), Key::new("", origin)),
    };
    let lower = if namespace.is_empty() { name } else { namespace };
    (mapping.lower(upper) == lower).then_some(key)
}

/// The key of the lower object that stands for the upper object `key`.
#[must_use]
pub fn lower_key(key: &Key, mapping: &Mapping) -> Key {
    if *mapping == Mapping::SameName {
        return key.clone();
    }
    if key.namespace.is_empty() {
        Key::new("", &mapping.lower(&key.name))
    } else {
        Key {
            namespace: mapping.lower(&key.namespace).into(),
            name: key.name.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_metadata(namespace: Option<&str>, name: &str, origin: &str) -> ObjectMeta {
        let metadata =
            json!({"namespace": namespace, "name": name, "annotations": {"tensile.dev/origin": origin}});
        serde_json::from_value(metadata).unwrap()
    }

    #[test]
    fn keys_go_down_and_come_back() {
        for mapping in [Mapping::SameName, Mapping::Prefix("a".to_owned())] {
            for key in [Key::new("shop", "web"), Key::new(&"x".repeat(63), "web")] {
                let lower = lower_key(&key, &mapping);
                let metadata = mk_metadata(Some(&lower.namespace), &lower.name, &key.to_string());
                assert_eq!(upper_key(&metadata, &mapping), Some(key));
            }
            let lower = lower_key(&Key::new("", "shop"), &mapping);
            let metadata = mk_metadata(None, &lower.name, "shop");
            assert_eq!(upper_key(&metadata, &mapping), Some(Key::new("", "shop")));
        }
    }

    #[test]
    fn an_annotation_that_points_elsewhere_is_not_believed() {
        let mapping = Mapping::Prefix("a".to_owned());
        assert_eq!(
            upper_key(&mk_metadata(Some("a-shop"), "web", "bank/web"), &mapping),
            None
        );
    }
}
