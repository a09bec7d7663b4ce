//! Who is changed, and how: reviews in, pods out.

mod support;

use serde_json::{Value, json};
use support::{Admitted, Known, admit, admit_review, mk_pod, mk_review, mk_rules, stash_of};
use tensile_core::names;
use tensile_webhook::mutate::{Namespace, Outcome};
use tensile_webhook::tolerations::WhenUnreachable;

fn ask(pod: &Value) -> Admitted {
    admit(pod, &mk_rules(), &Known::default())
}

fn mk_virtual_namespace() -> Known {
    Known {
        namespace: Namespace {
            virtual_pods: true,
            when_unreachable: None,
        },
        ..Known::default()
    }
}

fn provider() -> Value {
    json!({"key": names::PROVIDER_TAINT, "operator": "Equal", "value": "tensile"})
}

#[test]
fn a_pod_with_constraints_is_changed_by_exact_operations() {
    let mut pod = mk_pod(&json!({
        "containers": [{"name": "c", "image": "i", "new": {"x": 1}}],
        "nodeSelector": {"disk": "ssd", "clusterID": "a"},
        "tolerations": [{"key": "gpu", "operator": "Exists", "new": 2}],
        "new": 3,
    }));
    pod["metadata"]["annotations"] = json!({"other": "x"});
    let stash =
        r#"{"nodeSelector":{"disk":"ssd"},"tolerations":[{"key":"gpu","new":2,"operator":"Exists"}]}"#;
    let admitted = ask(&pod);
    assert_eq!(
        admitted.patch,
        [
            json!({"op": "add", "path": "/metadata/annotations/clusterSelector", "value": stash}),
            json!({"op": "remove", "path": "/spec/nodeSelector/disk"}),
            json!({"op": "add", "path": "/spec/tolerations/-", "value": provider()}),
        ]
    );
    assert_eq!((admitted.outcome, admitted.warnings.len()), (Outcome::Patched, 0));
}

#[test]
fn a_pod_without_constraints_gets_an_empty_stash_and_the_toleration() {
    let mut pod = mk_pod(&json!({"containers": []}));
    pod["metadata"].as_object_mut().unwrap().remove("labels");
    let admitted = admit(&pod, &mk_rules(), &mk_virtual_namespace());
    assert_eq!(
        admitted.patch,
        [
            json!({"op": "add", "path": "/metadata/labels", "value": {"virtual-pod": "true"}}),
            json!({"op": "add", "path": "/metadata/annotations", "value": {"clusterSelector": "{}"}}),
            json!({"op": "add", "path": "/spec/tolerations", "value": [provider()]}),
        ]
    );
}

#[test]
fn only_pods_that_take_part_are_changed() {
    let labelled = |value: &str| {
        let mut pod = mk_pod(&json!({}));
        pod["metadata"]["labels"] = json!({names::VIRTUAL_POD: value});
        pod
    };
    let bare = json!({"metadata": {"name": "x"}, "spec": {}});
    let daemon = |group: &str| {
        let mut pod = mk_pod(&json!({}));
        pod["metadata"]["ownerReferences"][0]["kind"] = "DaemonSet".into();
        pod["metadata"]["ownerReferences"][0]["apiVersion"] = group.into();
        pod
    };
    let (alone, in_virtual) = (Known::default(), mk_virtual_namespace());
    for (what, pod, known, outcome) in [
        ("labelled", labelled("true"), &alone, Outcome::Patched),
        ("labelled false", labelled("false"), &alone, Outcome::LeftAlone),
        (
            "labelled in a virtual namespace",
            labelled("true"),
            &in_virtual,
            Outcome::Patched,
        ),
        (
            "opted out of a virtual namespace",
            labelled("false"),
            &in_virtual,
            Outcome::LeftAlone,
        ),
        ("unlabelled", bare.clone(), &alone, Outcome::LeftAlone),
        (
            "unlabelled in a virtual namespace",
            bare,
            &in_virtual,
            Outcome::Patched,
        ),
        (
            "of a DaemonSet",
            daemon("apps/v1"),
            &in_virtual,
            Outcome::LeftAlone,
        ),
        (
            "of another DaemonSet",
            daemon("apps.kruise.io/v1"),
            &alone,
            Outcome::Patched,
        ),
    ] {
        let admitted = admit(&pod, &mk_rules(), known);
        assert_eq!(
            (admitted.outcome, admitted.patch.is_empty()),
            (outcome, outcome == Outcome::LeftAlone),
            "{what}"
        );
        assert_eq!(admitted.warnings, Vec::<String>::new(), "{what}");
    }
}

#[test]
fn the_namespace_of_the_request_counts_and_so_does_the_kind_of_request() {
    for (member, value, outcome) in [
        ("namespace", json!("kube-system"), Outcome::LeftAlone),
        ("namespace", json!("tensile-system"), Outcome::LeftAlone),
        ("operation", json!("UPDATE"), Outcome::LeftAlone),
        ("operation", json!("DELETE"), Outcome::LeftAlone),
        ("subResource", json!("eviction"), Outcome::LeftAlone),
        ("subResource", json!(""), Outcome::Patched),
        (
            "kind",
            json!({"group": "apps", "version": "v1", "kind": "Deployment"}),
            Outcome::NotUnderstood,
        ),
        ("object", json!(null), Outcome::NotUnderstood),
    ] {
        let mut pod = mk_pod(&json!({}));
        pod["metadata"]["namespace"] = "default".into();
        let mut review = mk_review(&pod);
        review["request"][member] = value.clone();
        let admitted = admit_review(&review, &mk_rules(), &Known::default());
        assert_eq!(admitted.outcome, outcome, "{member} {value}");
        assert_eq!(
            admitted.warnings.len(),
            usize::from(outcome == Outcome::NotUnderstood),
            "{member} {value}"
        );
    }
}

#[test]
fn what_cannot_be_understood_is_let_in_with_a_warning_that_names_it() {
    let term = |requirement: Value| {
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [{"matchExpressions": [requirement]}]}}})
    };
    let future = term(json!({"key": "a", "operator": "Near", "values": ["b"]}));
    for (path, value, named) in [
        ("/metadata/labels", json!([]), "metadata.labels"),
        ("/metadata/ownerReferences", json!({}), "metadata.ownerReferences"),
        ("/metadata/annotations", json!({"a": 1}), "metadata.annotations"),
        ("/metadata", json!("x"), "metadata"),
        ("/metadata", json!(null), "metadata: is missing"),
        ("/spec", json!(7), "spec"),
        ("/spec", json!(null), "spec: is missing"),
        ("/spec/nodeSelector", json!({"a": 1}), "spec.nodeSelector[a]"),
        (
            "/spec/affinity",
            future,
            "nodeSelectorTerms[0].matchExpressions[0].operator",
        ),
        ("/spec/tolerations", json!([{"key": []}]), "spec.tolerations[0]"),
        (
            "/spec/topologySpreadConstraints",
            json!([0]),
            "spec.topologySpreadConstraints[0]",
        ),
    ] {
        let mut pod = mk_pod(&json!({"nodeSelector": {}, "affinity": {}, "tolerations": [],
            "topologySpreadConstraints": []}));
        pod["metadata"]["annotations"] = json!({});
        *pod.pointer_mut(path).unwrap() = value;
        let admitted = ask(&pod);
        assert_eq!(
            (admitted.outcome, admitted.pod),
            (Outcome::NotUnderstood, pod),
            "{path}"
        );
        assert!(
            admitted.warnings[0].contains(named),
            "{path}: {:?}",
            admitted.warnings
        );
    }
}

#[test]
fn a_hand_written_stash_is_joined_or_denied() {
    let stashed = |text: &str, spec: &Value| {
        let mut pod = mk_pod(spec);
        pod["metadata"]["annotations"] = json!({names::CLUSTER_SELECTOR: text});
        ask(&pod)
    };
    let joined = stashed(
        r#"{"NodeSelector": {"arch": "arm64"}}"#,
        &json!({"nodeSelector": {"disk": "ssd"}}),
    );
    assert_eq!(
        stash_of(&joined.pod),
        json!({"nodeSelector": {"arch": "arm64", "disk": "ssd"}})
    );
    let spaced = stashed("{ }", &json!({}));
    assert_eq!(
        spaced.pod["metadata"]["annotations"][names::CLUSTER_SELECTOR],
        "{ }",
        "nothing to say: as it was"
    );
    assert_eq!(
        stash_of(&stashed("", &json!({})).pod),
        json!({}),
        "an empty annotation is none"
    );
    for (text, reason) in [
        ("{", "clusterSelector, at line 1 column 1"),
        (
            r#"{"nodeSelector": [1]}"#,
            "clusterSelector, at nodeSelector: must be an object",
        ),
        (r#"{"nodeSelector": {"disk": "hdd"}}"#, "disk=hdd"),
        (r#"{"tolerations": {}}"#, "clusterSelector, at tolerations"),
    ] {
        let denied = stashed(text, &json!({"nodeSelector": {"disk": "ssd"}}));
        let message = denied.denial.unwrap_or_default();
        assert!(
            denied.outcome == Outcome::Denied && message.contains(reason),
            "{text}: {message}"
        );
        assert!(denied.patch.is_empty());
    }
}

#[test]
fn the_nearest_word_about_unreachable_clusters_wins() {
    let seconds = |pod: &Value| -> Vec<Option<i64>> {
        let list = pod["spec"]["tolerations"].as_array().unwrap().iter();
        list.filter(|one| one["effect"] == "NoExecute")
            .map(|one| one["tolerationSeconds"].as_i64())
            .collect()
    };
    let default = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
    let defaults =
        json!({"tolerations": [default(names::TAINT_NOT_READY), default(names::TAINT_UNREACHABLE)]});
    let (evict, stay) = ([Some(300); 2], [None; 2]);
    for (pod, namespace, flag, wanted, warned) in [
        (None, None, WhenUnreachable::Evict, evict, 0),
        (None, None, WhenUnreachable::Stay, stay, 0),
        (None, None, WhenUnreachable::NeverDuplicate, stay, 0),
        (None, Some("stay"), WhenUnreachable::Evict, stay, 0),
        (Some("evict"), Some("stay"), WhenUnreachable::Stay, evict, 0),
        (Some("never-duplicate"), None, WhenUnreachable::Evict, stay, 0),
        (Some("sometimes"), Some("stay"), WhenUnreachable::Evict, stay, 1),
        (None, Some("sometimes"), WhenUnreachable::Evict, evict, 1),
        (Some(""), None, WhenUnreachable::Evict, evict, 0),
    ] {
        let mut asked = mk_pod(&defaults);
        if let Some(word) = pod {
            asked["metadata"]["annotations"] = json!({names::WHEN_UNREACHABLE: word});
        }
        let namespace = Namespace {
            virtual_pods: false,
            when_unreachable: namespace.map(str::to_owned),
        };
        let mut rules = mk_rules();
        rules.when_unreachable = flag;
        let known = Known {
            namespace,
            ..Known::default()
        };
        let admitted = admit(&asked, &rules, &known);
        assert_eq!(seconds(&admitted.pod), wanted, "{pod:?} {known:?} {flag:?}");
        let marked =
            admitted.pod["metadata"]["annotations"][names::WHEN_UNREACHABLE] == names::NEVER_DUPLICATE;
        let forbidden = flag == WhenUnreachable::NeverDuplicate || pod == Some(names::NEVER_DUPLICATE);
        assert_eq!(
            marked, forbidden,
            "virtual nodes read it from the pod: {pod:?} {known:?} {flag:?}"
        );
        assert_eq!(admitted.warnings.len(), warned, "{pod:?} {known:?} {flag:?}");
        assert_eq!(
            stash_of(&admitted.pod),
            defaults,
            "below, the lower cluster's own rule holds"
        );
        let again = admit(&admitted.pod, &rules, &known);
        assert_eq!(again.outcome, Outcome::Unchanged, "{pod:?} {known:?} {flag:?}");
    }
}

#[test]
fn avoided_nodes_are_kept_off_and_forgotten_when_their_time_is_over() {
    let avoiding = |nodes: &[&str]| Known {
        avoided: nodes.iter().map(|node| (*node).to_owned()).collect(),
        ..Known::default()
    };
    let pod = mk_pod(&json!({"nodeSelector": {"zone": "z"}}));
    let plain = ask(&pod).pod;
    let first = admit(&pod, &mk_rules(), &avoiding(&["v", "w"])).pod;
    assert_eq!(first["metadata"]["annotations"][names::AVOIDED_NODES], "v,w");
    let terms = &first["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    assert_eq!(
        *terms,
        json!({"nodeSelectorTerms": [{"matchFields": [
            {"key": "metadata.name", "operator": "NotIn", "values": ["v"]},
            {"key": "metadata.name", "operator": "NotIn", "values": ["w"]},
        ]}]})
    );
    assert_eq!(
        stash_of(&first),
        json!({"nodeSelector": {"zone": "z"}}),
        "avoidance acts above"
    );
    assert_eq!(
        admit(&first, &mk_rules(), &avoiding(&["v", "w"])).outcome,
        Outcome::Unchanged
    );
    assert_eq!(ask(&first).pod, plain, "a copy made later is free of it");

    let mut unowned = pod;
    unowned["metadata"]["ownerReferences"][0]["controller"] = false.into();
    assert_eq!(
        admit(&unowned, &mk_rules(), &avoiding(&["v"])).pod["spec"]["affinity"],
        Value::Null
    );
    let mut moved = unowned;
    moved["metadata"]["annotations"] = json!({names::MOVED_FROM: "first"});
    let moved = admit(&moved, &mk_rules(), &avoiding(&["v"])).pod;
    assert_eq!(
        moved["metadata"]["annotations"][names::AVOIDED_NODES],
        "v",
        "its first pod stands for its owner"
    );
}

#[test]
fn hosts_are_kept_apart_below_only() {
    let apart = json!([{"topologyKey": names::HOSTNAME, "labelSelector": {"matchLabels": {"app": "web"}}}]);
    let spread =
        json!([{"topologyKey": names::HOSTNAME, "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}]);
    let affinity = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": apart}});
    let admitted = ask(&mk_pod(
        &json!({"affinity": affinity, "topologySpreadConstraints": spread}),
    ));
    assert_eq!(admitted.pod["spec"], json!({"tolerations": [provider()]}));
    assert_eq!(
        stash_of(&admitted.pod),
        json!({"affinity": affinity, "topologySpreadConstraints": spread})
    );
}

#[test]
fn pods_that_name_no_scheduler_get_the_operators() {
    let mut rules = mk_rules();
    for (operators, own, expected) in [
        (None, json!("default-scheduler"), json!("default-scheduler")),
        (Some("tensile-scheduler"), json!(null), json!("tensile-scheduler")),
        (
            Some("tensile-scheduler"),
            json!("default-scheduler"),
            json!("tensile-scheduler"),
        ),
        (
            Some("tensile-scheduler"),
            json!("tensile-scheduler"),
            json!("tensile-scheduler"),
        ),
        (Some("tensile-scheduler"), json!("batch"), json!("batch")),
    ] {
        rules.scheduler_name = operators.map(str::to_owned);
        let mut spec = json!({"containers": []});
        if !own.is_null() {
            spec["schedulerName"] = own.clone();
        }
        let admitted = admit(&mk_pod(&spec), &rules, &Known::default());
        assert_eq!(
            admitted.pod["spec"]["schedulerName"], expected,
            "{operators:?}, {own}"
        );
    }
}
