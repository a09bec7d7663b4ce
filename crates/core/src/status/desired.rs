//! What the upper pod's status should say.

use serde_json::{Map, Value, json};

use super::{CONTAINER_STATUSES, Gate, Restarts, UPPERS, conditions};

/// Members that a lower node's address is replaced in.
const HOST_ADDRESSES: [&str; 2] = ["hostIP", "hostIPs"];
/// Exit code of a container whose end nobody saw, as a kubelet reports it: 128 + SIGKILL.
const UNSEEN_EXIT_CODE: i32 = 137;
/// A kubelet's own reason for such an end.
const UNSEEN_REASON: &str = "ContainerStatusUnknown";

/// Reason of an upper pod whose lower pod is gone and nobody saw it go.
const VANISHED: &str = "LowerPodVanished";

/// What of the upper pod matters for its status.
#[derive(Clone, Copy, Debug)]
pub struct Upper<'a> {
    /// `metadata.uid`.
    pub uid: &'a str,
    /// The `metadata.generation` that the lower pod carries out by now.
    pub generation: i64,
    /// `status.phase`.
    pub phase: &'a str,
    /// Its readiness gates, from [`gates`](super::gates).
    pub gates: &'a [Gate],
    /// Restarts that earlier lower pods of the same upper pod had.
    pub restarts: &'a Restarts,
}

/// The status members that are ours, in upper terms, for a lower pod with `lower_status` on a virtual node with the
/// address `host_ip`.
///
/// `None` when the upper phase is terminal and the lower one is another: what the upper cluster declared finished
/// is not revived. With the same phase, last container states still arrive.
#[must_use]
pub fn desired(upper: &Upper<'_>, lower_status: &Value, host_ip: &str) -> Option<Value> {
    let phase = lower_status["phase"].as_str().unwrap_or("Pending");
    if is_terminal(upper.phase) && upper.phase != phase {
        return None;
    }
    let lower = lower_status.as_object().into_iter().flatten();
    let copied = lower.filter(|(key, value)| !UPPERS.contains(&key.as_str()) && !value.is_null());
    let mut status: Map<String, Value> = copied.map(|(key, value)| (key.clone(), value.clone())).collect();
    status.insert("phase".to_owned(), json!(phase));
    replace_host(&mut status, host_ip);
    replace_generation(&mut status, upper.generation);
    add_restarts(&mut status, upper.restarts);
    if !upper.restarts.is_empty() {
        // The upper pod started when its first lower pod did.
        status.remove("startTime");
    }
    if lower_status["conditions"].is_array() {
        let conditions = conditions::translate(lower_status, upper.gates, upper.generation);
        status.insert("conditions".to_owned(), Value::Array(conditions));
    }
    explain_unscheduled(&mut status, lower_status);
    Some(Value::Object(status))
}

/// The node that the upper pod runs on is the virtual node.
fn replace_host(status: &mut Map<String, Value>, host_ip: &str) {
    let known = status.contains_key("hostIP");
    for key in HOST_ADDRESSES {
        status.remove(key);
    }
    if known && !host_ip.is_empty() {
        status.insert("hostIP".to_owned(), json!(host_ip));
        status.insert("hostIPs".to_owned(), json!([{"ip": host_ip}]));
    }
}

/// A generation is the upper pod's own, and only a kubelet's statement carries one: before the lower kubelet has
/// seen the pod there is nothing to say, which saves a write for every pod.
fn replace_generation(status: &mut Map<String, Value>, generation: i64) {
    let seen_by_kubelet = status.contains_key("startTime");
    if status.remove("observedGeneration").is_some() || seen_by_kubelet {
        status.insert("observedGeneration".to_owned(), json!(generation));
    }
}

/// Restart counts go on where those of an earlier lower pod ended.
fn add_restarts(status: &mut Map<String, Value>, restarts: &Restarts) {
    for container in container_statuses_mut(status) {
        let before = container["name"].as_str().map_or(0, |name| restarts.of(name));
        if before > 0 {
            let own = container["restartCount"].as_i64().unwrap_or_default();
            container["restartCount"] = json!(own.saturating_add(before));
        }
    }
}

/// PodScheduled of the upper pod is true and stays so; why the lower cluster does not place the pod is told by reason
/// and message, which `kubectl get` and `kubectl describe` show.
fn explain_unscheduled(status: &mut Map<String, Value>, lower_status: &Value) {
    let mut conditions = lower_status["conditions"].as_array().into_iter().flatten();
    let refused = conditions.find(|c| c["type"] == "PodScheduled" && c["status"] == "False");
    if let Some(refused) = refused.filter(|_| !status.contains_key("reason")) {
        let reason = refused["reason"].as_str().unwrap_or("Unschedulable");
        let message = refused["message"].as_str().unwrap_or("no reason given");
        status.insert("reason".to_owned(), json!(reason));
        status.insert(
            "message".to_owned(),
            json!(format!("not scheduled in the lower cluster: {message}")),
        );
    }
}

/// Whether a pod with `status` has ended for good: its phase is terminal and none of its containers runs.
#[must_use]
pub fn terminal(status: &Value) -> bool {
    let is_running = |container: &Value| container["state"].get("running").is_some();
    is_terminal(status["phase"].as_str().unwrap_or_default())
        && !CONTAINER_STATUSES.iter().any(|key| {
            status[key]
                .as_array()
                .is_some_and(|containers| containers.iter().any(is_running))
        })
}

/// The status of an upper pod whose lower pod is gone and is about to be made again, at `now` (RFC 3339): without
/// an address, and not ready until the new one is.
#[must_use]
pub fn interrupted(now: &str) -> Value {
    json!({
        "phase": "Pending", "reason": VANISHED,
        "message": "the lower pod is gone and is made again",
        "conditions": not_ready("ContainersNotReady", now),
    })
}

fn not_ready(reason: &str, now: &str) -> Value {
    let condition =
        |name: &str| json!({"type": name, "status": "False", "reason": reason, "lastTransitionTime": now});
    json!(["ContainersReady", "Ready"].map(condition))
}

/// The status of an upper pod with `upper_status` whose lower pod is gone and must not come back, at `now` (RFC 3339):
/// Failed, and containers that ran ended in a way nobody saw. The upper phase must not be terminal yet.
#[must_use]
pub fn vanished(upper_status: &Value, now: &str) -> Value {
    let mut status = Map::new();
    status.insert("phase".to_owned(), json!("Failed"));
    status.insert("reason".to_owned(), json!(VANISHED));
    let message = "the lower pod is gone, and its restart policy does not let it start again";
    status.insert("message".to_owned(), json!(message));
    for key in CONTAINER_STATUSES {
        if let Some(containers) = upper_status.get(key) {
            status.insert(key.to_owned(), containers.clone());
        }
    }
    for container in container_statuses_mut(&mut status) {
        end(container, now);
    }
    status.insert("conditions".to_owned(), not_ready("PodFailed", now));
    Value::Object(status)
}

/// Ends a container that has not ended yet.
fn end(container: &mut Value, now: &str) {
    if container["state"].get("terminated").is_some() {
        return;
    }
    let mut terminated = json!({
        "exitCode": UNSEEN_EXIT_CODE,
        "reason": UNSEEN_REASON,
        "message": "the lower pod vanished while the container ran",
        "finishedAt": now,
    });
    if let Some(started) = container["state"]["running"].get("startedAt") {
        terminated["startedAt"] = started.clone();
    }
    container["state"] = json!({"terminated": terminated});
    container["ready"] = json!(false);
    container["started"] = json!(false);
}

fn container_statuses_mut(status: &mut Map<String, Value>) -> impl Iterator<Item = &mut Value> {
    status
        .iter_mut()
        .filter(|(key, _)| CONTAINER_STATUSES.contains(&key.as_str()))
        .filter_map(|(_, list)| list.as_array_mut())
        .flatten()
        .filter(|container| container.is_object())
}

/// Whether a pod in this phase has ended.
#[must_use]
pub fn is_terminal(phase: &str) -> bool {
    ["Succeeded", "Failed"].contains(&phase)
}
