//! One copy of each text, and of each list of label keys.

use std::collections::HashSet;
use std::hash::Hash;
use std::sync::Arc;

/// Below this many copies a purge is not worth its time.
const PURGE_FROM: usize = 1024;

/// Hands out shared copies of texts and of lists of them, so that equal ones are kept once.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    texts: Copies<str>,
    lists: Copies<[Arc<str>]>,
}

/// Shared copies. Those that nobody holds any more are forgotten when their number has doubled since the last look.
#[derive(Debug)]
struct Copies<T: ?Sized> {
    known: HashSet<Arc<T>>,
    purge_at: usize,
}

// === impl Interner ===

impl Interner {
    /// The shared copy of `text`, if somebody may hold one.
    pub(crate) fn find(&self, text: &str) -> Option<&Arc<str>> {
        self.texts.known.get(text)
    }

    /// The shared copy of `text`.
    pub(crate) fn get(&mut self, text: &str) -> Arc<str> {
        self.texts.get(text)
    }

    /// The shared copy of a list of shared texts.
    pub(crate) fn list(&mut self, texts: &[Arc<str>]) -> Arc<[Arc<str>]> {
        self.lists.get(texts)
    }
}

// === impl Copies ===

impl<T: Eq + Hash + ?Sized> Copies<T>
where
    Arc<T>: for<'a> From<&'a T>,
{
    fn get(&mut self, value: &T) -> Arc<T> {
        if let Some(known) = self.known.get(value) {
            return known.clone();
        }
        if self.known.len() >= self.purge_at.max(PURGE_FROM) {
            self.known.retain(|value| Arc::strong_count(value) > 1);
            self.purge_at = 2 * self.known.len();
        }
        let copy: Arc<T> = value.into();
        self.known.insert(copy.clone());
        copy
    }
}

impl<T: ?Sized> Default for Copies<T> {
    fn default() -> Self {
        Self {
            known: HashSet::new(),
            purge_at: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_texts_share_one_copy() {
        let mut interner = Interner::default();
        assert!(Arc::ptr_eq(&interner.get("a"), &interner.get("a")));
        assert!(!Arc::ptr_eq(&interner.get("a"), &interner.get("b")));
    }

    #[test]
    fn texts_that_nobody_holds_are_forgotten() {
        let mut interner = Interner::default();
        let kept = interner.get("kept");
        for number in 0..10 * PURGE_FROM {
            interner.get(&number.to_string());
        }
        let count = interner.texts.known.len();
        assert!(count <= PURGE_FROM + 1, "{count}");
        assert!(Arc::ptr_eq(&kept, &interner.get("kept")));
    }
}
