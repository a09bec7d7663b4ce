//! Label selectors, compiled once and matched often.
//!
//! A [`Selector`] is read from the API's `LabelSelector` object or from the string form of flags and list
//! requests (`a=b,c!=d,e in (x,y),!f`), and prints the string form. [`Labels`] is the compact label map that
//! the slim views keep.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// An object's labels, sorted by key, in as little memory as owned strings allow.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Labels(Box<[(Box<str>, Box<str>)]>);

/// Anything that answers which value a label has.
pub trait LabelLookup {
    /// The value of the label `key`.
    fn label(&self, key: &str) -> Option<&str>;
}

/// A set of requirements that must all hold. Without any it matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "RawSelector")]
pub struct Selector(Box<[Requirement]>);

/// One condition on one label.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Requirement {
    key: Box<str>,
    operator: Operator,
    /// Sorted and unique.
    values: Box<[Box<str>]>,
}

/// How a requirement compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
pub enum Operator {
    /// The label has one of the values.
    In,
    /// The label is absent or has none of the values.
    NotIn,
    /// The label is there.
    Exists,
    /// The label is absent.
    DoesNotExist,
}

/// Why a selector cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// `In` and `NotIn` need something to compare with.
    #[error("selector on label {key:?}: operator {operator:?} needs at least one value")]
    ValuesMissing {
        /// The label.
        key: String,
        /// The operator.
        operator: Operator,
    },
    /// `Exists` and `DoesNotExist` compare with nothing.
    #[error("selector on label {key:?}: operator {operator:?} takes no values, remove them")]
    ValuesUnexpected {
        /// The label.
        key: String,
        /// The operator.
        operator: Operator,
    },
    /// A part of the string form makes no sense.
    #[error("selector {part:?}: expected key, !key, key=value, key!=value, key in (a,b) or key notin (a,b)")]
    Syntax {
        /// The part between two commas.
        part: String,
    },
}

/// `LabelSelector` as the API writes it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSelector {
    match_labels: Option<BTreeMap<Box<str>, Box<str>>>,
    match_expressions: Option<Vec<RawRequirement>>,
}

#[derive(Deserialize)]
struct RawRequirement {
    key: Box<str>,
    operator: Operator,
    values: Option<Vec<Box<str>>>,
}

// === impl Labels ===

impl Labels {
    /// Keys and values, sorted by key.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_ref(), value.as_ref()))
    }

    /// Whether there is no label.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value of the label `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        let index = self
            .0
            .binary_search_by(|(candidate, _)| candidate.as_ref().cmp(key))
            .ok()?;
        Some(&self.0[index].1)
    }
}

impl<K: Into<Box<str>>, V: Into<Box<str>>> FromIterator<(K, V)> for Labels {
    /// The last value of a repeated key counts, as in JSON.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Self {
        let map: BTreeMap<Box<str>, Box<str>> = pairs
            .into_iter()
            .map(|(key, value)| (key.into(), value.into()))
            .collect();
        Self(map.into_iter().collect())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(BTreeMap::<Box<str>, Box<str>>::deserialize(deserializer)?
            .into_iter()
            .collect())
    }
}

impl LabelLookup for Labels {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key)
    }
}

impl LabelLookup for BTreeMap<String, String> {
    fn label(&self, key: &str) -> Option<&str> {
        self.get(key).map(String::as_str)
    }
}

// === impl Selector ===

impl Selector {
    /// A selector of these requirements; their order does not matter.
    pub fn new(requirements: impl IntoIterator<Item = Requirement>) -> Self {
        let sorted: BTreeSet<Requirement> = requirements.into_iter().collect();
        Self(sorted.into_iter().collect())
    }

    /// Whether `labels` satisfy every requirement.
    pub fn matches(&self, labels: &(impl LabelLookup + ?Sized)) -> bool {
        self.0.iter().all(|requirement| requirement.matches(labels))
    }

    /// Whether there is no requirement, so that everything matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The requirements, sorted by key.
    #[must_use]
    pub fn requirements(&self) -> &[Requirement] {
        &self.0
    }

    /// This selector with `more` requirements.
    #[must_use]
    pub fn and(self, more: impl IntoIterator<Item = Requirement>) -> Self {
        Self::new(self.0.into_iter().chain(more))
    }
}

impl TryFrom<RawSelector> for Selector {
    type Error = SelectorError;

    fn try_from(raw: RawSelector) -> Result<Self, SelectorError> {
        let labels = raw.match_labels.into_iter().flatten();
        let equalities = labels.map(|(key, value)| Requirement::new(key, Operator::In, [value]));
        let expressions = raw.match_expressions.into_iter().flatten();
        let expressions =
            expressions.map(|raw| Requirement::new(raw.key, raw.operator, raw.values.into_iter().flatten()));
        Ok(Self::new(
            equalities.chain(expressions).collect::<Result<Vec<_>, _>>()?,
        ))
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let requirements: Result<Vec<_>, _> = split_outside_parentheses(text).map(str::parse).collect();
        requirements.map(Self::new)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, requirement) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "," };
            write!(f, "{separator}{requirement}")?;
        }
        Ok(())
    }
}

// === impl Requirement ===

impl Requirement {
    /// The condition `operator` with `values` on the label `key`.
    ///
    /// # Errors
    /// When the operator needs values and there are none, or the other way round.
    pub fn new<V: Into<Box<str>>>(
        key: impl Into<Box<str>>,
        operator: Operator,
        values: impl IntoIterator<Item = V>,
    ) -> Result<Self, SelectorError> {
        let key = key.into();
        let values: BTreeSet<Box<str>> = values.into_iter().map(Into::into).collect();
        match (operator, values.is_empty()) {
            (Operator::In | Operator::NotIn, true) => Err(SelectorError::ValuesMissing {
                key: key.into(),
                operator,
            }),
            (Operator::Exists | Operator::DoesNotExist, false) => Err(SelectorError::ValuesUnexpected {
                key: key.into(),
                operator,
            }),
            _ => Ok(Self {
                key,
                operator,
                values: values.into_iter().collect(),
            }),
        }
    }

    /// The label that the requirement looks at.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// How it compares.
    #[must_use]
    pub fn operator(&self) -> Operator {
        self.operator
    }

    /// What it compares with, sorted.
    #[must_use]
    pub fn values(&self) -> &[Box<str>] {
        &self.values
    }

    /// Whether `labels` satisfy the requirement.
    pub fn matches(&self, labels: &(impl LabelLookup + ?Sized)) -> bool {
        self.accepts(labels.label(&self.key))
    }

    /// Whether the requirement holds for a label with this value (`None`: absent).
    #[must_use]
    pub fn accepts(&self, value: Option<&str>) -> bool {
        match (self.operator, value) {
            (Operator::Exists, value) => value.is_some(),
            (Operator::DoesNotExist, value) => value.is_none(),
            (Operator::In, value) => value.is_some_and(|value| self.has_value(value)),
            (Operator::NotIn, value) => !value.is_some_and(|value| self.has_value(value)),
        }
    }

    fn has_value(&self, value: &str) -> bool {
        self.values
            .binary_search_by(|candidate| candidate.as_ref().cmp(value))
            .is_ok()
    }
}

impl FromStr for Requirement {
    type Err = SelectorError;

    fn from_str(part: &str) -> Result<Self, SelectorError> {
        let (key, operator, values) =
            parse_requirement(part.trim()).ok_or_else(|| SelectorError::Syntax {
                part: part.to_owned(),
            })?;
        Self::new(key, operator, values)
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match (self.operator, self.values.as_ref()) {
            (Operator::Exists, _) => write!(f, "{key}"),
            (Operator::DoesNotExist, _) => write!(f, "!{key}"),
            (Operator::In, [value]) => write!(f, "{key}={value}"),
            (Operator::NotIn, [value]) => write!(f, "{key}!={value}"),
            (Operator::In, values) => write!(f, "{key} in ({})", values.join(",")),
            (Operator::NotIn, values) => write!(f, "{key} notin ({})", values.join(",")),
        }
    }
}

/// Key, operator and values of one part of the string form.
fn parse_requirement(part: &str) -> Option<(&str, Operator, Vec<&str>)> {
    if let Some(key) = part.strip_prefix('!') {
        return Some((label_key(key)?, Operator::DoesNotExist, vec![]));
    }
    if let Some((head, values)) = part.strip_suffix(')').and_then(|part| part.split_once('(')) {
        let (key, word) = head.trim_end().rsplit_once(char::is_whitespace)?;
        let operator = match word {
            "in" => Operator::In,
            "notin" => Operator::NotIn,
            _ => return None,
        };
        let values: Option<Vec<_>> = values.split(',').map(label_value).collect();
        return Some((label_key(key)?, operator, values?));
    }
    for (sign, operator) in [("!=", Operator::NotIn), ("==", Operator::In), ("=", Operator::In)] {
        if let Some((key, value)) = part.split_once(sign) {
            return Some((label_key(key)?, operator, vec![label_value(value)?]));
        }
    }
    Some((label_key(part)?, Operator::Exists, vec![]))
}

/// `text` without surrounding space, if it can be a label's key.
fn label_key(text: &str) -> Option<&str> {
    label_value(text).filter(|key| !key.is_empty())
}

/// `text` without surrounding space, if it has only characters of label keys and values.
fn label_value(text: &str) -> Option<&str> {
    let text = text.trim();
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    text.chars().all(plain).then_some(text)
}

/// The parts of a selector between its commas, leaving value lists whole.
fn split_outside_parentheses(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0i32;
    text.split(move |c: char| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn mk_labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().copied().collect()
    }

    fn mk_selector(json: serde_json::Value) -> Selector {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn labels_find_every_key_and_no_other() {
        let labels: Labels = serde_json::from_value(json!({"b": "2", "a": "1", "c": ""})).unwrap();
        assert_eq!(
            ["a", "b", "c", "d"].map(|key| labels.get(key)),
            [Some("1"), Some("2"), Some(""), None]
        );
        assert_eq!(labels.iter().map(|(key, _)| key).collect::<String>(), "abc");
    }

    #[test]
    fn operators_decide_as_the_api_documents() {
        let labels = mk_labels(&[("a", "1"), ("empty", "")]);
        for (expression, expected) in [
            (json!({"key": "a", "operator": "In", "values": ["0", "1"]}), true),
            (json!({"key": "a", "operator": "In", "values": ["2"]}), false),
            (json!({"key": "x", "operator": "In", "values": ["1"]}), false),
            (json!({"key": "a", "operator": "NotIn", "values": ["1"]}), false),
            (json!({"key": "a", "operator": "NotIn", "values": ["2"]}), true),
            (json!({"key": "x", "operator": "NotIn", "values": ["1"]}), true),
            (json!({"key": "a", "operator": "Exists"}), true),
            (json!({"key": "empty", "operator": "Exists", "values": []}), true),
            (json!({"key": "x", "operator": "Exists"}), false),
            (json!({"key": "a", "operator": "DoesNotExist"}), false),
            (json!({"key": "x", "operator": "DoesNotExist"}), true),
        ] {
            let selector = mk_selector(json!({"matchExpressions": [expression]}));
            assert_eq!(selector.matches(&labels), expected, "{expression}");
            let owned: BTreeMap<String, String> = labels
                .iter()
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect();
            assert_eq!(selector.matches(&owned), expected, "{expression}, as a map");
        }
    }

    #[test]
    fn every_requirement_must_hold() {
        let selector = mk_selector(
            json!({"matchLabels": {"a": "1"}, "matchExpressions": [{"key": "b", "operator": "Exists"}]}),
        );
        assert!(selector.matches(&mk_labels(&[("a", "1"), ("b", "")])));
        assert!(!selector.matches(&mk_labels(&[("a", "1")])));
        assert!(!selector.matches(&mk_labels(&[("b", "")])));
        assert!(
            mk_selector(json!({})).matches(&mk_labels(&[])),
            "no requirement matches everything"
        );
    }

    #[test]
    fn a_selector_with_the_wrong_number_of_values_is_refused() {
        for (expression, message) in [
            (
                json!({"key": "a", "operator": "In"}),
                "operator In needs at least one value",
            ),
            (
                json!({"key": "a", "operator": "NotIn", "values": []}),
                "operator NotIn needs at least one value",
            ),
            (
                json!({"key": "a", "operator": "Exists", "values": ["x"]}),
                "operator Exists takes no values",
            ),
            (
                json!({"key": "a", "operator": "Like", "values": ["x"]}),
                "unknown variant `Like`",
            ),
        ] {
            let error =
                serde_json::from_value::<Selector>(json!({"matchExpressions": [expression]})).unwrap_err();
            assert!(error.to_string().contains(message), "{error}");
        }
    }

    #[test]
    fn the_string_form_reads_as_kubectl_reads_it() {
        for (text, printed) in [
            ("", ""),
            (" ", ""),
            ("a=b", "a=b"),
            ("a==b", "a=b"),
            ("a = b , c != d", "a=b,c!=d"),
            ("a=", "a="),
            ("e in (x,y)", "e in (x,y)"),
            ("e in ( y , x )", "e in (x,y)"),
            ("e in (x)", "e=x"),
            ("e notin (x,y),a=b", "a=b,e notin (x,y)"),
            ("!f,example.com/gpu", "example.com/gpu,!f"),
            ("in in (in)", "in=in"),
        ] {
            let selector: Selector = text.parse().unwrap();
            assert_eq!(selector.to_string(), printed, "{text:?}");
            assert_eq!(printed.parse::<Selector>().unwrap(), selector, "{text:?}");
        }
    }

    #[test]
    fn a_broken_string_form_is_refused_with_the_broken_part() {
        for (text, part) in [
            (",", ""),
            ("a=b,", ""),
            ("a=b,=c", "=c"),
            ("a=b c", "a=b c"),
            ("a in x", "a in x"),
            ("a in (x", "a in (x"),
            ("a like (x)", "a like (x)"),
            ("in (x)", "in (x)"),
            ("!", "!"),
            ("a>1", "a>1"),
        ] {
            let error = text.parse::<Selector>().unwrap_err();
            assert_eq!(
                error,
                SelectorError::Syntax {
                    part: part.to_owned()
                },
                "{text:?}"
            );
        }
    }

    fn any_requirement() -> impl Strategy<Value = Requirement> {
        let operator = proptest::sample::select(vec![
            Operator::In,
            Operator::NotIn,
            Operator::Exists,
            Operator::DoesNotExist,
        ]);
        ("[a-c]", operator, proptest::collection::vec("[x-z]?", 1..3)).prop_map(|(key, operator, values)| {
            let takes_values = matches!(operator, Operator::In | Operator::NotIn);
            Requirement::new(key, operator, values.into_iter().filter(|_| takes_values)).unwrap()
        })
    }

    proptest! {
        #[test]
        fn printing_and_reading_gives_the_same_selector(requirements in proptest::collection::vec(any_requirement(), 0..4)) {
            let selector = Selector::new(requirements);
            prop_assert_eq!(selector.to_string().parse::<Selector>().unwrap(), selector);
        }
    }
}
