//! What happens next with a pod, in one table per situation.

use serde_json::{Value, json};

use super::*;
use crate::pods::side::version;
use tensile_runtime::key::Key;

const HOST_IP: &str = "10.0.0.1";

fn mk_upper(extra: &Value) -> UpperSide {
    UpperSide::new(mk_pod(extra), None)
}

fn mk_pod(extra: &Value) -> UpperPod {
    let mut pod = json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "u1", "resourceVersion": "10", "generation": 1},
        "spec": {"nodeName": "vn", "containers": [{"name": "c", "image": "i"}]},
        "status": {"phase": "Pending"},
    });
    json_patch::merge(&mut pod, extra);
    serde_json::from_str(&pod.to_string()).unwrap()
}

fn mk_lower(extra: &Value) -> LowerSide {
    let mut pod = json!({
        "metadata": {"name": "p", "namespace": "ns", "uid": "l1",
                     "labels": {"tensile.dev/origin-uid": "u1"}, "annotations": {"tensile.dev/intent": "1"}},
        "status": {"phase": "Pending"},
    });
    json_patch::merge(&mut pod, extra);
    LowerSide::new(serde_json::from_str(&pod.to_string()).unwrap())
}

fn mk_entry(upper: Option<UpperSide>, lower: Option<LowerSide>) -> Entry {
    Entry {
        upper,
        lower,
        ..Entry::default()
    }
}

fn carried_out(mut upper: UpperSide) -> UpperSide {
    upper.body = None;
    upper
}

const DELETING: &str =
    r#"{"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30}}"#;
const RAN: &str = r#"{"status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z"}}"#;
const ENDED: &str = r#"{"status": {"phase": "Succeeded"}}"#;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn name(step: &Step) -> String {
    match step {
        Step::Wait => "wait".into(),
        Step::Refuse(problem) => format!("refuse {}", problem.reason()),
        Step::Create { again: false, .. } => "create".into(),
        Step::Create { again: true, .. } => "create again".into(),
        Step::Update { .. } => "update".into(),
        Step::PatchStatus { patch, .. } => format!("patch {}", patch.body["status"]["phase"]),
        Step::DeleteLower {
            grace, unless_upper, ..
        } => format!("delete lower {grace:?} {unless_upper:?}"),
        Step::DeleteUpper { grace, confirm, .. } => format!("delete upper {grace}, confirm {confirm}"),
    }
}

#[test]
fn an_upper_pod_without_a_lower_one() {
    let daemon = json!({"metadata": {"ownerReferences": [
        {"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "d", "controller": true}]}});
    for (extra, expected) in [
        (json!({}), "create"),
        (json(DELETING), "delete upper 0, confirm false"),
        // Somebody asked, and the API server lost them before it was done.
        (
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0}}),
            "delete upper 0, confirm false",
        ),
        (
            json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0,
                                "finalizers": ["theirs"]}}),
            "wait",
        ),
        (json(ENDED), "wait"),
        // It ran before we started, and nobody saw where it went.
        (json(RAN), "create again"),
        (daemon, "refuse NotOffloaded"),
        (
            json!({"metadata": {"namespace": "kube-system"}}),
            "refuse NotOffloaded",
        ),
    ] {
        assert_eq!(
            name(&decide(&mk_entry(Some(mk_upper(&extra)), None), HOST_IP)),
            expected,
            "{extra}"
        );
    }
}

#[test]
fn a_pod_is_deleted_for_good_once() {
    let (mut index, key) = (Index::default(), Key::new("ns", "p"));
    let last =
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0}});
    index.apply_upper(&key, mk_pod(&json(DELETING)));
    index.upper_deleting(&key, "u1", 0);
    index.apply_upper(&key, mk_pod(&last));
    assert_eq!(name(&decide(index.get(&key).unwrap(), HOST_IP)), "wait");
}

#[test]
fn a_lower_pod_that_was_there_and_is_gone_takes_the_upper_one_with_it() {
    let mut entry = mk_entry(Some(mk_upper(&json!({}))), None);
    entry.placed = Some("u1".into());
    assert_eq!(name(&decide(&entry, HOST_IP)), "delete upper 0, confirm true");
    entry.upper = Some(mk_upper(&json(RAN)));
    assert_eq!(name(&decide(&entry, HOST_IP)), "delete upper 0, confirm true");
    entry.upper = Some(mk_upper(&json!({})));
    // That was a pod of the same name before this one.
    entry.placed = Some("u0".into());
    assert_eq!(name(&decide(&entry, HOST_IP)), "create");
}

#[test]
fn a_lower_pod_whose_upper_pod_is_gone_or_another() {
    let orphan = r#"delete lower None Some("u1")"#;
    assert_eq!(
        name(&decide(&mk_entry(None, Some(mk_lower(&json!({})))), HOST_IP)),
        orphan
    );
    assert_eq!(
        name(&decide(&mk_entry(None, Some(mk_lower(&json(DELETING)))), HOST_IP)),
        "wait"
    );
    let namesake = mk_upper(&json!({"metadata": {"uid": "u2"}}));
    assert_eq!(
        name(&decide(
            &mk_entry(Some(namesake), Some(mk_lower(&json!({})))),
            HOST_IP
        )),
        orphan
    );
}

#[test]
fn a_force_deleted_pod_still_lets_the_lower_kubelet_confirm() {
    let mut entry = mk_entry(None, Some(mk_lower(&json!({}))));
    entry.last_grace = Some(0);
    assert_eq!(
        name(&decide(&entry, HOST_IP)),
        r#"delete lower Some(1) Some("u1")"#
    );
}

#[test]
fn a_pair_that_lives() {
    for (upper, lower, expected) in [
        (mk_upper(&json!({})), mk_lower(&json(RAN)), r#"patch "Running""#),
        (mk_upper(&json!({})), mk_lower(&json!({})), "update"),
        (carried_out(mk_upper(&json!({}))), mk_lower(&json!({})), "wait"),
        (carried_out(mk_upper(&json(ENDED))), mk_lower(&json(RAN)), "wait"),
    ] {
        assert_eq!(
            name(&decide(&mk_entry(Some(upper), Some(lower)), HOST_IP)),
            expected
        );
    }
}

#[test]
fn a_pod_that_somebody_deletes_below_is_deleted_above_before_its_end_is_shown() {
    let mut ended_below = json(DELETING);
    json_patch::merge(&mut ended_below, &json(ENDED));
    let forced =
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 0}});
    for (upper, lower, expected) in [
        (json(RAN), json(DELETING), "delete upper 30, confirm false"),
        (json(RAN), ended_below.clone(), "delete upper 30, confirm false"),
        (json(RAN), forced, "delete upper 1, confirm false"),
        // What has ended above stays, as the pods of a finished Job do.
        (json(ENDED), ended_below, "wait"),
    ] {
        let entry = mk_entry(Some(mk_upper(&upper)), Some(mk_lower(&lower)));
        assert_eq!(name(&decide(&entry, HOST_IP)), expected, "{lower}");
    }
}

#[test]
fn restarts_of_an_earlier_lower_pod_count_above() {
    let lower = mk_lower(&json!({
        "metadata": {"annotations": {"tensile.dev/restarts": r#"{"c":3}"#}},
        "status": {"phase": "Running", "containerStatuses": [{"name": "c", "restartCount": 1}]},
    }));
    let Step::PatchStatus { patch, .. } = decide(&mk_entry(Some(mk_upper(&json!({}))), Some(lower)), HOST_IP)
    else {
        panic!("no status is written")
    };
    assert_eq!(patch.body["status"]["containerStatuses"][0]["restartCount"], 4);
}

#[test]
fn a_pair_that_ends() {
    let deleting = || mk_upper(&json(DELETING));
    let mut ended_below = json(DELETING);
    json_patch::merge(&mut ended_below, &json(ENDED));
    let mut ended_both = json(DELETING);
    json_patch::merge(&mut ended_both, &json(ENDED));
    let long =
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": 300}});
    for (upper, lower, expected) in [
        (deleting(), mk_lower(&json!({})), "delete lower Some(30) None"),
        (deleting(), mk_lower(&json(DELETING)), "wait"),
        (deleting(), mk_lower(&long), "delete lower Some(30) None"),
        // The last status goes first.
        (deleting(), mk_lower(&ended_below), r#"patch "Succeeded""#),
        (
            mk_upper(&ended_both),
            mk_lower(&ended_below),
            "delete upper 0, confirm false",
        ),
    ] {
        assert_eq!(
            name(&decide(&mk_entry(Some(upper), Some(lower)), HOST_IP)),
            expected
        );
    }
}

#[test]
fn an_older_event_than_what_we_know_is_passed_over() {
    let key = Key::new("ns", "p");
    let mut index = Index::default();
    let at = |version: &str, phase: &str| {
        mk_pod(&json!({"metadata": {"resourceVersion": version}, "status": {"phase": phase}}))
    };
    assert!(index.apply_upper(&key, at("10", "Running")).is_some());
    assert!(index.apply_upper(&key, at("9", "Pending")).is_none());
    assert_eq!(
        &*index.get(&key).unwrap().upper.as_ref().unwrap().phase,
        "Running"
    );
    assert_eq!(version(Some("no number")), 0);
}

#[test]
fn a_body_is_kept_only_until_it_is_carried_out_and_comes_back_with_a_change() {
    let key = Key::new("ns", "p");
    let mut index = Index::default();
    let body = |index: &Index| index.get(&key).unwrap().upper.as_ref().unwrap().body.is_some();
    index.apply_upper(&key, mk_pod(&json!({})));
    let hash = index.get(&key).unwrap().upper.as_ref().unwrap().body_hash;
    index.carried_out(&key, "u1", hash);
    assert!(!body(&index));
    index.apply_upper(
        &key,
        mk_pod(&json!({"metadata": {"resourceVersion": "11"}, "status": {"phase": "Running"}})),
    );
    assert!(!body(&index), "a status is no change of the body");
    index.apply_upper(
        &key,
        mk_pod(&json!({"metadata": {"resourceVersion": "12", "labels": {"new": "x"}}})),
    );
    assert!(body(&index));
}

#[test]
fn a_deletion_of_an_earlier_pod_does_not_touch_its_namesake() {
    let key = Key::new("ns", "p");
    let mut index = Index::default();
    index.apply_upper(&key, mk_pod(&json!({"metadata": {"uid": "u2"}})));
    index.delete_upper(&key, Some("u1"));
    assert!(index.get(&key).is_some());
    index.delete_upper(&key, Some("u2"));
    assert!(index.is_empty());
}

#[test]
fn what_the_watch_has_shown_is_not_undone_by_a_late_answer() {
    let key = Key::new("ns", "p");
    let mut index = Index::default();
    index.apply_upper(&key, mk_pod(&json!({})));
    index.adopt(&key, "u1", mk_lower(&json!({})));
    assert!(index.get(&key).unwrap().lower.is_some());
    index.delete_lower(&key, Some("l1"));
    // The answer to the creation comes after the watch told that the pod is gone.
    index.adopt(&key, "u1", mk_lower(&json!({})));
    assert!(index.get(&key).unwrap().lower.is_none());
}

#[test]
fn a_deletion_alone_says_nothing_new_about_the_status() {
    let key = Key::new("ns", "p");
    let ran = json!({"phase": "Running", "startTime": "2026-01-01T00:00:00Z", "observedGeneration": 1});
    let mut index = Index::default();
    index.apply_upper(&key, mk_pod(&json!({"status": ran})));
    index.apply_lower(&key, mk_lower(&json!({"status": ran})));
    let mut deleting = json(DELETING);
    json_patch::merge(
        &mut deleting,
        &json!({"metadata": {"resourceVersion": "11", "generation": 2}, "status": ran}),
    );
    index.apply_upper(&key, mk_pod(&deleting));
    let step = decide(index.get(&key).unwrap(), HOST_IP);
    assert_eq!(name(&step), "delete lower Some(30) None");
}
