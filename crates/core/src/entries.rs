//! ConfigMaps of the system namespace whose `data` has one JSON text an entry, so that entries can be patched without
//! touching each other.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;

/// Why one entry cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("ConfigMap {config_map}, data[{key}]: {source}; expected JSON such as {example}")]
pub struct EntryError {
    /// Name of the ConfigMap.
    pub config_map: &'static str,
    /// The key of the entry.
    pub key: String,
    /// How it should look.
    pub example: &'static str,
    /// What is wrong with its value.
    #[source]
    pub source: serde_json::Error,
}

/// Reads the `data` of a ConfigMap. An entry that cannot be read is left out and reported; it does not hide the others.
pub(crate) fn decode<T: DeserializeOwned>(
    config_map: &'static str,
    example: &'static str,
    data: &BTreeMap<String, String>,
) -> (BTreeMap<String, T>, Vec<EntryError>) {
    let (mut entries, mut errors) = (BTreeMap::new(), Vec::new());
    for (key, text) in data {
        match serde_json::from_str(text) {
            Ok(entry) => drop(entries.insert(key.clone(), entry)),
            Err(source) => errors.push(EntryError {
                config_map,
                key: key.clone(),
                example,
                source,
            }),
        }
    }
    (entries, errors)
}
