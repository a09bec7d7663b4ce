//! All Secrets of lower clusters, and which clusters follow from them. Pure.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use serde::Deserialize;

use tensile_core::names;

use super::Change;
use super::config::{Config, ConfigError, SecretRef};
use crate::key::Key;
use crate::object::{Secrets, Viewed};
use crate::watch::Change as WatchChange;

/// A Secret as its watch delivers it.
pub type Secret = Viewed<Secrets, SecretView>;

/// What is looked at of a Secret.
#[derive(Clone, Deserialize)]
pub struct SecretView {
    /// Its content.
    #[serde(default)]
    data: BTreeMap<String, ByteString>,
}

/// What is wrong with a Secret, or that nothing is any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The Secret.
    pub secret: SecretRef,
    /// What to say; `None` takes back what was said.
    pub message: Option<String>,
}

/// What follows from a change.
#[derive(Debug, Default)]
pub struct News {
    /// For those that run clusters.
    pub changes: Vec<Change>,
    /// For those that wrote Secrets.
    pub problems: Vec<Problem>,
}

/// Secrets and the clusters that follow from them.
#[derive(Debug, Default)]
pub struct Index {
    secrets: BTreeMap<Key, Entry>,
    active: BTreeMap<Arc<str>, Active>,
    synced: bool,
}

#[derive(Debug)]
struct Entry {
    secret: SecretRef,
    id: String,
    created: Option<Time>,
    read: Result<Arc<Config>, ConfigError>,
    leaving: bool,
    abandon: bool,
    /// What its annotation says, or will say once the reporter has written.
    told: Option<String>,
}

/// A cluster that others know of.
#[derive(Debug)]
struct Active {
    config: Arc<Config>,
    leaving: bool,
}

// === impl SecretView ===

impl std::fmt::Debug for SecretView {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SecretView").finish_non_exhaustive()
    }
}

// === impl Index ===

impl Index {
    /// Takes a change of a Secret and says what follows.
    pub fn change(&mut self, change: WatchChange<Secret>) -> News {
        match change {
            WatchChange::Apply(secret) => {
                let entry = Entry::new(&secret.metadata, &secret.view.data);
                self.secrets.insert(entry.secret.key.clone(), entry);
                // Before the first list is complete it is open who was there first.
                if !self.synced {
                    return News::default();
                }
            }
            WatchChange::Delete(secret) => {
                self.secrets.remove(&Key::of(&secret));
            }
            WatchChange::Reset(live) => {
                self.secrets.retain(|key, _| live.contains(key));
                if !std::mem::replace(&mut self.synced, true) {
                    let mut news = self.resolve();
                    news.changes.push(Change::Synced);
                    return news;
                }
            }
        }
        self.resolve()
    }

    /// Compares what should be with what others know.
    fn resolve(&mut self) -> News {
        let mut news = News::default();
        self.remove_gone(&mut news);
        let mut claimed = BTreeMap::new();
        for key in self.order() {
            let outcome = self.claim(&key, &mut claimed);
            let Some(entry) = self.secrets.get_mut(&key) else {
                continue;
            };
            let message = outcome.as_ref().err().map(ToString::to_string);
            if entry.told != message {
                entry.told.clone_from(&message);
                news.problems.push(Problem {
                    secret: entry.secret.clone(),
                    message,
                });
            }
            if let Ok(config) = outcome {
                let leaving = entry.leaving;
                self.tell(config, leaving, &mut news.changes);
            } else {
                self.tell_end(&key, &mut news.changes);
            }
        }
        news
    }

    fn remove_gone(&mut self, news: &mut News) {
        let secrets = &self.secrets;
        self.active.retain(|id, active| {
            let secret = &active.config.secret;
            let stays = secrets
                .get(&secret.key)
                .is_some_and(|entry| entry.secret == *secret && *entry.id == **id);
            if !stays {
                news.changes.push(Change::Remove(id.clone()));
            }
            stays
        });
    }

    /// Those that run first, so that a newcomer disturbs nobody; then the older one.
    fn order(&self) -> Vec<Key> {
        let mut keys: Vec<_> = self
            .secrets
            .iter()
            .map(|(key, entry)| (!self.is_active(entry), entry.created.clone(), key.clone()))
            .collect();
        keys.sort();
        keys.into_iter().map(|(_, _, key)| key).collect()
    }

    fn is_active(&self, entry: &Entry) -> bool {
        self.active
            .get(&*entry.id)
            .is_some_and(|active| active.config.secret == entry.secret)
    }

    /// The cluster of a Secret, if it can be used and nobody else has its id and the names of its nodes.
    fn claim(&self, key: &Key, claimed: &mut BTreeMap<String, Key>) -> Result<Arc<Config>, ConfigError> {
        let entry = &self.secrets[key];
        if let Some(other) = claimed.get(&entry.id) {
            return Err(ConfigError::IdTaken {
                id: entry.id.clone(),
                other: other.clone(),
            });
        }
        claimed.insert(entry.id.clone(), key.clone());
        let config = entry.read.clone()?;
        let taken = self
            .active
            .values()
            .filter(|active| active.config.id != config.id)
            .find_map(|active| {
                let theirs = &active.config.nodes;
                let node = config
                    .nodes
                    .iter()
                    .find(|node| theirs.iter().any(|other| other.name == node.name))?;
                Some(ConfigError::NodeTaken {
                    node: node.name.clone(),
                    other: active.config.id.to_string(),
                })
            });
        taken.map_or(Ok(config), Err)
    }

    fn tell(&mut self, config: Arc<Config>, leaving: bool, changes: &mut Vec<Change>) {
        let before = self.active.get(&config.id);
        let (was_leaving, abandoned) =
            before.map_or((false, false), |active| (active.leaving, active.config.abandon));
        match before {
            None => changes.push(Change::Apply(config.clone())),
            Some(active) if !config.runs_like(&active.config) => changes.push(Change::Apply(config.clone())),
            Some(active) if config.kubeconfig != active.config.kubeconfig => {
                changes.push(Change::Credentials(config.clone()));
            }
            Some(_) => {}
        }
        if leaving && (!was_leaving || abandoned != config.abandon) {
            changes.push(Change::Leave(config.clone()));
        }
        self.active.insert(config.id.clone(), Active { config, leaving });
    }

    /// A Secret that cannot be used any more still ends its cluster with what was read of it last.
    fn tell_end(&mut self, key: &Key, changes: &mut Vec<Change>) {
        let entry = &self.secrets[key];
        let active = self
            .active
            .get(&*entry.id)
            .filter(|active| active.config.secret == entry.secret);
        if let Some(active) = active {
            let config = Config {
                abandon: entry.abandon,
                ..(*active.config).clone()
            };
            let leaving = entry.leaving;
            self.tell(Arc::new(config), leaving, changes);
        }
    }
}

// === impl Entry ===

impl Entry {
    fn new(metadata: &ObjectMeta, data: &BTreeMap<String, ByteString>) -> Self {
        let secret = SecretRef {
            key: Key::new(
                metadata.namespace.as_deref().unwrap_or_default(),
                metadata.name.as_deref().unwrap_or_default(),
            ),
            uid: metadata.uid.clone().unwrap_or_default(),
        };
        let text = |map: &Option<BTreeMap<String, String>>, key: &str| map.as_ref()?.get(key).cloned();
        let id = text(&metadata.labels, names::CLUSTER).unwrap_or_default();
        let abandon = text(&metadata.annotations, names::ABANDON).as_deref() == Some("true");
        Self {
            read: Config::read(&id, secret.clone(), data, abandon).map(Arc::new),
            secret,
            id,
            created: metadata.creation_timestamp.clone(),
            leaving: metadata.deletion_timestamp.is_some(),
            abandon,
            told: text(&metadata.annotations, names::CLUSTER_PROBLEM),
        }
    }
}
