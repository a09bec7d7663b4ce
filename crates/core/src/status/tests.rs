//! Fixtures; the tests are in the files by topic.

use serde_json::{Value, json};

use super::*;

mod rows;
mod sending;

const HOST_IP: &str = "192.0.2.1";

fn mk_upper<'a>(phase: &'a str, gates: &'a [Gate], restarts: &'a Restarts) -> Upper<'a> {
    Upper {
        uid: "u-1",
        generation: 3,
        phase,
        gates,
        restarts,
    }
}

fn desire(lower: &Value) -> Value {
    desired(&mk_upper("Pending", &[], &Restarts::default()), lower, HOST_IP).unwrap()
}

fn mk_gate(status: Option<&str>, since: &str) -> Gate {
    Gate {
        condition: "lb".into(),
        status: status.map(Box::from),
        since: status.map(|_| since.into()),
    }
}

fn mk_ready(status: &str) -> Value {
    json!({"type": "Ready", "status": status, "lastTransitionTime": "2026-01-01T00:00:05Z"})
}

/// A status as a lower kubelet writes it.
fn mk_running() -> Value {
    json!({
        "phase": "Running", "startTime": "2026-01-01T00:00:00Z", "qosClass": "Burstable", "observedGeneration": 1,
        "podIP": "10.1.0.7", "podIPs": [{"ip": "10.1.0.7"}], "hostIP": "10.0.0.2", "hostIPs": [{"ip": "10.0.0.2"}],
        "conditions": [
            mk_ready("True"),
            {"type": "PodScheduled", "status": "True", "lastProbeTime": null},
        ],
        "containerStatuses": [{
            "name": "c", "restartCount": 0, "ready": true, "state": {"running": {"startedAt": "2026-01-01T00:00:01Z"}},
        }],
    })
}
