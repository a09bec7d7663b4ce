//! Node affinity and node selectors, evaluated as kube-scheduler does.
//!
//! A pod's rule is compiled once and then asked about any number of nodes without allocating. The rules are
//! those of `component-helpers/scheduling/corev1/nodeaffinity` in Kubernetes 1.36: terms are ORed, what is
//! inside a term is ANDed, a term without requirements matches nothing, and a requirement that passes API
//! validation but cannot be evaluated (a bound that is no integer) makes its term match nothing.

use serde_json::{Map, Value};

use crate::labels::LabelLookup;
use crate::read::{Under, list, member, object, present, string, text};

/// The only node field that a requirement of `matchFields` can name.
pub const NAME_FIELD: &str = "metadata.name";
const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
/// Longest label value that Kubernetes accepts (apimachinery `LabelValueMaxLength`).
const LABEL_VALUE_MAX: usize = 63;

/// A label that a node must have: key and value.
type Label = (Box<str>, Box<str>);

/// Where a constraint cannot be read, and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct AffinityError {
    /// Path of the field, as `affinity.nodeAffinity.….matchExpressions[0].operator`.
    pub path: String,
    /// What is wrong with it, and what would be right.
    pub problem: String,
}

/// `spec.nodeSelector` and the required node affinity of a pod, compiled.
#[derive(Clone, Debug, Default, PartialEq, Hash)]
pub struct RequiredNodeAffinity {
    selector: Vec<Label>,
    /// `None` is no condition; an empty list matches no node.
    terms: Option<Vec<Term>>,
}

/// Preferred node affinity of a pod, compiled.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PreferredNodeAffinity {
    terms: Vec<(i64, Term)>,
}

/// One node selector term: every requirement must hold, and there must be one.
#[derive(Clone, Debug, Default, PartialEq, Hash)]
pub struct Term {
    expressions: Vec<Requirement>,
    fields: Vec<Requirement>,
}

/// One requirement on a label or a field.
#[derive(Clone, Debug, PartialEq, Hash)]
pub struct Requirement {
    key: Box<str>,
    test: Test,
}

/// What a requirement asks of its value.
#[derive(Clone, Debug, PartialEq, Hash)]
enum Test {
    In(Vec<Box<str>>),
    NotIn(Vec<Box<str>>),
    Exists,
    DoesNotExist,
    Gt(i64),
    Lt(i64),
    /// Valid for the API server, but kube-scheduler cannot evaluate it: its term matches nothing.
    Never,
}

// === impl RequiredNodeAffinity ===

impl RequiredNodeAffinity {
    /// Compiles the rule of a pod spec.
    ///
    /// # Errors
    /// When a field of it has the wrong type or an unknown operator.
    pub fn of_spec(spec: &Value) -> Result<Self, AffinityError> {
        Self::parse(spec.get("nodeSelector"), spec.get("affinity"))
    }

    /// Compiles the rule out of a pod's `nodeSelector` and `affinity`.
    ///
    /// # Errors
    /// When a field of them has the wrong type or an unknown operator.
    pub fn parse(node_selector: Option<&Value>, affinity: Option<&Value>) -> Result<Self, AffinityError> {
        let selector = present(node_selector)
            .map(read_selector)
            .transpose()
            .under("nodeSelector")?;
        let terms = match node_affinity(affinity)? {
            None => None,
            Some(node) => member(node, REQUIRED, |required| {
                list(object(required)?, "nodeSelectorTerms", Term::read)
            })
            .under("affinity.nodeAffinity")?,
        };
        let selector = selector.unwrap_or_default();
        Ok(Self { selector, terms })
    }

    /// Whether a node of this name with these labels satisfies the rule.
    #[must_use]
    pub fn matches(&self, name: &str, labels: &(impl LabelLookup + ?Sized)) -> bool {
        self.selector
            .iter()
            .all(|(key, value)| labels.label(key) == Some(value))
            && self
                .terms
                .as_ref()
                .is_none_or(|terms| terms.iter().any(|term| term.matches(name, labels)))
    }
}

// === impl PreferredNodeAffinity ===

impl PreferredNodeAffinity {
    /// Compiles the preferences out of a pod's `affinity`. Those that can never count (weight 0, no
    /// requirement) are left out.
    ///
    /// # Errors
    /// When a field of them has the wrong type or an unknown operator.
    pub fn parse(affinity: Option<&Value>) -> Result<Self, AffinityError> {
        let Some(node) = node_affinity(affinity)? else {
            return Ok(Self::default());
        };
        let read = |preference: &Value| {
            let preference = object(preference)?;
            let weight = preference
                .get("weight")
                .and_then(Value::as_i64)
                .unwrap_or_default();
            Ok((
                weight,
                member(preference, "preference", Term::read)?.unwrap_or_default(),
            ))
        };
        let mut terms = list(node, PREFERRED, read).under("affinity.nodeAffinity")?;
        terms.retain(|(weight, term)| *weight != 0 && !term.is_empty());
        Ok(Self { terms })
    }

    /// Sum of the weights of the preferences that the node satisfies.
    #[must_use]
    pub fn score(&self, name: &str, labels: &(impl LabelLookup + ?Sized)) -> i64 {
        self.terms
            .iter()
            .filter(|(_, term)| term.matches(name, labels))
            .map(|(weight, _)| weight)
            .sum()
    }
}

// === impl Term ===

impl Term {
    /// Compiles one term; `path` is where it stands, for errors.
    ///
    /// # Errors
    /// When a field of it has the wrong type or an unknown operator.
    pub fn parse(term: &Value, path: &str) -> Result<Self, AffinityError> {
        Self::read(term).under(path)
    }

    fn read(term: &Value) -> Result<Self, AffinityError> {
        let term = object(term)?;
        Ok(Self {
            expressions: list(term, "matchExpressions", Requirement::read)?,
            fields: list(term, "matchFields", Requirement::read_field)?,
        })
    }

    /// Whether there is no requirement in it, so that it matches nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.expressions.is_empty() && self.fields.is_empty()
    }

    /// Whether a node of this name with these labels satisfies every requirement.
    #[must_use]
    pub fn matches(&self, name: &str, labels: &(impl LabelLookup + ?Sized)) -> bool {
        !self.is_empty()
            && self
                .expressions
                .iter()
                .all(|requirement| requirement.holds(labels.label(&requirement.key)))
            && self
                .fields
                .iter()
                .all(|requirement| requirement.holds(Some(name)))
    }
}

// === impl Requirement ===

impl Requirement {
    /// Compiles a requirement on a label. Paths in errors begin at the requirement.
    ///
    /// # Errors
    /// When a field of it has the wrong type, the operator is unknown, or the number of values is not the
    /// operator's.
    pub fn read(requirement: &Value) -> Result<Self, AffinityError> {
        let map = object(requirement)?;
        let (key, operator) = (text(map, "key")?, text(map, "operator")?);
        let values = list(map, "values", string)?;
        let wrong_count = |problem: &str| Err(AffinityError::new(problem).under("values"));
        let test = match operator {
            "In" | "NotIn" if values.is_empty() => {
                return wrong_count("In and NotIn need at least one value");
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                return wrong_count("Exists and DoesNotExist take no values");
            }
            "Gt" | "Lt" if values.len() != 1 => return wrong_count("Gt and Lt need exactly one value"),
            "In" | "NotIn" | "Gt" | "Lt" if !values.iter().all(|value| is_label_value(value)) => Test::Never,
            "In" => Test::In(values.into_iter().map(Box::from).collect()),
            "NotIn" => Test::NotIn(values.into_iter().map(Box::from).collect()),
            "Exists" => Test::Exists,
            "DoesNotExist" => Test::DoesNotExist,
            "Gt" => values[0].parse().map_or(Test::Never, Test::Gt),
            "Lt" => values[0].parse().map_or(Test::Never, Test::Lt),
            other => {
                let known = "In, NotIn, Exists, DoesNotExist, Gt, Lt";
                let problem = format!("unknown operator {other:?}; known are {known}");
                return Err(AffinityError::new(&problem).under("operator"));
            }
        };
        Ok(Self {
            key: key.into(),
            test,
        })
    }

    /// Compiles a requirement on a field: only `metadata.name`, In or NotIn, one value.
    ///
    /// # Errors
    /// When it is anything else, which the API server refuses too.
    fn read_field(requirement: &Value) -> Result<Self, AffinityError> {
        let map = object(requirement)?;
        let key = text(map, "key")?;
        if key != NAME_FIELD {
            return Err(AffinityError::new("the only field is metadata.name").under("key"));
        }
        let [value] = list(map, "values", string)?[..] else {
            return Err(AffinityError::new("a field requirement needs exactly one value").under("values"));
        };
        let test = match text(map, "operator")? {
            "In" => Test::In(vec![value.into()]),
            "NotIn" => Test::NotIn(vec![value.into()]),
            other => {
                let problem = format!("unknown operator {other:?}; known for fields are In and NotIn");
                return Err(AffinityError::new(&problem).under("operator"));
            }
        };
        Ok(Self {
            key: key.into(),
            test,
        })
    }

    /// The label or field that it asks about.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Whether it holds on a node where the label or field has this value, or is missing.
    #[must_use]
    pub fn holds(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|value| value.parse::<i64>().ok());
        match &self.test {
            Test::In(values) => value.is_some_and(|value| values.iter().any(|one| **one == *value)),
            Test::NotIn(values) => value.is_none_or(|value| values.iter().all(|one| **one != *value)),
            Test::Exists => value.is_some(),
            Test::DoesNotExist => value.is_none(),
            Test::Gt(bound) => number().is_some_and(|number| number > *bound),
            Test::Lt(bound) => number().is_some_and(|number| number < *bound),
            Test::Never => false,
        }
    }
}

fn node_affinity(affinity: Option<&Value>) -> Result<Option<&Map<String, Value>>, AffinityError> {
    let Some(affinity) = present(affinity) else {
        return Ok(None);
    };
    member(object(affinity).under("affinity")?, "nodeAffinity", object).under("affinity")
}

fn read_selector(map: &Value) -> Result<Vec<Label>, AffinityError> {
    let label = |(key, value): (&String, &Value)| {
        let value = string(value).map_err(|error| error.under(&format!("[{key}]")))?;
        Ok((Box::from(key.as_str()), value.into()))
    };
    object(map)?.iter().map(label).collect()
}

/// Whether Kubernetes accepts the text as a label's value.
pub(crate) fn is_label_value(text: &str) -> bool {
    let ends = |byte: Option<&u8>| byte.is_none_or(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    bytes.len() <= LABEL_VALUE_MAX
        && ends(bytes.first())
        && ends(bytes.last())
        && bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(byte))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::json;

    use super::*;

    fn mk_labels(labels: &[(&str, &str)]) -> BTreeMap<String, String> {
        labels
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn mk_terms(terms: &Value) -> Value {
        json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
    }

    fn verdict(spec: &Value) -> bool {
        let labels = mk_labels(&[("zone", "a"), ("size", "5"), ("empty", "")]);
        RequiredNodeAffinity::of_spec(spec)
            .expect("a readable spec")
            .matches("node-1", &labels)
    }

    #[test]
    fn evaluates_each_operator_as_kube_scheduler_does() {
        for (operator, key, values, holds) in [
            ("In", "zone", json!(["a", "b"]), true),
            ("In", "zone", json!(["b"]), false),
            ("In", "absent", json!(["a"]), false),
            ("In", "empty", json!([""]), true),
            ("In", "absent", json!([""]), false),
            ("NotIn", "zone", json!(["b"]), true),
            ("NotIn", "zone", json!(["b", "a"]), false),
            ("NotIn", "absent", json!(["a"]), true),
            ("Exists", "zone", json!(null), true),
            ("Exists", "empty", json!([]), true),
            ("Exists", "absent", json!([]), false),
            ("DoesNotExist", "absent", json!([]), true),
            ("DoesNotExist", "zone", json!([]), false),
            ("Gt", "size", json!(["4"]), true),
            ("Gt", "size", json!(["5"]), false),
            ("Gt", "absent", json!(["4"]), false),
            ("Gt", "zone", json!(["4"]), false),
            ("Lt", "size", json!(["6"]), true),
            ("Lt", "size", json!(["5"]), false),
            ("Lt", "size", json!(["9223372036854775808"]), false),
            ("Gt", "size", json!(["x"]), false),
            ("Gt", "size", json!(["-1"]), false),
            ("NotIn", "zone", json!(["not a label value"]), false),
            ("In", "zone", json!(["a", "-"]), false),
        ] {
            let term = json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
            assert_eq!(
                verdict(&mk_terms(&json!([term]))),
                holds,
                "{operator} {key} {values}"
            );
        }
    }

    #[test]
    fn ors_terms_and_ands_requirements() {
        let zone = |zone: &str| json!({"key": "zone", "operator": "In", "values": [zone]});
        let name =
            |operator: &str, name: &str| json!({"key": NAME_FIELD, "operator": operator, "values": [name]});
        for (terms, holds) in [
            (json!(null), false),
            (json!([]), false),
            (json!([{}]), false),
            (json!([{"matchExpressions": [], "matchFields": []}]), false),
            (json!([{}, {"matchExpressions": [zone("a")]}]), true),
            (
                json!([{"matchExpressions": [zone("b")]}, {"matchExpressions": [zone("a")]}]),
                true,
            ),
            (json!([{"matchExpressions": [zone("a"), zone("b")]}]), false),
            (json!([{"matchFields": [name("In", "node-1")]}]), true),
            (json!([{"matchFields": [name("NotIn", "node-1")]}]), false),
            (
                json!([{"matchFields": [name("In", "node-1")], "matchExpressions": [zone("b")]}]),
                false,
            ),
            (
                json!([{"matchExpressions": [{"key": "size", "operator": "Gt", "values": ["x"]}]},
                        {"matchExpressions": [zone("a")]}]),
                true,
            ),
        ] {
            assert_eq!(verdict(&mk_terms(&terms)), holds, "{terms}");
        }
    }

    #[test]
    fn node_selector_and_affinity_must_both_hold() {
        let mut spec = mk_terms(&json!([{"matchExpressions": [{"key": "zone", "operator": "Exists"}]}]));
        for (selector, holds) in [
            (json!(null), true),
            (json!({}), true),
            (json!({"zone": "a", "empty": ""}), true),
            (json!({"zone": "b"}), false),
            (json!({"absent": ""}), false),
        ] {
            spec["nodeSelector"] = selector.clone();
            assert_eq!(verdict(&spec), holds, "{selector}");
        }
        assert!(
            verdict(&json!({"affinity": {"nodeAffinity": {}}})),
            "no requirement is no condition"
        );
        assert!(verdict(&json!({"affinity": null, "nodeSelector": null})));
    }

    #[test]
    fn adds_up_the_weights_of_preferences_that_hold() {
        let zone = |weight: i64, zone: &str| {
            json!({"weight": weight, "preference":
                {"matchExpressions": [{"key": "zone", "operator": "In", "values": [zone]}]}})
        };
        let affinity = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
            [zone(3, "a"), zone(5, "b"), zone(7, "a"), {"weight": 100, "preference": {}}]}});
        let preferred = PreferredNodeAffinity::parse(Some(&affinity)).expect("a readable affinity");
        assert_eq!(preferred.score("n", &mk_labels(&[("zone", "a")])), 10);
        assert_eq!(preferred.score("n", &mk_labels(&[])), 0);
    }

    #[test]
    fn errors_name_the_path() {
        const TERMS: &str =
            "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms";
        for (spec, path) in [
            (json!({"nodeSelector": []}), "nodeSelector".to_owned()),
            (json!({"nodeSelector": {"a": 1}}), "nodeSelector[a]".to_owned()),
            (json!({"affinity": 1}), "affinity".to_owned()),
            (
                json!({"affinity": {"nodeAffinity": []}}),
                "affinity.nodeAffinity".to_owned(),
            ),
            (mk_terms(&json!({})), TERMS.to_owned()),
            (mk_terms(&json!([1])), format!("{TERMS}[0]")),
            (
                mk_terms(&json!([{}, {"matchExpressions": [{"operator": "In"}]}])),
                format!("{TERMS}[1].matchExpressions[0].key"),
            ),
            (
                mk_terms(&json!([{"matchExpressions": [{"key": "a", "operator": "Near"}]}])),
                format!("{TERMS}[0].matchExpressions[0].operator"),
            ),
            (
                mk_terms(&json!([{"matchExpressions": [{"key": "a", "operator": "In"}]}])),
                format!("{TERMS}[0].matchExpressions[0].values"),
            ),
            (
                mk_terms(
                    &json!([{"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["x"]}]}]),
                ),
                format!("{TERMS}[0].matchExpressions[0].values"),
            ),
            (
                mk_terms(
                    &json!([{"matchExpressions": [{"key": "a", "operator": "In", "values": ["x", 2]}]}]),
                ),
                format!("{TERMS}[0].matchExpressions[0].values[1]"),
            ),
            (
                mk_terms(&json!([{"matchFields": [{"key": "spec.x", "operator": "In", "values": ["x"]}]}])),
                format!("{TERMS}[0].matchFields[0].key"),
            ),
            (
                mk_terms(
                    &json!([{"matchFields": [{"key": NAME_FIELD, "operator": "Exists", "values": ["x"]}]}]),
                ),
                format!("{TERMS}[0].matchFields[0].operator"),
            ),
        ] {
            let error = RequiredNodeAffinity::of_spec(&spec).expect_err(&format!("{spec}"));
            assert_eq!(error.path, path, "{error}");
        }
    }
}
