//! What a status says, in a few bytes per member.

use std::sync::Arc;

use serde_json::Value;

use crate::hash::Fnv;
use crate::translate::fingerprint;

/// A 64-bit hash per status member, and per condition. 16 bytes each, about 20 of them in a running pod; clones share
/// them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fingerprint(Arc<[(u64, u64)]>);

/// What a hash stands for: a member of the status, or one of its conditions.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part<'a> {
    /// A member of the status.
    Member(&'a str),
    /// A condition, by type.
    Condition(&'a str),
}

// === impl Part ===

impl Part<'_> {
    fn key(self) -> u64 {
        match self {
            Self::Member(name) => Fnv::of(name.as_bytes()),
            Self::Condition(name) => Fnv::of(format!("conditions/{name}").as_bytes()),
        }
    }
}

// === impl Fingerprint ===

impl Fingerprint {
    /// The fingerprint of `status`.
    #[must_use]
    pub fn of(status: &Value) -> Self {
        let members = status.as_object().into_iter().flatten();
        let members = members.filter(|(name, value)| name.as_str() != "conditions" && !value.is_null());
        let members = members.map(|(name, value)| (Part::Member(name).key(), fingerprint(value)));
        let conditions = status["conditions"].as_array().into_iter().flatten();
        let conditions = conditions.filter_map(|condition| {
            let name = condition["type"].as_str()?;
            Some((Part::Condition(name).key(), fingerprint(condition)))
        });
        let mut hashes: Vec<_> = members.chain(conditions).collect();
        hashes.sort_unstable();
        Self(hashes.into())
    }

    /// The hash of one part; `None` when the status does not have it.
    pub(super) fn get(&self, part: Part<'_>) -> Option<u64> {
        let index = self.0.binary_search_by_key(&part.key(), |(key, _)| *key).ok()?;
        self.0.get(index).map(|(_, hash)| *hash)
    }
}
