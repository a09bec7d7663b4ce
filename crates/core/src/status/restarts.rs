//! Pods whose lower pod is made again: whether that may be, and restart counts that go on.

use std::time::Duration;

use serde_json::{Map, Value, json};

use super::CONTAINER_STATUSES;
use crate::names;

/// The shortest `activeDeadlineSeconds` that an API server accepts in a new pod.
const SHORTEST_DEADLINE: i64 = 1;

/// Restarts that the containers of an upper pod had in earlier lower pods. They are kept in the annotation
/// [`names::RESTARTS`] of the lower pod, so that no process has to remember them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restarts(Box<[(Box<str>, i64)]>);

// === impl Restarts ===

impl Restarts {
    /// Those of the annotation `text`; a text that says nothing means none.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let counts: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
        let counts = counts
            .into_iter()
            .filter_map(|(name, count)| Some((Box::from(name), count.as_i64()?)));
        Self(counts.collect())
    }

    /// The annotation for the next lower pod of an upper pod with `upper_status`; `None` when nothing ever ran.
    /// A container that ran is about to start once more, so it counts one more than now.
    #[must_use]
    pub fn annotation(upper_status: &Value) -> Option<String> {
        let statuses = CONTAINER_STATUSES
            .iter()
            .filter_map(|key| upper_status[key].as_array())
            .flatten();
        let counts = statuses
            .filter(|container| has_run(container))
            .filter_map(|container| {
                let count = container["restartCount"]
                    .as_i64()
                    .unwrap_or_default()
                    .saturating_add(1);
                Some((container["name"].as_str()?.to_owned(), json!(count)))
            });
        let counts: Map<String, Value> = counts.collect();
        (!counts.is_empty()).then(|| Value::Object(counts).to_string())
    }

    /// Whether there are none: the lower pod is the first of its upper pod.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those of the container `name`.
    #[must_use]
    pub fn of(&self, name: &str) -> i64 {
        self.0
            .iter()
            .find(|(container, _)| **container == *name)
            .map_or(0, |(_, count)| *count)
    }
}

/// Lets `lower`, a translated pod that is about to be created, go on where an earlier lower pod of the same upper pod
/// ended: with its restarts, and with what is left of `activeDeadlineSeconds` after the upper pod `ran` since its
/// `status.startTime`.
pub fn go_on(lower: &mut Value, upper_status: &Value, ran: Duration) {
    if let Some(restarts) = Restarts::annotation(upper_status) {
        lower["metadata"]["annotations"][names::RESTARTS] = json!(restarts);
    }
    if let Some(deadline) = lower["spec"]["activeDeadlineSeconds"].as_i64() {
        let ran = i64::try_from(ran.as_secs()).unwrap_or(i64::MAX);
        lower["spec"]["activeDeadlineSeconds"] = json!(deadline.saturating_sub(ran).max(SHORTEST_DEADLINE));
    }
}

fn has_run(container: &Value) -> bool {
    let state = |state: &str, kind: &str| container[state].get(kind).is_some();
    state("state", "running") || state("state", "terminated") || state("lastState", "terminated")
}

/// Whether a pod with this spec and upper status may get a new lower pod. Not if a container would leave an end
/// that its restart policy makes final: the API server refuses such a status (422), and a program that must run
/// once would run twice.
#[must_use]
pub fn may_start_again(spec: &Value, upper_status: &Value) -> bool {
    let policy = spec["restartPolicy"].as_str().unwrap_or("Always");
    if policy == "Always" {
        return true;
    }
    let statuses = ["initContainerStatuses", "containerStatuses"];
    let mut statuses = statuses
        .iter()
        .filter_map(|key| upper_status[key].as_array())
        .flatten();
    !statuses.any(|container| !is_sidecar(spec, &container["name"]) && is_final(&container["state"], policy))
}

/// Whether a container in `state` must not start again.
fn is_final(state: &Value, policy: &str) -> bool {
    let ended = state.get("terminated");
    match policy {
        "Never" => ended.is_some() || state.get("running").is_some(),
        _ => ended.is_some_and(|ended| ended["exitCode"] == 0),
    }
}

/// Sidecars are init containers that always restart.
fn is_sidecar(spec: &Value, name: &Value) -> bool {
    let mut init = spec["initContainers"].as_array().into_iter().flatten();
    init.any(|container| container["name"] == *name && container["restartPolicy"] == "Always")
}
