//! One copy of each text.

use std::collections::HashSet;
use std::sync::Arc;

/// Below this many texts a purge is not worth its time.
const PURGE_FROM: usize = 1024;

/// Hands out shared copies of texts, so that equal ones are kept once. Texts that nobody holds any more are
/// forgotten when the number of texts has doubled since the last look.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    texts: HashSet<Arc<str>>,
    purge_at: usize,
}

// === impl Interner ===

impl Interner {
    /// The shared copy of `text`, if somebody may hold one.
    pub(crate) fn find(&self, text: &str) -> Option<&Arc<str>> {
        self.texts.get(text)
    }

    /// The shared copy of `text`.
    pub(crate) fn get(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.texts.get(text) {
            return known.clone();
        }
        if self.texts.len() >= self.purge_at.max(PURGE_FROM) {
            self.texts.retain(|text| Arc::strong_count(text) > 1);
            self.purge_at = 2 * self.texts.len();
        }
        let text: Arc<str> = text.into();
        self.texts.insert(text.clone());
        text
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
        assert!(interner.texts.len() <= PURGE_FROM + 1, "{}", interner.texts.len());
        assert!(Arc::ptr_eq(&kept, &interner.get("kept")));
    }
}
