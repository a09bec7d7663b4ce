//! The conditions that a kubelet sets, in upper terms.

use serde_json::{Map, Value, json};

use super::Gate;

/// Conditions that are the lower kubelet's to say. All others of the lower pod stay below: above, the same types
/// may be in use by upper controllers.
const KUBELETS: [&str; 7] = [
    "AllContainersRestarting",
    "ContainersReady",
    "Initialized",
    "PodReadyToStartContainers",
    "PodResizeInProgress",
    "PodResizePending",
    "Ready",
];

/// The conditions for the upper pod, without members that are null.
pub(super) fn translate(lower_status: &Value, gates: &[Gate], generation: i64) -> Vec<Value> {
    let lower = lower_status["conditions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_object);
    let ours = lower.filter(|condition| {
        KUBELETS
            .iter()
            .any(|kubelets| condition.get("type") == Some(&json!(kubelets)))
    });
    ours.map(|condition| {
        let mut condition: Map<_, _> = condition
            .clone()
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .collect();
        if condition.contains_key("observedGeneration") {
            condition.insert("observedGeneration".to_owned(), json!(generation));
        }
        if condition["type"] == "Ready" {
            apply_gates(&mut condition, gates);
        }
        Value::Object(condition)
    })
    .collect()
}

/// Ready is the lower Ready and all gates; the lower pod itself has no gates. With a gate shut, reason and message
/// are those that a kubelet gives.
fn apply_gates(ready: &mut Map<String, Value>, gates: &[Gate]) {
    if gates.is_empty() || ready["status"] != "True" {
        return;
    }
    let shut: Vec<_> = gates.iter().filter(|gate| !gate.is_met()).collect();
    if !shut.is_empty() {
        ready.insert("status".to_owned(), json!("False"));
        ready.insert("reason".to_owned(), json!("ReadinessGatesNotReady"));
        ready.insert("message".to_owned(), json!(shut_message(&shut)));
    }
    // There is no clock here, and none is needed: readiness last changed when its last part did. Kubernetes writes
    // times in UTC and whole seconds, so they compare as texts.
    let parts = if shut.is_empty() {
        gates.iter().collect()
    } else {
        shut
    };
    let own = ready
        .get("lastTransitionTime")
        .and_then(Value::as_str)
        .unwrap_or_default();
    if let Some(last) = parts
        .iter()
        .filter_map(|gate| gate.since.as_deref())
        .max()
        .filter(|since| *since > own)
    {
        let last = json!(last);
        ready.insert("lastTransitionTime".to_owned(), last);
    }
}

fn shut_message(shut: &[&Gate]) -> String {
    let sentences = shut.iter().map(|gate| match &gate.status {
        Some(status) => {
            format!(
                "the status of pod readiness gate \"{}\" is not \"True\", but {status}",
                gate.condition
            )
        }
        None => format!(
            "corresponding condition of pod readiness gate \"{}\" does not exist.",
            gate.condition
        ),
    });
    sentences.collect::<Vec<_>>().join(", ")
}
