//! The annotation `tensile.dev/split`: how the pods of one owner are shared out among clusters.
//!
//! ```json
//! {"key": "clusterID", "strategy": "Weighted", "shares": {"a": {"weight": 2, "min": 1}, "b": {"weight": 1, "max": 4}}}
//! ```

use std::collections::BTreeMap;

use serde::Deserialize;

/// How the pods of one owner are shared out.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Label of virtual nodes whose values the shares are for.
    pub key: Box<str>,
    /// Which share is met first.
    pub strategy: Strategy,
    /// Whether nothing goes beyond the shares: what a cluster cannot take of its share then waits.
    #[serde(default)]
    pub strict: bool,
    /// The shares, by value of the label.
    pub shares: BTreeMap<Box<str>, Share>,
}

/// Which share is met first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Strategy {
    /// One share after the other, in the order of their names.
    Fill,
    /// The one of which the smallest part is met.
    Balance,
    /// The one that has the fewest pods for its weight; minimums before all others.
    Weighted,
}

/// The share of one value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// Fill and Balance: how many pods.
    pub replicas: Option<u32>,
    /// Weighted: how many pods beside those of others.
    pub weight: Option<u32>,
    /// Weighted: so many before weights count.
    #[serde(default)]
    pub min: u32,
    /// Weighted: never more than these; `None` is no limit.
    pub max: Option<u32>,
}

/// Why the annotation cannot be used. Messages begin at the annotation's value.
#[derive(Debug, thiserror::Error)]
pub enum SplitError {
    /// It is no such object.
    #[error("{0}")]
    Syntax(#[from] serde_json::Error),
    /// Nothing is shared out.
    #[error("shares: name at least one value of the label, such as {{\"a\": {{\"replicas\": 3}}}}")]
    NoShares,
    /// A share does not say how much it is.
    #[error("shares.{value}: give {field}, as the strategy {strategy:?} needs it")]
    Missing {
        /// The value.
        value: Box<str>,
        /// What is missing.
        field: &'static str,
        /// The strategy.
        strategy: Strategy,
    },
    /// A share cannot be met.
    #[error("shares.{value}: min {min} is more than max {max}; make it at most that")]
    Limits {
        /// The value.
        value: Box<str>,
        /// Its minimum.
        min: u32,
        /// Its maximum.
        max: u32,
    },
}

// === impl Split ===

impl Split {
    /// Reads the annotation's value.
    ///
    /// # Errors
    /// When it is not what the strategy needs.
    pub fn parse(text: &str) -> Result<Self, SplitError> {
        let split: Self = serde_json::from_str(text)?;
        if split.shares.is_empty() {
            return Err(SplitError::NoShares);
        }
        for (value, share) in &split.shares {
            split.check(value, share)?;
        }
        Ok(split)
    }

    fn check(&self, value: &str, share: &Share) -> Result<(), SplitError> {
        let strategy = self.strategy;
        let missing = match strategy {
            Strategy::Weighted => share
                .weight
                .filter(|weight| *weight > 0)
                .is_none()
                .then_some("weight"),
            Strategy::Fill | Strategy::Balance => share.replicas.is_none().then_some("replicas"),
        };
        let value = || value.into();
        match (missing, share.max) {
            (Some(field), _) => Err(SplitError::Missing {
                value: value(),
                field,
                strategy,
            }),
            (None, Some(max)) if max < share.min => Err(SplitError::Limits {
                value: value(),
                min: share.min,
                max,
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_with_what_their_strategy_needs() {
        let split = Split::parse(
            r#"{"key":"clusterID","strategy":"Weighted","strict":true,"shares":{"a":{"weight":2,"min":1,"max":6}}}"#,
        )
        .unwrap();
        assert_eq!(
            (&*split.key, split.strategy, split.strict),
            ("clusterID", Strategy::Weighted, true)
        );
        let share = Share {
            replicas: None,
            weight: Some(2),
            min: 1,
            max: Some(6),
        };
        assert_eq!(split.shares["a"], share);
    }

    #[test]
    fn errors_name_the_field_and_the_remedy() {
        for (text, expected) in [
            (
                r#"{"key":"k","strategy":"Fill","shares":{}}"#,
                "shares: name at least one",
            ),
            (
                r#"{"key":"k","strategy":"Even","shares":{}}"#,
                "unknown variant `Even`, expected one of `Fill`",
            ),
            (
                r#"{"key":"k","strategy":"Fill","share":{}}"#,
                "unknown field `share`",
            ),
            (
                r#"{"key":"k","strategy":"Fill","shares":{"a":{"weight":1}}}"#,
                "shares.a: give replicas",
            ),
            (
                r#"{"key":"k","strategy":"Weighted","shares":{"a":{"weight":0}}}"#,
                "shares.a: give weight",
            ),
            (
                r#"{"key":"k","strategy":"Weighted","shares":{"a":{"weight":1,"min":3,"max":2}}}"#,
                "shares.a: min 3 is more than max 2",
            ),
        ] {
            let error = Split::parse(text).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{text}: {error}");
        }
    }
}
