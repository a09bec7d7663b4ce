//! Label sets of shared texts.

use std::sync::Arc;

use tensile_core::labels::{LabelLookup, Labels};

use crate::intern::Interner;

/// Labels whose keys and values are shared with all others of the cluster. The nodes of a cluster have much the same
/// keys: these are one list, so that of each node no more than a value needs to be looked at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SharedLabels {
    /// Sorted.
    keys: Arc<[Arc<str>]>,
    /// In the order of their keys.
    values: Box<[Arc<str>]>,
}

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
        let (keys, values): (Vec<Arc<str>>, Vec<Arc<str>>) = kept
            .map(|(key, value)| (interner.get(key), interner.get(value)))
            .unzip();
        Self {
            keys: interner.list(&keys),
            values: values.into(),
        }
    }

    /// The value of the label `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Arc<str>> {
        let index = self
            .keys
            .binary_search_by(|candidate| candidate.as_ref().cmp(key))
            .ok()?;
        self.values.get(index)
    }

    /// The value of the label whose key is this very copy: faster than by text.
    pub(crate) fn of(&self, key: &Arc<str>) -> Option<&Arc<str>> {
        let index = self.keys.iter().position(|known| Arc::ptr_eq(known, key))?;
        self.values.get(index)
    }

    /// Keys and values, sorted by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Arc<str>, &Arc<str>)> {
        self.keys.iter().zip(&self.values)
    }
}

impl Default for SharedLabels {
    fn default() -> Self {
        Self {
            keys: Arc::new([]),
            values: Box::default(),
        }
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
