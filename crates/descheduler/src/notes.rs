//! What is written down before pods are evicted: which nodes owners avoid, and for whom room is made.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use serde_json::json;
use tensile_core::avoidance::{self, Avoidance};
use tensile_core::entries::EntryError;
use tensile_core::promises::{self, Promises};

/// The `data` of a ConfigMap.
type Data = BTreeMap<String, String>;

/// What is written down.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notes {
    pub(crate) avoidance: Avoidance,
    /// Not looked at while no room is made: what is left there ends by itself.
    pub(crate) promises: Promises,
}

// === impl Notes ===

impl Notes {
    /// The notes as they are kept. Entries that cannot be read are reported and count as none.
    ///
    /// # Errors
    /// What the API server does not give out, for people.
    pub(crate) async fn load(maps: &Api<ConfigMap>, makes_room: bool) -> Result<Self, String> {
        let data = load(maps, avoidance::CONFIG_MAP).await;
        let data = data.map_err(|error| format!("the avoidance cannot be read: {error}"))?;
        let avoidance = readable(Avoidance::decode(&data));
        if !makes_room {
            let promises = Promises::default();
            return Ok(Self { avoidance, promises });
        }
        let data = load(maps, promises::CONFIG_MAP).await;
        let data = data.map_err(|error| format!("the promises cannot be read: {error}"))?;
        let promises = readable(Promises::decode(&data));
        Ok(Self { avoidance, promises })
    }

    /// Writes what differs from the notes before.
    ///
    /// # Errors
    /// What the API server does not take, for people.
    pub(crate) async fn save(&self, maps: &Api<ConfigMap>, before: &Self) -> Result<(), String> {
        let (old, new) = (before.avoidance.encode(), self.avoidance.encode());
        let saved = save(maps, avoidance::CONFIG_MAP, &old, new).await;
        saved.map_err(|error| format!("the avoidance cannot be written: {error}"))?;
        let (old, new) = (before.promises.encode(), self.promises.encode());
        let saved = save(maps, promises::CONFIG_MAP, &old, new).await;
        saved.map_err(|error| format!("the promises cannot be written: {error}"))
    }
}

fn readable<T>((notes, errors): (T, Vec<EntryError>)) -> T {
    for error in errors {
        tracing::warn!(%error, "an entry counts as none");
    }
    notes
}

async fn load(maps: &Api<ConfigMap>, name: &str) -> kube::Result<Data> {
    let map = maps.get_opt(name).await?;
    Ok(map.and_then(|map| map.data).unwrap_or_default())
}

async fn save(maps: &Api<ConfigMap>, name: &str, before: &Data, after: Data) -> kube::Result<()> {
    let changes = changes(before, &after);
    if changes.is_empty() {
        return Ok(());
    }
    let patch = Patch::Merge(json!({"data": changes}));
    match maps.patch(name, &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let map = ConfigMap {
                metadata: ObjectMeta {
                    name: Some(name.to_owned()),
                    ..ObjectMeta::default()
                },
                data: Some(after),
                ..ConfigMap::default()
            };
            maps.create(&PostParams::default(), &map).await.map(drop)
        }
        patched => patched.map(drop),
    }
}

/// The entries that are new, other or gone.
fn changes(before: &Data, after: &Data) -> BTreeMap<String, Option<String>> {
    let gone = before.keys().filter(|key| !after.contains_key(*key));
    let changed = after.iter().filter(|(key, text)| before.get(*key) != Some(text));
    gone.map(|key| (key.clone(), None))
        .chain(changed.map(|(key, text)| (key.clone(), Some(text.clone()))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_is_written() {
        let map = |entries: &[(&str, &str)]| {
            let owned = entries
                .iter()
                .map(|(key, text)| ((*key).to_owned(), (*text).to_owned()));
            owned.collect::<BTreeMap<_, _>>()
        };
        let (before, after) = (
            map(&[("a", "1"), ("b", "1"), ("c", "1")]),
            map(&[("b", "1"), ("c", "2"), ("d", "1")]),
        );
        let wanted = json!({"a": null, "c": "2", "d": "1"});
        assert_eq!(json!(changes(&before, &after)), wanted);
        assert!(changes(&after, &after).is_empty());
    }
}
