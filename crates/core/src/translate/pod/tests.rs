//! A golden test for every row of the translation.

use super::*;

/// A context over static parts, with changes made by `change`.
fn with_context<T>(change: impl FnOnce(&mut Context<'_>), run: impl FnOnce(&Context<'_>) -> T) -> T {
    let (node_labels, ignored_keys, policy) = (BTreeMap::new(), BTreeSet::new(), Policy::default());
    let mut context = Context {
        origin_cluster: "upper-uid",
        node_name: "vnode",
        node_labels: &node_labels,
        ignored_keys: &ignored_keys,
        ignore_labels: &[],
        lower_namespace: "shop",
        service_env: &[],
        policy: &policy,
    };
    change(&mut context);
    run(&context)
}

fn mk_pod(spec: &Value) -> Value {
    json!({
        "metadata": {"name": "web-0", "namespace": "shop", "uid": "u-1"},
        "spec": spec,
    })
}

fn translate(upper: &Value) -> Lower {
    with_context(|_| {}, |context| to_lower(upper, context).unwrap())
}

/// The members of the lower spec for an upper `spec`, less those that every lower pod has.
fn lower_spec(spec: &Value) -> Value {
    let mut lower = translate(&mk_pod(spec)).pod;
    let spec = lower["spec"].as_object_mut().unwrap();
    assert_eq!(spec.remove("automountServiceAccountToken"), Some(json!(false)));
    assert_eq!(spec.remove("enableServiceLinks"), Some(json!(false)));
    lower["spec"].take()
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
            "labels": {"app": "web", "virtual-pod": "true", "pod-template-hash": "5", "tensile.dev/origin-uid": "other"},
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
fn the_service_account_leaves_no_trace() {
    let mounts = json!([
        {"name": "kube-api-access-x2x", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"},
        {"name": "token", "mountPath": "/t"},
        {"name": "mixed", "mountPath": "/m"},
    ]);
    let lower = lower_spec(&json!({
        "serviceAccountName": "builder", "serviceAccount": "builder", "automountServiceAccountToken": true,
        "volumes": [
            {"name": "kube-api-access-x2x", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token"}}, {"configMap": {"name": "kube-root-ca.crt"}},
            ]}},
            {"name": "token", "projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
            {"name": "mixed", "projected": {"sources": [
                {"serviceAccountToken": {"path": "token"}}, {"secret": {"name": "s"}},
            ]}},
        ],
        "initContainers": [{"name": "i", "volumeMounts": mounts}],
        "containers": [{"name": "c", "volumeMounts": [mounts[0]]}],
    }));
    let left = json!([{"name": "mixed", "mountPath": "/m"}]);
    assert_eq!(
        lower,
        json!({
            "volumes": [{"name": "mixed", "projected": {"sources": [{"secret": {"name": "s"}}]}}],
            "initContainers": [{"name": "i", "volumeMounts": left}],
            "containers": [{"name": "c"}],
        })
    );
}
