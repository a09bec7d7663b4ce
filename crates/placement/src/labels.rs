//! Label sets of shared texts.

use std::sync::Arc;

use tensile_core::labels::{LabelLookup, Labels};

use crate::intern::Interner;

/// Labels whose keys and values are shared with all others of the cluster, sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SharedLabels(Box<[(Arc<str>, Arc<str>)]>);

/// Identity of a shared text: two texts of one cluster are equal when these are. Valid while one of them lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct TextId(usize);

// === impl TextId ===

impl TextId {
    pub(crate) fn of(text: &Arc<str>) -> Self {
        Self(Arc::as_ptr(text).cast::<u8>() as usize)
    }
}

// === impl SharedLabels ===

impl SharedLabels {
    /// The labels but those that `skip` names.
    pub(crate) fn new(labels: &Labels, skip: impl Fn(&str) -> bool, interner: &mut Interner) -> Self {
        let kept = labels.iter().filter(|(key, _)| !skip(key));
        Self(
            kept.map(|(key, value)| (interner.get(key), interner.get(value)))
                .collect(),
        )
    }

    /// The value of the label `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Arc<str>> {
        let index = self
            .0
            .binary_search_by(|(candidate, _)| candidate.as_ref().cmp(key))
            .ok()?;
        Some(&self.0[index].1)
    }

    /// The value of the label whose key is this very copy: faster than by text.
    pub(crate) fn of(&self, key: &Arc<str>) -> Option<&Arc<str>> {
        self.0
            .iter()
            .find(|(candidate, _)| Arc::ptr_eq(candidate, key))
            .map(|(_, value)| value)
    }

    /// Keys and values, sorted by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Arc<str>)> {
        self.0.iter().map(|(key, value)| (key, value))
    }
}

impl LabelLookup for SharedLabels {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(AsRef::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_found_and_skipped_ones_are_not() {
        let labels: Labels = [("b", "2"), ("a", "1"), ("own", "x")].into_iter().collect();
        let shared = SharedLabels::new(&labels, |key| key == "own", &mut Interner::default());
        assert_eq!(
            ["a", "b", "own"].map(|key| shared.label(key)),
            [Some("1"), Some("2"), None]
        );
        assert_eq!(
            shared.iter().map(|(key, _)| key.as_ref()).collect::<Vec<&str>>(),
            ["a", "b"]
        );
    }
}
