//! Readiness gates: conditions that upper controllers set, and that count for the readiness of the upper pod.

use serde_json::Value;

/// One readiness gate of the upper pod, as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Type of the condition.
    pub condition: Box<str>,
    /// Status of the condition, if there is one: `True`, `False` or `Unknown`.
    pub status: Option<Box<str>>,
    /// When the condition changed last (RFC 3339), if there is one that says so.
    pub since: Option<Box<str>>,
}

// === impl Gate ===

impl Gate {
    /// Whether the gate is open.
    #[must_use]
    pub fn is_met(&self) -> bool {
        self.status.as_deref() == Some("True")
    }
}

/// The readiness gates of the upper pod `upper`, an object with `spec` and `status`.
#[must_use]
pub fn gates(upper: &Value) -> Vec<Gate> {
    let gates = upper["spec"]["readinessGates"].as_array().into_iter().flatten();
    gates
        .filter_map(|gate| gate["conditionType"].as_str())
        .map(|name| gate(name, &upper["status"]))
        .collect()
}

fn gate(name: &str, status: &Value) -> Gate {
    let mut conditions = status["conditions"].as_array().into_iter().flatten();
    let condition = conditions.find(|condition| condition["type"] == name);
    let text = |key: &str| {
        condition
            .and_then(|condition| condition[key].as_str())
            .map(Box::from)
    };
    Gate {
        condition: Box::from(name),
        status: text("status"),
        since: text("lastTransitionTime"),
    }
}
