//! What holds for every pod.

use proptest::prelude::*;

use super::tests::{mk_pod, with_context};
use super::*;

/// Members that the translation knows, and some that it does not.
const KEYS: [&str; 12] = [
    "nodeName",
    "priority",
    "volumes",
    "containers",
    "initContainers",
    "ephemeralContainers",
    "env",
    "resources",
    "serviceAccountName",
    "unknownOne",
    "unknownTwo",
    "name",
];

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::from),
        (0..5i64).prop_map(Value::from),
        "[a-c$()]{0,3}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 40, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            any_object(inner),
        ]
    })
}

fn any_object(inner: impl Strategy<Value = Value>) -> impl Strategy<Value = Value> {
    let members = prop::collection::btree_map(prop::sample::select(&KEYS[..]), inner, 0..6);
    members.prop_map(|members| {
        members
            .into_iter()
            .map(|(k, v)| (k.to_owned(), v))
            .collect::<Object>()
            .into()
    })
}

fn translate(spec: &Value) -> Lower {
    with_context(|context| to_lower(&mk_pod(spec), context).unwrap())
}

/// A lower pod without the annotations that record how it was made.
fn content(lower: &Lower) -> Value {
    let mut pod = lower.pod.clone();
    pod["metadata"]["annotations"] = Value::Null;
    json!([pod, lower.ephemeral_containers])
}

proptest! {
    #[test]
    fn unknown_members_survive(spec in any_object(any_json())) {
        let lower = translate(&spec);
        for (key, value) in spec.as_object().unwrap().iter().filter(|(key, _)| key.starts_with("unknown")) {
            prop_assert_eq!(&lower.pod["spec"][key], value);
        }
        for (upper, lower) in spec["containers"].as_array().into_iter().flatten().zip(lower.pod["spec"]["containers"].as_array().into_iter().flatten()) {
            prop_assert_eq!(&upper["unknownOne"], &lower["unknownOne"]);
        }
    }

    #[test]
    fn the_same_pod_gives_the_same_translation(spec in any_object(any_json())) {
        prop_assert_eq!(translate(&spec), translate(&spec));
    }

    #[test]
    fn the_intent_changes_exactly_with_the_content(one in any_object(any_json()), other in any_object(any_json())) {
        let (one, other) = (translate(&one), translate(&other));
        prop_assert_eq!(one.intent == other.intent, content(&one) == content(&other));
    }

    #[test]
    fn what_the_upper_cluster_alone_needs_does_not_change_the_intent(spec in any_object(any_json())) {
        let mut other = spec.clone();
        other["nodeName"] = json!("elsewhere");
        other["priority"] = json!(9);
        other["serviceAccountName"] = json!("another");
        prop_assert_eq!(translate(&spec).intent, translate(&other).intent);
    }
}
