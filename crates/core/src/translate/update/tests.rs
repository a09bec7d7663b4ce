//! Changes above and below a running pod, and what is sent.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::translate::pod::{Context, Policy, to_lower};
use crate::translate::service_account::ServiceAccount;

fn mk_upper() -> Value {
    json!({
        "metadata": {
            "name": "web-0", "namespace": "shop", "uid": "u-1",
            "labels": {"app": "web", "tier": "front"}, "annotations": {"note": "one"},
        },
        "spec": {
            "initContainers": [{"name": "sidecar", "image": "proxy:1"}],
            "containers": [
                {"name": "c", "image": "web:1", "resources": {"requests": {"cpu": "1"}}},
                {"name": "d", "image": "log:1"},
            ],
            "activeDeadlineSeconds": 100,
        },
    })
}

fn translate(upper: &Value) -> Lower {
    let context = Context {
        origin_cluster: "upper-uid",
        node_name: "vnode",
        node_labels: &BTreeMap::new(),
        ignored_keys: &BTreeSet::new(),
        ignore_labels: &[],
        lower_namespace: "shop",
        service_env: &[],
        service_account: ServiceAccount::None,
        policy: &Policy::default(),
    };
    to_lower(upper, &context).unwrap()
}

/// The lower pod made for [`mk_upper`], as the lower cluster keeps it after its own admission.
fn mk_below() -> Value {
    let mut below = translate(&mk_upper()).pod;
    below["metadata"]["uid"] = json!("l-1");
    below["metadata"]["labels"]["injected"] = json!("yes");
    below["metadata"]["annotations"]["cni"] = json!("10.0.0.7");
    below["spec"]["containers"][1]["image"] = json!("mirror/log:1");
    below["spec"]["containers"][1]["resources"] = json!({"requests": {"cpu": "100m"}});
    below["spec"]["containers"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "mesh", "image": "mesh:9"}));
    below["spec"]["tolerations"] = json!([{"key": "lower", "operator": "Exists"}]);
    below
}

/// The update for the upper pod after `change`, with the annotations that every update carries taken out and checked.
fn updated(change: impl FnOnce(&mut Value)) -> Update {
    updated_below(&mk_below(), change)
}

fn updated_below(below: &Value, change: impl FnOnce(&mut Value)) -> Update {
    let mut upper = mk_upper();
    change(&mut upper);
    let desired = translate(&upper);
    let mut update = update(&desired, below);
    let metadata = &mut update.pod.as_mut().unwrap()["metadata"];
    let annotations = metadata["annotations"].as_object_mut().unwrap();
    assert_eq!(annotations.remove(names::INTENT), Some(json!(desired.intent)));
    if let Some(applied) = annotations.remove(names::APPLIED) {
        assert_eq!(applied, desired.pod["metadata"]["annotations"][names::APPLIED]);
    }
    if annotations.is_empty() {
        metadata.as_object_mut().unwrap().remove("annotations");
    }
    update
}

fn patch(body: &Value) -> Option<Value> {
    let mut body = body.clone();
    body["metadata"]["uid"] = json!("l-1");
    Some(body)
}

#[test]
fn nothing_is_sent_while_the_intent_is_the_same() {
    assert_eq!(update(&translate(&mk_upper()), &mk_below()), Update::default());
}

#[test]
fn labels_and_annotations_follow_and_those_from_below_stay() {
    let update = updated(|upper| {
        upper["metadata"]["labels"] = json!({"app": "shop", "new": "yes"});
        upper["metadata"]["annotations"] = json!({});
    });
    let metadata = json!({
        "labels": {"app": "shop", "new": "yes", "tier": null}, "annotations": {"note": null},
    });
    assert_eq!(
        update,
        Update {
            pod: patch(&json!({"metadata": metadata})),
            ..Update::default()
        }
    );
}

#[test]
fn only_a_new_image_is_sent_and_rewritten_ones_stay() {
    let update = updated(|upper| {
        upper["spec"]["containers"][0]["image"] = json!("web:2");
        upper["spec"]["initContainers"][0]["image"] = json!("proxy:2");
    });
    let spec = json!({
        "initContainers": [{"name": "sidecar", "image": "proxy:2"}],
        "containers": [{"name": "c", "image": "web:2"}],
    });
    assert_eq!(
        update,
        Update {
            pod: patch(&json!({"spec": spec})),
            ..Update::default()
        }
    );
}

#[test]
fn resources_go_to_the_resize_subresource() {
    let update = updated(|upper| {
        upper["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "2"}});
        upper["spec"]["resources"] = json!({"limits": {"cpu": "4"}});
    });
    let spec = json!({
        "containers": [{"name": "c", "resources": {"requests": {"cpu": "2"}}}],
        "resources": {"limits": {"cpu": "4"}},
    });
    let expected = Update {
        resize: patch(&json!({"spec": spec})),
        pod: patch(&json!({})),
        ..Update::default()
    };
    assert_eq!(update, expected);
}

#[test]
fn new_ephemeral_containers_go_to_their_subresource() {
    let debug = json!({"name": "debug", "image": "sh", "targetContainerName": "c"});
    let both = json!([{"name": "first", "image": "sh"}, debug]);
    let mut below = mk_below();
    below["spec"]["ephemeralContainers"] = json!([{"name": "first", "image": "mirror/sh"}]);
    let update = updated_below(&below, |upper| upper["spec"]["ephemeralContainers"] = both);
    let expected = json!({"spec": {"ephemeralContainers": [debug]}});
    assert_eq!(
        update,
        Update {
            ephemeral_containers: patch(&expected),
            pod: patch(&json!({})),
            ..Update::default()
        }
    );
}

#[test]
fn a_deadline_is_only_shortened() {
    for (deadline, sent) in [(50, Some(json!({"activeDeadlineSeconds": 50}))), (200, None)] {
        let update = updated(|upper| upper["spec"]["activeDeadlineSeconds"] = json!(deadline));
        assert_eq!(update.pod.unwrap().get("spec"), sent.as_ref(), "{deadline}");
    }
    let mut below = mk_below();
    below["spec"]["activeDeadlineSeconds"].take();
    let update = updated_below(&below, |upper| upper["metadata"]["labels"] = json!({}));
    assert_eq!(update.pod.unwrap()["spec"], json!({"activeDeadlineSeconds": 100}));
}

#[test]
fn a_negative_grace_period_may_become_one() {
    for (from, to, sent) in [(-1, 1, true), (30, 1, false), (-1, 30, false)] {
        let mut below = mk_below();
        below["spec"]["terminationGracePeriodSeconds"] = json!(from);
        let update = updated_below(&below, |upper| {
            upper["spec"]["terminationGracePeriodSeconds"] = json!(to);
        });
        assert_eq!(update.pod.unwrap().get("spec").is_some(), sent, "{from} to {to}");
    }
}

#[test]
fn tolerations_are_added_and_their_seconds_changed() {
    let lower = |seconds| json!({"key": "slow", "operator": "Exists", "tolerationSeconds": seconds});
    let mut below = mk_below();
    below["spec"]["tolerations"]
        .as_array_mut()
        .unwrap()
        .push(lower(60));
    let mut desired = translate(&mk_upper());
    desired.intent = "changed".to_owned();
    for (wanted, sent) in [
        (json!([lower(60)]), None),
        (
            json!([lower(30)]),
            Some(json!([{"key": "lower", "operator": "Exists"}, lower(30)])),
        ),
        (
            json!([{"key": "new"}]),
            Some(json!([{"key": "lower", "operator": "Exists"}, lower(60), {"key": "new"}])),
        ),
    ] {
        desired.pod["spec"]["tolerations"] = wanted;
        let pod = update(&desired, &below).pod.unwrap();
        assert_eq!(pod["spec"].get("tolerations"), sent.as_ref());
    }
}

#[test]
fn an_immutable_change_is_recorded_and_not_sent() {
    let update = updated(|upper| upper["spec"]["containers"][0]["command"] = json!(["sh"]));
    assert_eq!(
        update,
        Update {
            pod: patch(&json!({})),
            ..Update::default()
        }
    );
}

#[test]
fn a_pod_without_a_record_is_compared_with_what_is_there() {
    let mut below = mk_below();
    below["metadata"]["annotations"][names::APPLIED] = json!("not JSON");
    let update = updated_below(&below, |upper| upper["metadata"]["labels"]["app"] = json!("shop"));
    let expected = json!({
        "metadata": {"labels": {"app": "shop"}},
        "spec": {"containers": [{"name": "d", "image": "log:1"}]},
    });
    assert_eq!(
        update,
        Update {
            pod: patch(&expected),
            ..Update::default()
        }
    );
}
