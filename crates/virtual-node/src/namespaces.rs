//! What upper namespaces say about all of their pods, and what they are called below.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use tensile_core::names;
use tensile_core::translate::namespace::Mapping;
use tensile_runtime::key::Key;
use tensile_runtime::object::{Meta, Namespaces};

/// Upper namespaces. Whose service account pods get is kept for those that say so.
#[derive(Debug, Default)]
pub struct Index {
    service_accounts: HashMap<Box<str>, Box<str>>,
    /// Upper names by lower ones, where they differ.
    above: Option<HashMap<Box<str>, Box<str>>>,
    mapping: Mapping,
}

// === impl Index ===

impl Index {
    /// No namespaces yet, called below as `mapping` says.
    #[must_use]
    pub fn new(mapping: Mapping) -> Self {
        Self {
            service_accounts: HashMap::new(),
            above: (mapping != Mapping::SameName).then(HashMap::new),
            mapping,
        }
    }

    /// The upper name of the lower namespace `lower`, if it stands for one.
    #[must_use]
    pub fn above<'a>(&'a self, lower: &'a str) -> Option<&'a str> {
        match &self.above {
            Some(above) => above.get(lower).map(|upper| &**upper),
            None => Some(lower),
        }
    }

    /// Takes a namespace as its watch shows it; returns whether its pods must be looked at again.
    pub fn apply(&mut self, namespace: &Meta<Namespaces>) -> bool {
        let name = namespace.metadata.name.as_deref().unwrap_or_default();
        if let Some(above) = &mut self.above {
            above.insert(self.mapping.lower(name).into(), name.into());
        }
        let annotations = namespace.metadata.annotations.as_ref();
        let now = annotations.and_then(|all| all.get(names::SERVICE_ACCOUNT));
        let before = match now {
            Some(now) => self.service_accounts.insert(name.into(), now.as_str().into()),
            None => self.service_accounts.remove(name),
        };
        before.as_deref() != now.map(String::as_str)
    }

    /// The namespace is gone.
    pub fn delete(&mut self, name: &str) {
        self.service_accounts.remove(name);
        if let Some(above) = &mut self.above {
            above.remove(&*self.mapping.lower(name));
        }
    }

    /// Only these namespaces exist.
    pub fn retain(&mut self, live: &HashSet<Key>) {
        let is_live = |name: &str| live.contains(&Key::new("", name));
        self.service_accounts.retain(|name, _| is_live(name));
        if let Some(above) = &mut self.above {
            above.retain(|_, name| is_live(name));
        }
    }

    /// The metadata of a namespace, as far as it matters here.
    #[must_use]
    pub fn metadata(&self, name: &str) -> Value {
        match self.service_accounts.get(name) {
            Some(value) => json!({"annotations": {names::SERVICE_ACCOUNT: value}}),
            None => json!({}),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_namespace(value: Option<&str>) -> Meta<Namespaces> {
        let annotations = value.map(|value| json!({names::SERVICE_ACCOUNT: value}));
        serde_json::from_value(json!({"metadata": {"name": "ns", "annotations": annotations}})).unwrap()
    }

    #[test]
    fn a_lower_name_leads_back_to_the_upper_one() {
        assert_eq!(Index::default().above("shop"), Some("shop"));
        let mut index = Index::new(Mapping::Prefix("a".to_owned()));
        index.apply(&mk_namespace(None));
        assert_eq!((index.above("a-ns"), index.above("ns")), (Some("ns"), None));
        index.delete("ns");
        assert_eq!(index.above("a-ns"), None);
    }

    #[test]
    fn only_a_change_of_the_annotation_counts() {
        let mut index = Index::default();
        for (value, changed) in [
            (None, false),
            (Some("lower"), true),
            (Some("lower"), false),
            (Some("none"), true),
            (None, true),
        ] {
            assert_eq!(index.apply(&mk_namespace(value)), changed, "{value:?}");
        }
        index.apply(&mk_namespace(Some("lower")));
        assert_eq!(
            index.metadata("ns")["annotations"][names::SERVICE_ACCOUNT],
            "lower"
        );
        index.retain(&HashSet::new());
        assert_eq!(index.metadata("ns"), json!({}));
    }
}
