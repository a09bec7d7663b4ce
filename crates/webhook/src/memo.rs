//! Decisions of before, for reviews that differ in nothing a decision reads: the replicas of one template.
//!
//! A burst of reviews is nearly always many pods of few owners, alike in labels, annotations and constraints. A decision
//! is a pure function of those bytes and of what is known of namespace and owner; both together are the key here, so
//! that an entry can never be stale, only unused.

use std::sync::Arc;

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use serde_json::value::RawValue;

use crate::mutate::{Namespace, Outcome, Rules, Surroundings, mutate};
use crate::pod::lineage;
use crate::review::{Encoded, Request, ReviewError};

/// Bytes of keys and answers that are kept. A template with its answer is 2 to 4 KB, so that this is more templates
/// than a cluster creates pods from at one time.
const CAPACITY: u64 = 4 << 20;
/// Entries that the capacity is thought to hold, of 4 KB; sizes the cache's table.
const ENTRIES: usize = 1 << 10;
/// Longest key that is kept: a pod with more metadata than this is no replica of many.
const KEY_MAX: usize = 64 << 10;

/// A decision as it is remembered: without the operations, which are many small pieces of memory.
#[derive(Debug)]
pub struct Decided {
    /// What was decided.
    pub outcome: Outcome,
    /// The answer.
    pub answer: Encoded,
}

/// Decides about reviews under rules that stay, and remembers.
#[derive(Debug)]
pub struct Memo {
    rules: Rules,
    decided: Cache<Box<[u8]>, Arc<Decided>, Bytes>,
}

/// What is known of one pod's surroundings, at one moment.
struct Seen {
    namespace: Namespace,
    avoided: Vec<String>,
}

/// Weighs entries by what they hold.
#[derive(Clone, Debug)]
struct Bytes;

// === impl Decided ===

impl Decided {
    /// Decides.
    ///
    /// # Errors
    /// Never in practice: a patch is plain data.
    fn new(request: &Request<'_>, rules: &Rules, seen: &impl Surroundings) -> Result<Self, ReviewError> {
        let (outcome, answer) = mutate(request, rules, seen);
        let answer = answer.encode()?;
        Ok(Self { outcome, answer })
    }
}

// === impl Memo ===

impl Memo {
    /// A memory for decisions under these rules.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self {
            rules,
            decided: Cache::with_weighter(ENTRIES, CAPACITY, Bytes),
        }
    }

    /// Decides as [`mutate`] does.
    ///
    /// # Errors
    /// Never in practice: a patch is plain data.
    pub fn decide(
        &self,
        request: &Request<'_>,
        surroundings: &impl Surroundings,
    ) -> Result<Arc<Decided>, ReviewError> {
        let parts = request.object.as_ref().and_then(|object| object.parts().ok());
        let Some(parts) = parts else {
            return Decided::new(request, &self.rules, surroundings).map(Arc::new);
        };
        let lineage = surroundings.any_avoided().then(|| lineage(&parts)).flatten();
        let seen = Seen {
            namespace: surroundings.namespace(request.namespace.as_deref().unwrap_or_default()),
            avoided: lineage.map_or_else(Vec::new, |lineage| surroundings.avoided(&lineage)),
        };
        let key = key(request, &parts, &seen);
        if let Some(decided) = self.decided.get(&key[..]) {
            return Ok(decided);
        }
        let decided = Arc::new(Decided::new(request, &self.rules, &seen)?);
        if key.len() <= KEY_MAX {
            self.decided.insert(key.into(), Arc::clone(&decided));
        }
        Ok(decided)
    }
}

/// All that a decision depends on, each part behind its length so that no two run into each other.
fn key(request: &Request<'_>, parts: &[Option<&RawValue>], seen: &Seen) -> Vec<u8> {
    let kind = &request.kind;
    let words = [
        Some(&*request.operation),
        request.namespace.as_deref(),
        request.sub_resource.as_deref(),
        Some(&*kind.group),
        Some(&*kind.kind),
        seen.namespace.virtual_pods.then_some(""),
        seen.namespace.when_unreachable.as_deref(),
    ];
    let parts = parts.iter().map(|part| part.map(RawValue::get));
    let avoided = seen.avoided.iter().map(|node| Some(node.as_str()));
    let mut key = Vec::with_capacity(2 << 10);
    for part in words.into_iter().chain(parts).chain(avoided) {
        let length = part.map_or(u64::MAX, |part| part.len() as u64);
        key.extend_from_slice(&length.to_le_bytes());
        key.extend_from_slice(part.unwrap_or_default().as_bytes());
    }
    key
}

// === impl Seen ===

impl Surroundings for Seen {
    fn namespace(&self, _: &str) -> Namespace {
        self.namespace.clone()
    }

    fn any_avoided(&self) -> bool {
        !self.avoided.is_empty()
    }

    fn avoided(&self, _: &str) -> Vec<String> {
        self.avoided.clone()
    }
}

// === impl Bytes ===

impl Weighter<Box<[u8]>, Arc<Decided>> for Bytes {
    fn weight(&self, key: &Box<[u8]>, decided: &Arc<Decided>) -> u64 {
        (key.len() + decided.answer.patch_len() + size_of::<Decided>()) as u64
    }
}
