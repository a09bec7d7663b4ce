//! Taints and tolerations, matched as Kubernetes 1.36 does.
//!
//! The rules are those of `Toleration.ToleratesTaint` in `k8s.io/api/core/v1`. The operators `Lt` and `Gt`
//! stand behind the feature gate `TaintTolerationComparisonOperators`, which is off by default up to 1.36;
//! with it off, such a toleration tolerates nothing, and neither does one with an unknown operator.

use serde::Deserialize;
use serde_json::Value;

/// What a taint does to pods that do not tolerate it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(from = "String")]
pub enum Effect {
    /// New pods are not placed on the node.
    NoSchedule,
    /// New pods are placed elsewhere if there is room.
    PreferNoSchedule,
    /// New pods are not placed on the node, and those that run there are evicted.
    NoExecute,
    /// An effect that Kubernetes 1.36 does not know; kube-scheduler passes over it.
    Unknown,
}

/// How a toleration compares its value with a taint's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(from = "String")]
pub enum Operator {
    /// The values must be equal; also what a missing operator means.
    #[default]
    Equal,
    /// Any value will do.
    Exists,
    /// Any other operator: tolerates nothing.
    Unknown,
}

/// A taint of a node.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Taint {
    /// The taint's key.
    pub key: Box<str>,
    /// The taint's value; often empty.
    #[serde(default, deserialize_with = "null_as_default")]
    pub value: Box<str>,
    /// What it does.
    pub effect: Effect,
}

/// A toleration of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Toleration {
    /// Key of the taints that it tolerates; empty for all keys.
    #[serde(default, deserialize_with = "null_as_default")]
    pub key: Box<str>,
    /// How the values are compared.
    #[serde(default, deserialize_with = "null_as_default")]
    pub operator: Operator,
    /// The value to compare with.
    #[serde(default, deserialize_with = "null_as_default")]
    pub value: Box<str>,
    /// The effect that it tolerates; `None` for all.
    #[serde(default, deserialize_with = "empty_as_none")]
    pub effect: Option<Effect>,
    /// For NoExecute: how long the pod stays, in seconds; `None` for ever.
    #[serde(default)]
    pub toleration_seconds: Option<i64>,
}

/// A list of taints or tolerations that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct TaintError {
    /// The list, with the index of the entry.
    pub path: String,
    /// What is wrong there.
    #[source]
    pub source: serde_json::Error,
}

// === impl Effect ===

impl Effect {
    /// Whether an untolerated taint of this effect keeps kube-scheduler from placing a pod.
    #[must_use]
    pub fn keeps_out(self) -> bool {
        matches!(self, Self::NoSchedule | Self::NoExecute)
    }
}

impl From<String> for Effect {
    fn from(text: String) -> Self {
        match text.as_str() {
            "NoSchedule" => Self::NoSchedule,
            "PreferNoSchedule" => Self::PreferNoSchedule,
            "NoExecute" => Self::NoExecute,
            _ => Self::Unknown,
        }
    }
}

// === impl Operator ===

impl From<String> for Operator {
    fn from(text: String) -> Self {
        match text.as_str() {
            "" | "Equal" => Self::Equal,
            "Exists" => Self::Exists,
            _ => Self::Unknown,
        }
    }
}

// === impl Taint ===

impl Taint {
    /// Reads `spec.taints` of a node; missing and `null` are empty.
    ///
    /// # Errors
    /// When an entry has the wrong type or lacks key or effect.
    pub fn parse_list(list: Option<&Value>) -> Result<Vec<Self>, TaintError> {
        parse_list(list, "taints")
    }
}

// === impl Toleration ===

impl Toleration {
    /// Reads `spec.tolerations` of a pod; missing and `null` are empty.
    ///
    /// # Errors
    /// When an entry has the wrong type.
    pub fn parse_list(list: Option<&Value>) -> Result<Vec<Self>, TaintError> {
        parse_list(list, "tolerations")
    }

    /// Whether a pod with this toleration bears the taint.
    #[must_use]
    pub fn tolerates(&self, taint: &Taint) -> bool {
        self.effect.is_none_or(|effect| effect == taint.effect)
            && (self.key.is_empty() || self.key == taint.key)
            && match self.operator {
                Operator::Equal => self.value == taint.value,
                Operator::Exists => true,
                Operator::Unknown => false,
            }
    }
}

/// The first taint with one of the wanted effects that none of the tolerations bears.
pub fn untolerated<'a>(
    taints: &'a [Taint],
    tolerations: &[Toleration],
    wanted: impl Fn(Effect) -> bool,
) -> Option<&'a Taint> {
    taints
        .iter()
        .filter(|taint| wanted(taint.effect))
        .find(|taint| !tolerations.iter().any(|toleration| toleration.tolerates(taint)))
}

fn parse_list<T: for<'de> Deserialize<'de>>(list: Option<&Value>, name: &str) -> Result<Vec<T>, TaintError> {
    let items = match list {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(items)) => items,
        Some(other) => {
            return Vec::deserialize(other).map_err(|source| TaintError {
                path: name.to_owned(),
                source,
            });
        }
    };
    let parse = |(index, item)| {
        T::deserialize(item).map_err(|source| TaintError {
            path: format!("{name}[{index}]"),
            source,
        })
    };
    items.iter().enumerate().map(parse).collect()
}

/// The API server reads `null` as the field's zero value.
fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// An empty effect is no effect: it stands for all of them.
fn empty_as_none<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Effect>, D::Error> {
    let text: Option<String> = Option::deserialize(deserializer)?;
    Ok(text.filter(|text| !text.is_empty()).map(Effect::from))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_taint(taint: Value) -> Taint {
        serde_json::from_value(taint).expect("a taint")
    }

    #[test]
    fn tolerates_what_kubernetes_tolerates() {
        let taint = mk_taint(json!({"key": "gpu", "value": "a", "effect": "NoSchedule"}));
        for (toleration, tolerated) in [
            (json!({"key": "gpu", "value": "a"}), true),
            (
                json!({"key": "gpu", "operator": "", "value": "a", "effect": ""}),
                true,
            ),
            (
                json!({"key": "gpu", "operator": null, "value": "a", "effect": null}),
                true,
            ),
            (json!({"key": "gpu", "operator": "Equal", "value": "a"}), true),
            (json!({"key": "gpu", "operator": "Equal", "value": "b"}), false),
            (json!({"key": "gpu"}), false),
            (json!({"key": "gpu", "operator": "Exists"}), true),
            (json!({"key": "cpu", "operator": "Exists"}), false),
            (json!({"operator": "Exists"}), true),
            (json!({"operator": "Exists", "effect": "NoExecute"}), false),
            (json!({"operator": "Exists", "effect": "NoSchedule"}), true),
            (json!({"operator": "Exists", "effect": "NoNonsense"}), false),
            (json!({"value": "a"}), true),
            (json!({"key": "gpu", "operator": "Lt", "value": "9"}), false),
            (json!({"key": "gpu", "operator": "Near", "value": "a"}), false),
            (
                json!({"key": "gpu", "operator": "Exists", "tolerationSeconds": 5, "new": true}),
                true,
            ),
        ] {
            let parsed: Toleration = serde_json::from_value(toleration.clone()).expect("a toleration");
            assert_eq!(parsed.tolerates(&taint), tolerated, "{toleration}");
        }
    }

    #[test]
    fn numeric_operators_stand_behind_a_gate_that_is_off() {
        let taint = mk_taint(json!({"key": "age", "value": "5", "effect": "NoSchedule"}));
        for operator in ["Lt", "Gt"] {
            for value in ["4", "5", "6"] {
                let toleration = json!({"key": "age", "operator": operator, "value": value});
                let toleration: Toleration = serde_json::from_value(toleration).expect("a toleration");
                assert!(!toleration.tolerates(&taint), "{operator} {value}");
            }
        }
    }

    #[test]
    fn finds_the_first_untolerated_taint_of_the_wanted_effects() {
        let taints = Taint::parse_list(Some(&json!([
            {"key": "soft", "effect": "PreferNoSchedule"},
            {"key": "future", "effect": "NoSomething"},
            {"key": "borne", "effect": "NoExecute"},
            {"key": "hard", "value": null, "effect": "NoSchedule"},
            {"key": "later", "effect": "NoSchedule"},
        ])))
        .expect("taints");
        let tolerations =
            Toleration::parse_list(Some(&json!([{"key": "borne", "operator": "Exists"}]))).expect("list");
        let first =
            |wanted: fn(Effect) -> bool| untolerated(&taints, &tolerations, wanted).map(|taint| &*taint.key);
        assert_eq!(first(Effect::keeps_out), Some("hard"));
        assert_eq!(first(|effect| effect == Effect::PreferNoSchedule), Some("soft"));
        assert_eq!(first(|effect| effect == Effect::NoExecute), None);
    }

    #[test]
    fn an_unreadable_list_is_named_with_its_entry() {
        for (list, path) in [
            (json!({}), "tolerations"),
            (json!([{}, {"key": 1}]), "tolerations[1]"),
            (json!([{"operator": {}}]), "tolerations[0]"),
        ] {
            let error = Toleration::parse_list(Some(&list)).expect_err(&format!("{list}"));
            assert_eq!(error.path, path, "{error}");
        }
        assert!(Toleration::parse_list(None).expect("nothing").is_empty());
        assert!(Taint::parse_list(Some(&Value::Null)).expect("nothing").is_empty());
    }
}
