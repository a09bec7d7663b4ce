//! Feeds what the descheduler tells in ConfigMaps of the system namespace.

use std::collections::BTreeMap;

use kube::Api;
use kube::runtime::watcher;
use serde::Deserialize;
use tensile_core::entries::EntryError;
use tensile_core::{avoidance, promises};
use tensile_runtime::object::{ConfigMaps, Viewed};
use tensile_runtime::watch::{Change, Watch};

use crate::upper::Feed;
use crate::world::World;

/// What is looked at of a ConfigMap.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Data {
    data: Option<BTreeMap<String, String>>,
}

/// Takes the `data` of a ConfigMap over; what it could not read is given back.
type TakeOver = fn(&mut World, &BTreeMap<String, String>) -> Vec<EntryError>;

// === impl Feed ===

impl Feed {
    /// Feeds what the descheduler tells until the future is dropped.
    pub async fn watch_told(self, system_namespace: &str) {
        tokio::join!(
            self.watch_one(system_namespace, promises::CONFIG_MAP, "promises", promised),
            self.watch_one(system_namespace, avoidance::CONFIG_MAP, "avoidance", avoided),
        );
    }

    async fn watch_one(&self, namespace: &str, map: &str, name: &'static str, take_over: TakeOver) {
        let watch = Watch {
            api: Api::<Viewed<ConfigMaps, Data>>::namespaced(self.client.clone(), namespace),
            config: watcher::Config::default().fields(&format!("metadata.name={map}")),
            name,
            ready: self.readiness.condition(name),
            metrics: self.metrics.clone(),
        };
        let changed = |change| {
            if let Some(data) = data(change) {
                for error in take_over(&mut self.shared.world(), &data) {
                    tracing::warn!(%error, "an entry has no effect");
                }
            }
        };
        watch.run(changed).await;
    }
}

/// What the ConfigMap says from now on; `None` if that is what it said before.
fn data(change: Change<Viewed<ConfigMaps, Data>>) -> Option<BTreeMap<String, String>> {
    match change {
        Change::Apply(map) => Some(map.view.data.unwrap_or_default()),
        Change::Delete(_) => Some(BTreeMap::new()),
        Change::Reset(keys) => keys.is_empty().then(BTreeMap::new),
    }
}

fn promised(world: &mut World, data: &BTreeMap<String, String>) -> Vec<EntryError> {
    let (promises, errors) = promises::Promises::decode(data);
    world.set_promises(promises);
    errors
}

fn avoided(world: &mut World, data: &BTreeMap<String, String>) -> Vec<EntryError> {
    let (avoidance, errors) = avoidance::Avoidance::decode(data);
    world.set_avoidance(avoidance);
    errors
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tensile_runtime::key::Key;

    use super::*;
    use crate::testing::{mk_member, mk_world};
    use crate::{Answer, World};

    fn mk_map(data: &Value) -> Viewed<ConfigMaps, Data> {
        let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "m"}, "data": data});
        serde_json::from_str(&map.to_string()).unwrap()
    }

    #[test]
    fn what_is_told_follows_the_watch() {
        let entries = json!({"k": "v"});
        let told: BTreeMap<String, String> = serde_json::from_value(entries.clone()).unwrap();
        for (what, change, wanted) in [
            ("changed", Change::Apply(mk_map(&entries)), Some(told)),
            (
                "emptied",
                Change::Apply(mk_map(&json!(null))),
                Some(BTreeMap::new()),
            ),
            ("deleted", Change::Delete(mk_map(&entries)), Some(BTreeMap::new())),
            ("not there", Change::Reset([].into()), Some(BTreeMap::new())),
            ("still there", Change::Reset([Key::new("s", "m")].into()), None),
        ] {
            assert_eq!(data(change), wanted, "{what}");
        }
    }

    #[test]
    fn both_maps_have_their_effect_and_name_what_cannot_be_read() {
        let room =
            json!({"node": "vb", "lowerNode": "b1", "requests": {"cpu": "8"}, "end": u64::MAX}).to_string();
        let avoided_nodes = json!({"vb": u64::MAX}).to_string();
        for (take_over, entry) in [
            (promised as TakeOver, ("waiting", room)),
            (avoided, ("owner", avoided_nodes)),
        ] {
            let data = [entry, ("broken", "x".to_owned())];
            let data = data.map(|(key, text)| (key.to_owned(), text)).into();
            let mut world: World = mk_world();
            assert_eq!(take_over(&mut world, &data).len(), 1);
            let pod = mk_member("p", "1", "{}");
            let mut lowering = world.consider(&pod, 0);
            let answer = world.answer(&mut lowering, "vb");
            assert!(!matches!(answer, Some(Answer::Fits(_))), "{answer:?}");
        }
    }
}
