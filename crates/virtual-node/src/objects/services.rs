//! What the environment of pods says of our Services below.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;

use tensile_core::translate::service_env::Service;
use tensile_runtime::key::Key;

/// Our Services by upper namespace and name; those that the environment does not mention are left out.
#[derive(Debug, Default)]
pub struct Services {
    by_namespace: HashMap<Arc<str>, BTreeMap<Arc<str>, Service>>,
}

// === impl Services ===

impl Services {
    /// Takes the copy of the upper Service `key`, with the address that the lower cluster gave it, or that there is
    /// none.
    pub fn set(&mut self, key: &Key, copy: Option<&Value>) {
        let service = copy.and_then(|copy| {
            let mut service = Service::of(copy)?;
            service.namespace = (&*key.namespace).into();
            Some(service)
        });
        match service {
            Some(service) => {
                let services = self.by_namespace.entry(key.namespace.clone()).or_default();
                services.insert(key.name.clone(), service);
            }
            None => {
                if let Some(services) = self.by_namespace.get_mut(&key.namespace) {
                    services.remove(&key.name);
                    if services.is_empty() {
                        self.by_namespace.remove(&key.namespace);
                    }
                }
            }
        }
    }

    /// Those of an upper namespace.
    pub fn of(&self, namespace: &str) -> impl Iterator<Item = &Service> {
        self.by_namespace
            .get(namespace)
            .into_iter()
            .flat_map(BTreeMap::values)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_is_told_under_its_upper_namespace_while_it_has_an_address() {
        let mut services = Services::default();
        let key = Key::new("shop", "web");
        let mut copy = json!({
            "metadata": {"namespace": "lower-shop", "name": "web"},
            "spec": {"clusterIP": "10.0.0.1", "ports": [{"port": 80}]},
        });
        services.set(&key, Some(&copy));
        let told: Vec<_> = services.of("shop").collect();
        assert_eq!((told.len(), &*told[0].namespace), (1, "shop"));
        copy["spec"]["clusterIP"] = json!("None");
        services.set(&key, Some(&copy));
        assert_eq!(services.of("shop").count(), 0);
    }
}
