//! What the translation does beside the fields one by one, which are in `golden`.

use super::*;

mod golden;

/// Runs with a context in which nothing is special.
pub(super) fn with_context<T>(run: impl FnOnce(&Context<'_>) -> T) -> T {
    let (node_labels, ignored_keys, policy) = (BTreeMap::new(), BTreeSet::new(), Policy::default());
    let context = Context {
        origin_cluster: "upper-uid",
        node_name: "vnode",
        node_labels: &node_labels,
        ignored_keys: &ignored_keys,
        ignore_labels: &[],
        lower_namespace: "shop",
        service_env: &[],
        service_account: ServiceAccount::None,
        policy: &policy,
    };
    run(&context)
}

pub(super) fn mk_pod(spec: &Value) -> Value {
    json!({
        "metadata": {"name": "web-0", "namespace": "shop", "uid": "u-1"},
        "spec": spec,
    })
}

fn translate(upper: &Value) -> Lower {
    with_context(|context| to_lower(upper, context).unwrap())
}

#[test]
fn identity_goes_and_the_way_back_is_added() {
    let upper = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "web-0", "generateName": "web-", "namespace": "shop", "uid": "u-1", "resourceVersion": "7",
            "generation": 2, "creationTimestamp": "2026-01-01T00:00:00Z", "deletionTimestamp": "2026-01-01T00:00:00Z",
            "deletionGracePeriodSeconds": 30, "managedFields": [{}], "selfLink": "/x",
            "ownerReferences": [{"uid": "rs"}], "finalizers": ["a/b"], "newField": {"kept": true},
            "labels": {"app": "web", "virtual-pod": "true", "pod-template-hash": "5", "tensile.dev/origin-uid": "other",
                "tensile.dev/cluster": "mine"},
            "annotations": {
                "note": "kept", "clusterSelector": "{}", "tensile.dev/split": "{}",
                "kubernetes.io/config.source": "file", "kubectl.kubernetes.io/last-applied-configuration": "{}",
            },
        },
        "spec": {"containers": [{"name": "c", "image": "i", "newField": 1}], "newField": [1]},
        "status": {"phase": "Pending"},
    });
    let lower = translate(&upper);
    assert_eq!(
        lower.pod,
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": "web-0", "namespace": "shop", "newField": {"kept": true},
                "labels": {
                    "app": "web", "virtual-pod": "true", "pod-template-hash": "5",
                    "tensile.dev/origin-cluster": "upper-uid", "tensile.dev/origin-node": "vnode",
                    "tensile.dev/origin-uid": "u-1",
                },
                "annotations": {
                    "note": "kept", "tensile.dev/origin": "shop/web-0", "tensile.dev/intent": lower.intent,
                    "tensile.dev/applied": lower.pod["metadata"]["annotations"]["tensile.dev/applied"],
                },
            },
            "spec": {
                "containers": [{"name": "c", "image": "i", "newField": 1}], "newField": [1],
                "automountServiceAccountToken": false, "enableServiceLinks": false,
            },
        })
    );
}

#[test]
fn ignored_labels_stay_above_and_are_remembered() {
    let mut upper = mk_pod(&json!({}));
    upper["metadata"]["labels"] = json!({"app": "web", "team": "a", "tier": ""});
    let ignored = ["team", "tier", "absent"].map(str::to_owned);
    let metadata = with_context(|context| {
        let context = Context {
            ignore_labels: &ignored,
            ..*context
        };
        to_lower(&upper, &context).unwrap().pod["metadata"].take()
    });
    assert_eq!(
        metadata["labels"]
            .as_object()
            .unwrap()
            .keys()
            .filter(|k| !k.contains('/'))
            .collect::<Vec<_>>(),
        ["app"]
    );
    assert_eq!(
        metadata["annotations"]["tripped-labels"],
        json!(r#"{"team":"a","tier":""}"#)
    );
}

#[test]
fn the_policy_names_scheduler_and_priority_class_and_refuses_the_host() {
    let policy = Policy {
        scheduler_name: Some("lower-scheduler".to_owned()),
        priority_classes: BTreeMap::from([("high".to_owned(), "upper-high".to_owned())]),
        host_namespaces: false,
        host_path: false,
    };
    let run = |spec: &Value| {
        let context = |context: &Context<'_>| {
            to_lower(
                &mk_pod(spec),
                &Context {
                    policy: &policy,
                    ..*context
                },
            )
        };
        with_context(context).map(|lower| lower.pod["spec"].clone())
    };
    let spec =
        run(&json!({"priorityClassName": "high", "schedulerName": "x", "hostNetwork": false})).unwrap();
    assert_eq!(spec["schedulerName"], "lower-scheduler");
    assert_eq!(spec["priorityClassName"], "upper-high");
    for (spec, named) in [
        (json!({"hostNetwork": true}), "hostNetwork"),
        (json!({"hostPID": true}), "hostPID"),
        (json!({"hostIPC": true}), "hostIPC"),
        (
            json!({"volumes": [{"name": "root", "hostPath": {"path": "/"}}]}),
            "hostPath of volume root",
        ),
    ] {
        let error = run(&spec).unwrap_err().to_string();
        assert!(error.starts_with(named), "{error}");
    }
}

#[test]
fn the_user_learns_what_is_left_out() {
    let upper = mk_pod(&json!({
        "resourceClaims": [{"name": "gpu"}],
        "schedulingGroup": {"podGroupName": "g"},
        "volumes": [{"name": "v", "projected": {"sources": [{"clusterTrustBundle": {"path": "p"}}]}}],
    }));
    let notes = translate(&upper).notes;
    let notes: Vec<_> = notes
        .iter()
        .map(|note| (note.reason(), note.to_string()))
        .collect();
    let note = |reason, text: &str| (reason, text.to_owned());
    assert_eq!(
        notes,
        [
            note(
                "FieldNotOffloaded",
                "schedulingGroup refers to objects of the upper cluster and is left out of the lower pod"
            ),
            note(
                "ResourceClaimsNotOffloaded",
                "resource claims are bound to nodes of one cluster and are left out of the lower pod: gpu"
            ),
            note(
                "VolumeSourceNotOffloaded",
                "volume v: source clusterTrustBundle has no meaning in the lower cluster and is left out"
            ),
        ]
    );
}

#[test]
fn a_pod_without_identity_is_malformed() {
    for (upper, path) in [
        (json!({"spec": {}}), "metadata"),
        (
            json!({"metadata": {"name": "n", "namespace": "m", "uid": "u"}}),
            "spec",
        ),
        (
            json!({"metadata": {"name": "n", "namespace": "m"}, "spec": {}}),
            "uid",
        ),
        (
            json!({"metadata": {"namespace": "m", "uid": "u"}, "spec": {}}),
            "name",
        ),
    ] {
        let error = with_context(|context| to_lower(&upper, context))
            .unwrap_err()
            .to_string();
        assert_eq!(
            error,
            format!("{path} of the upper pod is missing or of the wrong type")
        );
    }
}

#[test]
fn ephemeral_containers_wait_for_the_pod_but_count_for_the_intent() {
    let without = translate(&mk_pod(&json!({"containers": [{"name": "c"}]})));
    let with = translate(&mk_pod(&json!({
        "containers": [{"name": "c"}],
        "ephemeralContainers": [{"name": "debug", "image": "sh"}],
    })));
    assert_eq!(with.pod, without.pod);
    assert_eq!(
        with.ephemeral_containers,
        [json!({"name": "debug", "image": "sh"})]
    );
    assert_eq!(
        without.pod["metadata"]["annotations"]["tensile.dev/intent"],
        without.intent
    );
    assert_ne!(with.intent, without.intent);
}

#[test]
fn service_variables_come_first_and_yield_to_the_containers_own() {
    let env = [
        ("A_HOST".to_owned(), "1".to_owned()),
        ("B_HOST".to_owned(), "2".to_owned()),
    ];
    let upper = mk_pod(&json!({
        "initContainers": [{"name": "i"}],
        "containers": [{"name": "c", "env": [{"name": "X", "value": "$(B_HOST)"}, {"name": "A_HOST", "value": "mine"}]}],
        "ephemeralContainers": [{"name": "e"}],
    }));
    let translate = |env: &[(String, String)]| {
        with_context(|context| {
            to_lower(
                &upper,
                &Context {
                    service_env: env,
                    ..*context
                },
            )
            .unwrap()
        })
    };
    let lower = translate(&env);
    let (a, b) = (
        json!({"name": "A_HOST", "value": "1"}),
        json!({"name": "B_HOST", "value": "2"}),
    );
    assert_eq!(
        lower.pod["spec"]["initContainers"],
        json!([{"name": "i", "env": [a, b]}])
    );
    assert_eq!(lower.ephemeral_containers, [json!({"name": "e", "env": [a, b]})]);
    let own = json!([b, {"name": "X", "value": "$(B_HOST)"}, {"name": "A_HOST", "value": "mine"}]);
    assert_eq!(lower.pod["spec"]["containers"][0]["env"], own);
    assert_eq!(
        lower.intent,
        translate(&[]).intent,
        "a new service is no reason to update a pod"
    );
}

#[test]
fn the_stash_says_what_places_the_pod_below() {
    let mut upper = mk_pod(&json!({"nodeSelector": {"clusterID": "a"}, "tolerations": [{"key": "upper"}]}));
    upper["metadata"]["annotations"] = json!({
        names::CLUSTER_SELECTOR: json!({"nodeSelector": {"disk": "ssd"}, "tolerations": [{"key": "lower"}]}).to_string(),
    });
    let spec = translate(&upper).pod["spec"].take();
    assert_eq!(spec["nodeSelector"], json!({"disk": "ssd"}));
    assert_eq!(
        spec["tolerations"],
        json!([{"key": "lower"}, {"key": "upper"}]),
        "one was added since"
    );

    upper["metadata"]["annotations"][names::CLUSTER_SELECTOR] = json!("{\"nodeSelector\": 1}");
    let error = with_context(|context| to_lower(&upper, context)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot read the scheduling constraints of the pod"
    );
    assert!(
        std::error::Error::source(&error)
            .unwrap()
            .to_string()
            .contains("clusterSelector")
    );
}
