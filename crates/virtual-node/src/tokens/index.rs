//! The Secrets with tokens that are there.

use std::collections::{HashMap, HashSet};

use jiff::Timestamp;

use tensile_core::names;
use tensile_core::translate::service_account::tokens;
use tensile_runtime::key::Key;
use tensile_runtime::object::{Meta, Secrets};

/// A Secret with tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// `metadata.uid`.
    pub uid: Box<str>,
    /// When its tokens are to be replaced.
    pub refresh_at: Timestamp,
}

/// Secrets of one virtual node, by UID of the upper pod that they are for.
#[derive(Debug, Default)]
pub struct Index {
    by_pod: HashMap<Box<str>, Token>,
}

/// Whether a lower Secret of ours was made for the tokens of one pod, and is no copy.
#[must_use]
pub fn is_token_secret(secret: &Meta<Secrets>) -> bool {
    label(secret, names::ORIGIN_UID)
        .is_some_and(|uid| secret.metadata.name.as_deref() == Some(&tokens::secret_name(uid)))
}

// === impl Index ===

impl Index {
    /// The Secret for the upper pod with this UID.
    #[must_use]
    pub fn get(&self, pod_uid: &str) -> Option<&Token> {
        self.by_pod.get(pod_uid)
    }

    /// A Secret for the upper pod with this UID is there.
    pub fn insert(&mut self, pod_uid: &str, token: Token) {
        self.by_pod.insert(pod_uid.into(), token);
    }

    /// Takes a Secret as its watch shows it; returns the pod that it is for, if it is not as it was known.
    pub fn apply(&mut self, secret: &Meta<Secrets>) -> Option<Key> {
        let pod_uid = label(secret, names::ORIGIN_UID)?;
        let token = Token {
            uid: secret.metadata.uid.as_deref().unwrap_or_default().into(),
            refresh_at: refresh_at(secret),
        };
        let known = self.by_pod.insert(pod_uid.into(), token.clone());
        (known != Some(token)).then(|| pod(secret)).flatten()
    }

    /// The Secret is gone; returns the pod that it was for.
    pub fn delete(&mut self, secret: &Meta<Secrets>) -> Option<Key> {
        let pod_uid = label(secret, names::ORIGIN_UID)?;
        let gone = self
            .by_pod
            .get(pod_uid)
            .is_some_and(|token| Some(&*token.uid) == secret.metadata.uid.as_deref());
        if gone {
            self.by_pod.remove(pod_uid);
        }
        gone.then(|| pod(secret)).flatten()
    }

    /// Only these Secrets exist; returns whether one is gone.
    pub fn retain(&mut self, live: &HashSet<Key>) -> bool {
        let before = self.by_pod.len();
        let live: HashSet<&str> = live.iter().map(|key| &*key.name).collect();
        self.by_pod
            .retain(|pod_uid, _| live.contains(tokens::secret_name(pod_uid).as_str()));
        self.by_pod.len() < before
    }
}

fn label<'a>(secret: &'a Meta<Secrets>, key: &str) -> Option<&'a str> {
    secret.metadata.labels.as_ref()?.get(key).map(String::as_str)
}

/// The upper pod that a Secret is for.
fn pod(secret: &Meta<Secrets>) -> Option<Key> {
    let origin = secret.metadata.annotations.as_ref()?.get(names::ORIGIN)?;
    let (namespace, name) = origin.split_once('/')?;
    Some(Key::new(namespace, name))
}

/// When the tokens are due; at once if nobody can tell.
fn refresh_at(secret: &Meta<Secrets>) -> Timestamp {
    let annotation = secret
        .metadata
        .annotations
        .as_ref()
        .and_then(|all| all.get(names::REFRESH_AT));
    annotation
        .and_then(|text| text.parse().ok())
        .unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_secret(name: &str, uid: &str, refresh_at: &str) -> Meta<Secrets> {
        let metadata = json!({
            "name": name, "namespace": "ns", "uid": uid,
            "labels": {"tensile.dev/origin-uid": "u"},
            "annotations": {"tensile.dev/origin": "ns/p", "tensile.dev/refresh-at": refresh_at},
        });
        serde_json::from_str(&json!({"metadata": metadata}).to_string()).unwrap()
    }

    #[test]
    fn a_secret_is_known_until_it_is_gone() {
        let mut index = Index::default();
        let secret = mk_secret("tensile-token-u", "s", "1970-01-01T00:10:00Z");
        assert_eq!(index.apply(&secret), Some(Key::new("ns", "p")));
        assert_eq!(index.apply(&secret), None, "nothing new");
        assert_eq!(index.get("u").unwrap().refresh_at.as_second(), 600);
        assert!(!index.retain(&HashSet::from([Key::of(&secret)])));
        let earlier = mk_secret("tensile-token-u", "earlier", "");
        assert_eq!(index.delete(&earlier), None, "another Secret of that name");
        assert_eq!(index.delete(&secret), Some(Key::new("ns", "p")));
        assert_eq!(index.get("u"), None);

        index.apply(&mk_secret("tensile-token-u", "s", "nonsense"));
        assert_eq!(index.get("u").unwrap().refresh_at, Timestamp::UNIX_EPOCH);
        assert!(index.retain(&HashSet::new()));
        assert_eq!(index.get("u"), None);
    }

    #[test]
    fn a_copy_of_a_secret_is_none() {
        assert!(is_token_secret(&mk_secret("tensile-token-u", "s", "")));
        assert!(!is_token_secret(&mk_secret("tensile-token-other", "s", "")));
    }
}
