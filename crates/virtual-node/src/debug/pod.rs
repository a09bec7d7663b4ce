//! What is known of one pod.

use jiff::Timestamp;
use serde_json::{Value, json};

use tensile_runtime::key::Key;

use super::place;
use crate::objects::ObjectKey;
use crate::origin::lower_key;
use crate::pods::{Deletion, Entry, LowerSide, Step, UpperSide, decide};
use crate::shared::{Shared, State};

/// The pod at `key`, if it is known.
pub(super) fn state(shared: &Shared, key: &Key) -> Option<Value> {
    let state = shared.lock();
    let entry = state.pods.get(key)?;
    let settings = shared.settings();
    let step = decide(entry, &settings.node_ip);
    let trouble = entry.trouble.as_ref();
    Some(json!({
        "pod": key.to_string(),
        "upper": entry.upper.as_ref().map(upper),
        "lower": entry.lower.as_ref().map(|side| lower(side, &lower_key(key, &settings.mapping), entry)),
        "silentSince": entry.silent_since,
        "lastSent": last_sent(entry, &step),
        "pending": pending(shared, &state, key, &step),
        "queue": place(shared.pods.place(key)),
        "lastError": trouble.map(|trouble| json!({"error": trouble.error, "at": trouble.at.to_string()})),
    }))
}

fn upper(side: &UpperSide) -> Value {
    json!({
        "uid": side.uid, "resourceVersion": side.version.to_string(), "generation": side.generation,
        "phase": side.phase, "deleting": deleting(side.deletion, None),
        "bodyNotYetBelow": side.body.is_some(),
    })
}

fn lower(side: &LowerSide, key: &Key, entry: &Entry) -> Value {
    let status = side.status();
    json!({
        "pod": key.to_string(), "uid": side.uid, "node": side.node, "phase": status["phase"],
        "reason": status["reason"], "madeForUid": side.origin_uid, "belongs": entry.belongs(),
        "deleting": deleting(side.deletion, side.ends_at),
    })
}

fn deleting(deletion: Option<Deletion>, ends_at: Option<Timestamp>) -> Value {
    deletion.map_or(
        Value::Null,
        |deletion| json!({"graceSeconds": deletion.grace, "endsAt": ends_at.map(|at| at.to_string())}),
    )
}

/// When a status was written last. What it said is what the lower pod shows, unless a patch is pending.
fn last_sent(entry: &Entry, step: &Step) -> Value {
    let at = entry.upper.as_ref().and_then(|upper| upper.sent_at);
    let is_current = !matches!(step, Step::PatchStatus { .. });
    let status = entry.lower.as_ref().map(LowerSide::status);
    at.map_or(
        Value::Null,
        |at| json!({"at": at.to_string(), "isCurrent": is_current, "lowerStatus": status}),
    )
}

/// The next step, and what it waits for.
fn pending(shared: &Shared, state: &State, key: &Key, step: &Step) -> Value {
    match step {
        Step::Wait => Value::Null,
        Step::Refuse(problem) => {
            json!({"step": "refuse", "why": problem.to_string(), "reason": problem.reason()})
        }
        Step::Create { references, .. } => {
            let missing = state.objects.missing(key, references);
            let waits: Vec<Value> = missing.iter().map(|key| object(shared, state, key)).collect();
            json!({"step": "create the lower pod", "waitsFor": waits})
        }
        Step::Update { .. } => json!({"step": "bring the lower pod up to the upper one"}),
        Step::PatchStatus { patch, .. } => json!({"step": "write the upper status", "patch": patch.body}),
        Step::DeleteLower { grace, .. } => json!({"step": "delete the lower pod", "graceSeconds": grace}),
        Step::DeleteUpper { grace, confirm, .. } => {
            json!({"step": "delete the upper pod", "graceSeconds": grace, "onlyIfNoneIsBelow": confirm})
        }
    }
}

/// Something that a pod waits for.
fn object(shared: &Shared, state: &State, key: &ObjectKey) -> Value {
    let object = state.objects.get(key);
    json!({
        "object": key.to_string(),
        "above": object.is_some_and(|object| object.upper.is_some()),
        "below": object.is_some_and(|object| object.lower.is_some()),
        "problem": object.and_then(|object| object.problem.as_deref()),
        "queue": place(shared.objects.place(key)),
    })
}

#[cfg(test)]
mod tests {
    use tensile_runtime::object::{Pods, Slim};
    use tensile_runtime::watch::Change;

    use super::*;
    use crate::shared::tests::mk_shared;

    fn mk_upper(spec: &Value) -> Slim<Pods> {
        let pod = json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u", "resourceVersion": "5", "generation": 1},
            "spec": spec, "status": {"phase": "Pending"},
        });
        serde_json::from_str(&pod.to_string()).unwrap()
    }

    fn mk_spec() -> Value {
        json!({"containers": [{"name": "c", "image": "i"}],
               "volumes": [{"name": "v", "secret": {"secretName": "s"}}]})
    }

    #[test]
    fn a_pod_that_waits_says_for_what_and_where_it_is_in_the_queue() {
        let (shared, key) = (mk_shared(), Key::new("ns", "p"));
        assert_eq!(state(&shared, &key), None);
        shared.upper_pod(Change::Apply(mk_upper(&mk_spec())));
        shared.lock().pods.attempted(&key, Some("no answer".to_owned()));
        let shown = state(&shared, &key).unwrap();
        assert_eq!(shown["pending"]["step"], "create the lower pod");
        let waits: Vec<_> = shown["pending"]["waitsFor"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["object"].as_str().unwrap())
            .collect();
        assert_eq!(waits, ["Namespace ns", "Secret ns/s"]);
        assert_eq!(shown["queue"]["lane"], "fresh");
        assert_eq!(shown["lastError"]["error"], "no answer");
        assert_eq!(
            (&shown["lower"], &shown["upper"]["uid"]),
            (&Value::Null, &json!("u"))
        );
    }

    #[test]
    fn a_pod_that_runs_says_where_and_what_is_to_be_written() {
        let (shared, key) = (mk_shared(), Key::new("ns", "p"));
        shared.upper_pod(Change::Apply(mk_upper(&json!({"containers": []}))));
        let lower = json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "l", "labels": {
                "tensile.dev/origin-node": "vn", "tensile.dev/origin-uid": "u", "tensile.dev/origin-cluster": "upper"},
                "annotations": {"tensile.dev/origin": "ns/p"}},
            "spec": {"nodeName": "worker"}, "status": {"phase": "Running"},
        });
        shared.lower_pod(Change::Apply(serde_json::from_str(&lower.to_string()).unwrap()));
        let shown = state(&shared, &key).unwrap();
        assert_eq!(
            (
                &shown["lower"]["node"],
                &shown["lower"]["pod"],
                &shown["lower"]["belongs"]
            ),
            (&json!("worker"), &json!("ns/p"), &json!(true))
        );
        assert_eq!(shown["pending"]["patch"]["status"]["phase"], "Running");
    }
}
