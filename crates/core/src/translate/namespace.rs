//! Upper namespace → lower namespace.

use std::borrow::Cow;

use crate::hash::Fnv;

/// Longest name of a namespace: a DNS label.
const LONGEST: usize = 63;
/// Digits of the hash that ends a name which would be too long.
const HASH_DIGITS: usize = 8;

/// How namespaces are named below.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Mapping {
    /// As above.
    #[default]
    SameName,
    /// With this in front, so that several upper clusters can share a lower one.
    Prefix(String),
}

// === impl Mapping ===

impl Mapping {
    /// The lower name of the upper namespace `upper`. Different upper names have different lower ones: a name that
    /// would be too long ends in a hash instead.
    #[must_use]
    pub fn lower<'a>(&self, upper: &'a str) -> Cow<'a, str> {
        let Self::Prefix(prefix) = self else {
            return Cow::Borrowed(upper);
        };
        let full = format!("{prefix}-{upper}");
        if full.len() <= LONGEST {
            return Cow::Owned(full);
        }
        let hash = format!("{:016x}", Fnv::of(full.as_bytes()));
        let stem: String = full.chars().take(LONGEST - HASH_DIGITS - 1).collect();
        let digits: String = hash.chars().take(HASH_DIGITS).collect();
        Cow::Owned(format!("{stem}-{digits}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_name_or_one_with_a_prefix() {
        assert_eq!(Mapping::SameName.lower("shop"), "shop");
        assert_eq!(Mapping::Prefix("a".to_owned()).lower("shop"), "a-shop");
    }

    #[test]
    fn a_long_name_stays_valid_and_distinct() {
        let mapping = Mapping::Prefix("a".to_owned());
        let exact = "x".repeat(61);
        assert_eq!(mapping.lower(&exact), format!("a-{exact}"));
        let (one, other) = ("x".repeat(62), "x".repeat(63));
        let (one, other) = (mapping.lower(&one), mapping.lower(&other));
        assert_eq!((one.len(), other.len()), (LONGEST, LONGEST));
        assert_ne!(one, other);
        assert!(
            one.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') && !one.ends_with('-'),
            "{one}"
        );
    }
}
