//! What is sent so that the upper status becomes the desired one.

use proptest::prelude::*;

use super::*;

/// A change of the lower status.
type Change = fn(&mut Value);

/// The status that a server keeps after a strategic merge patch, for the members that occur here.
fn merged(status: &Value, body: &Value) -> Value {
    let mut status = status.clone();
    for (name, value) in body["status"].as_object().unwrap() {
        match (name.as_str(), value) {
            ("conditions", Value::Array(conditions)) => merge_conditions(&mut status, conditions),
            (_, Value::Null) => drop(status.as_object_mut().unwrap().remove(name)),
            (_, Value::Array(list)) if list.first() == Some(&json!({"$patch": "replace"})) => {
                status[name] = json!(list[1..]);
            }
            // As a server of Kubernetes 1.36: the directive needs something to replace.
            (_, Value::Object(object)) if object.contains_key("$patch") => {
                let mut object = object.clone();
                object.remove("$patch");
                if status.get(name).is_some() {
                    status[name] = Value::Object(object);
                }
            }
            (_, Value::Object(object)) => match status[name].as_object_mut() {
                Some(old) => old.extend(object.clone()),
                None => status[name] = value.clone(),
            },
            (_, value) => status[name] = value.clone(),
        }
    }
    status
}

fn merge_conditions(status: &mut Value, patch: &[Value]) {
    let mut conditions = status["conditions"].as_array().cloned().unwrap_or_default();
    for change in patch {
        let old = conditions
            .iter()
            .position(|condition| condition["type"] == change["type"]);
        if change["$patch"] == "delete" {
            old.map(|index| conditions.remove(index));
            continue;
        }
        let mut condition = old.map_or(json!({}), |index| conditions.remove(index));
        condition
            .as_object_mut()
            .unwrap()
            .extend(change.as_object().unwrap().clone());
        condition
            .as_object_mut()
            .unwrap()
            .retain(|_, value| !value.is_null());
        conditions.push(condition);
    }
    status["conditions"] = Value::Array(conditions);
}

fn send(desired: &Value, sent: Option<&Sent>, upper: &Value) -> Option<Value> {
    patch("u-1", desired, sent, &Fingerprint::of(upper)).map(|patch| patch.body)
}

/// A pod as the scheduler leaves it.
fn mk_bound() -> Value {
    json!({
        "phase": "Pending", "qosClass": "Guaranteed",
        "conditions": [{"type": "PodScheduled", "status": "True", "lastProbeTime": null}],
    })
}

#[test]
fn the_first_patch_says_all_that_is_new_and_carries_the_uid() {
    assert_eq!(
        send(
            &desire(&json!({"phase": "Pending", "qosClass": "Burstable"})),
            None,
            &mk_bound()
        ),
        None
    );
    let body = send(&desire(&mk_running()), None, &mk_bound()).unwrap();
    assert_eq!(
        body,
        json!({"metadata": {"uid": "u-1"}, "status": {
            "phase": "Running", "startTime": "2026-01-01T00:00:00Z", "observedGeneration": 3,
            "podIP": "10.1.0.7", "podIPs": [{"$patch": "replace"}, {"ip": "10.1.0.7"}],
            "hostIP": HOST_IP, "hostIPs": [{"$patch": "replace"}, {"ip": HOST_IP}],
            "conditions": [{
                "type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:05Z",
                "reason": null, "message": null, "lastProbeTime": null, "observedGeneration": null,
            }],
            "containerStatuses": mk_running()["containerStatuses"],
        }})
    );
}

/// What the upper pod shows, and what we remember, after `desired` was sent.
fn after_sending(desired: &Value, upper: &Value) -> (Value, Sent) {
    let patch = patch("u-1", desired, None, &Fingerprint::of(upper)).unwrap();
    let shown = merged(upper, &patch.body);
    let sent = patch.sent(&shown);
    (shown, sent)
}

#[test]
fn only_what_changed_is_sent_and_what_ended_is_taken_away() {
    let mut lower = mk_running();
    lower["reason"] = json!("r");
    lower["resources"] = json!({"limits": {"cpu": "1"}});
    let resize = json!({"type": "PodResizePending", "status": "True"});
    lower["conditions"].as_array_mut().unwrap().push(resize);
    let (shown, sent) = after_sending(&desire(&lower), &mk_bound());
    let steps: [(Change, Value); 6] = [
        (|lower| drop(lower["reason"].take()), json!({"reason": null})),
        (
            |lower| lower["resources"] = json!({}),
            json!({"resources": {"$patch": "replace"}}),
        ),
        (
            |lower| drop(lower["resources"].take()),
            json!({"resources": null}),
        ),
        (
            |lower| lower["podIPs"] = json!([{"ip": "10.1.0.7"}, {"ip": "fd::7"}]),
            json!({
                "podIP": "10.1.0.7", "podIPs": [{"$patch": "replace"}, {"ip": "10.1.0.7"}, {"ip": "fd::7"}],
            }),
        ),
        (
            |lower| drop(lower["conditions"].as_array_mut().unwrap().pop()),
            json!({
                "conditions": [{"type": "PodResizePending", "$patch": "delete"}],
            }),
        ),
        (|lower| lower["containerStatuses"] = Value::Null, Value::Null),
    ];
    for (change, status) in steps {
        let mut lower = lower.clone();
        change(&mut lower);
        let body = send(&desire(&lower), Some(&sent), &shown);
        assert_eq!(body.map_or(Value::Null, |body| body["status"].clone()), status);
        // A process that has just started knows only what the pod shows, and says the same.
        let body = send(&desire(&lower), None, &shown);
        assert_eq!(body.map_or(Value::Null, |body| body["status"].clone()), status);
    }
}

#[test]
fn a_server_that_prunes_a_member_is_told_once() {
    let desired = desire(&mk_running());
    let patch = patch("u-1", &desired, None, &Fingerprint::of(&mk_bound())).unwrap();
    let mut shown = merged(&mk_bound(), &patch.body);
    shown.as_object_mut().unwrap().remove("observedGeneration");
    let sent = patch.sent(&shown);
    assert_eq!(send(&desired, Some(&sent), &shown), None);
    let mut newer = desired;
    newer["observedGeneration"] = json!(4);
    assert_eq!(
        send(&newer, Some(&sent), &shown).unwrap()["status"],
        json!({"observedGeneration": 4})
    );
}

#[test]
fn what_somebody_else_changed_is_set_right() {
    let desired = desire(&mk_running());
    let (mut shown, sent) = after_sending(&desired, &mk_bound());
    shown["phase"] = json!("Pending");
    shown["reason"] = json!("NodeLost");
    shown["qosClass"] = json!("BestEffort");
    assert_eq!(
        send(&desired, Some(&sent), &shown).unwrap()["status"],
        json!({"phase": "Running", "reason": null})
    );
}

#[test]
fn a_change_back_is_sent_although_the_watch_still_shows_it() {
    let (first, second) = (desire(&json!({"phase": "Pending"})), desire(&mk_running()));
    let (_, sent) = after_sending(&second, &mk_bound());
    let body = send(&first, Some(&sent), &mk_bound()).unwrap();
    assert_eq!(body["status"]["phase"], "Pending");
}

fn any_status() -> impl Strategy<Value = Value> {
    let value = prop_oneof![
        Just(Value::Null),
        (0..3i64).prop_map(Value::from),
        Just(json!({"a": 1})),
        Just(json!({"b": 1})),
        Just(json!([{"ip": "a"}])),
    ];
    const KEYS: [&str; 8] = [
        "reason",
        "podIP",
        "podIPs",
        "hostIP",
        "resources",
        "resize",
        "ofTomorrow",
        "startTime",
    ];
    let members = prop::collection::btree_map(prop::sample::select(&KEYS[..]), value, 0..8);
    const TYPES: [&str; 6] = [
        "Ready",
        "Initialized",
        "PodResizePending",
        "PodResizeInProgress",
        "PodScheduled",
        "mine",
    ];
    let condition = (
        prop::sample::select(&["True", "False"][..]),
        prop::option::of("[ab]"),
    );
    let conditions = prop::collection::btree_map(prop::sample::select(&TYPES[..]), condition, 0..5);
    (
        prop::sample::select(&["Pending", "Running"][..]),
        members,
        conditions,
    )
        .prop_map(|(phase, members, conditions)| {
            let mut status = json!({"phase": phase});
            for (name, value) in members.into_iter().filter(|(_, value)| !value.is_null()) {
                status[name] = value;
            }
            let conditions = conditions
                .into_iter()
                .map(|(name, (status, reason))| match reason {
                    Some(reason) => json!({"type": name, "status": status, "reason": reason}),
                    None => json!({"type": name, "status": status}),
                });
            status["conditions"] = conditions.collect();
            status
        })
}

proptest! {
    #[test]
    fn a_patch_brings_what_is_desired_and_is_sent_once(lower in any_status(), upper in any_status()) {
        let desired = desire(&lower);
        if let Some(first) = patch("u-1", &desired, None, &Fingerprint::of(&upper)) {
            let shown = merged(&upper, &first.body);
            for (name, value) in desired.as_object().unwrap().iter().filter(|(name, _)| *name != "conditions") {
                prop_assert_eq!(&shown[name], value);
            }
            let has = |condition: &Value| shown["conditions"].as_array().unwrap().contains(condition);
            prop_assert!(desired["conditions"].as_array().unwrap().iter().all(has), "{} in {}", desired, shown);
            prop_assert_eq!(patch("u-1", &desired, None, &Fingerprint::of(&shown)), None);
            let sent = first.sent(&shown);
            prop_assert_eq!(patch("u-1", &desired, Some(&sent), &Fingerprint::of(&shown)), None);
        }
    }

    #[test]
    fn what_belongs_to_the_upper_cluster_is_never_touched(lower in any_status(), upper in any_status()) {
        let mut upper = upper;
        upper["qosClass"] = json!("Guaranteed");
        let Some(body) = send(&desire(&lower), None, &upper) else { return Ok(()) };
        let shown = merged(&upper, &body);
        prop_assert_eq!(&shown["qosClass"], "Guaranteed");
        let foreign = |status: &Value| -> Vec<Value> {
            let conditions = status["conditions"].as_array().into_iter().flatten();
            conditions.filter(|c| c["type"] == "PodScheduled" || c["type"] == "mine").cloned().collect()
        };
        prop_assert_eq!(foreign(&shown), foreign(&upper));
    }
}
