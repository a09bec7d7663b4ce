//! Every field of a pod that the API knows: what becomes of it below, one row per decision, through the whole
//! translation. A field that no row names fails the suite, so that a new one is decided upon.

use super::{mk_pod, with_context, *};

/// The members of PodSpec, as of Kubernetes 1.37 (api/core/v1/types.go).
const POD_SPEC: [&str; 45] = [
    "activeDeadlineSeconds",
    "affinity",
    "automountServiceAccountToken",
    "containers",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "ephemeralContainers",
    "evictionResponders",
    "hostAliases",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostUsers",
    "hostname",
    "hostnameOverride",
    "imagePullSecrets",
    "initContainers",
    "nodeName",
    "nodeSelector",
    "os",
    "overhead",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "readinessGates",
    "resourceClaims",
    "resources",
    "restartPolicy",
    "runtimeClassName",
    "schedulerName",
    "schedulingGates",
    "schedulingGroup",
    "securityContext",
    "serviceAccount",
    "serviceAccountName",
    "setHostnameAsFQDN",
    "shareProcessNamespace",
    "subdomain",
    "terminationGracePeriodSeconds",
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
    // In between they were called so.
    "podGroup",
    "workloadRef",
];

/// The members of Container and EphemeralContainer (the same).
const CONTAINER: [&str; 26] = [
    "args",
    "command",
    "env",
    "envFrom",
    "image",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "name",
    "ports",
    "readinessProbe",
    "resizePolicy",
    "resources",
    "restartPolicy",
    "restartPolicyRules",
    "securityContext",
    "startupProbe",
    "stdin",
    "stdinOnce",
    "targetContainerName",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
    "volumeDevices",
    "volumeMounts",
    "workingDir",
];

/// The members of Volume, of the sources of a projected one, and of EnvVarSource (the same).
const SOURCES: [&str; 40] = [
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "gitRepo",
    "glusterfs",
    "hostPath",
    "image",
    "iscsi",
    "nfs",
    "persistentVolumeClaim",
    "photonPersistentDisk",
    "portworxVolume",
    "projected",
    "quobyte",
    "rbd",
    "scaleIO",
    "secret",
    "storageos",
    "vsphereVolume",
    "clusterTrustBundle",
    "podCertificate",
    "serviceAccountToken",
    "configMapKeyRef",
    "fieldRef",
    "fileKeyRef",
    "resourceFieldRef",
    "secretKeyRef",
    "items",
    "sources",
];

/// What the user, or upper admission, wrote; and what of it the lower pod says. Members that all lower pods have are
/// left out of the latter.
type Row = (&'static str, Value, Value);

/// `value` with a member of tomorrow in every object.
fn with_tomorrow(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let members = members
                .iter()
                .map(|(key, value)| (key.clone(), with_tomorrow(value)));
            members
                .chain([("ofTomorrow".to_owned(), json!({"deep": [1, null]}))])
                .collect::<Object>()
                .into()
        }
        Value::Array(elements) => elements.iter().map(with_tomorrow).collect(),
        value => value.clone(),
    }
}

fn translate(spec: &Value, service_account: ServiceAccount) -> Value {
    with_context(|context| {
        let context = Context {
            service_account,
            ..*context
        };
        let mut lower = to_lower(&mk_pod(spec), &context).unwrap();
        if !lower.ephemeral_containers.is_empty() {
            lower.pod["spec"]["ephemeralContainers"] = json!(lower.ephemeral_containers);
        }
        lower.pod["spec"].take()
    })
}

/// Fields that reach the lower pod as they are, with all that is in them.
fn copied() -> Vec<(&'static str, Value)> {
    let container = json!({
        "name": "c", "image": "i", "command": ["sh"], "args": ["-c"], "workingDir": "/w", "imagePullPolicy": "Never",
        "ports": [{"containerPort": 80, "hostPort": 80}], "stdin": true, "stdinOnce": true, "tty": true,
        "terminationMessagePath": "/m", "terminationMessagePolicy": "File",
        "livenessProbe": {"exec": {}}, "readinessProbe": {"grpc": {}}, "startupProbe": {"httpGet": {}},
        "lifecycle": {"preStop": {"sleep": {}}, "stopSignal": "SIGINT"},
        "resources": {"requests": {"cpu": "1", "example.com/fpga": "1"}, "limits": {}},
        "resizePolicy": [{"resourceName": "cpu"}], "restartPolicy": "Always", "restartPolicyRules": [{"action": "Restart"}],
        "securityContext": {"seccompProfile": {}, "appArmorProfile": {}},
        "volumeMounts": [{"name": "v", "subPath": "s"}], "volumeDevices": [{"name": "d"}],
        "envFrom": [{"prefix": "A_", "configMapRef": {"name": "m"}}, {"secretRef": {"name": "s", "optional": true}}],
    });
    let env = json!([
        {"name": "FIRST", "value": "1"},
        {"name": "MAP", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "k"}}},
        {"name": "SECRET", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k", "optional": true}}},
        {"name": "FILE", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "p", "key": "k"}}},
        {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "LAST", "value": "$(FIRST)$(SECRET)"},
    ]);
    let volumes = SOURCES[..30].iter().filter(|kind| **kind != "projected");
    let volumes = volumes.map(|kind| json!({"name": kind.to_lowercase(), (*kind): {"member": "kept"}}));
    vec![
        (
            "hostname",
            json!({"hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true, "hostnameOverride": "o"}),
        ),
        (
            "dns",
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["10.0.0.1"]}, "hostAliases": [{"ip": "10.0.0.1"}]}),
        ),
        (
            "host namespaces",
            json!({"hostNetwork": true, "hostPID": true, "hostIPC": true}),
        ),
        (
            "security",
            json!({"securityContext": {"runAsUser": 1}, "hostUsers": false, "shareProcessNamespace": true}),
        ),
        (
            "operating system, runtime class",
            json!({"os": {"name": "linux"}, "runtimeClassName": "kata"}),
        ),
        (
            "life",
            json!({"restartPolicy": "Never", "activeDeadlineSeconds": 60, "terminationGracePeriodSeconds": 5}),
        ),
        ("pull secrets", json!({"imagePullSecrets": [{"name": "pull"}]})),
        (
            "resources of the pod",
            json!({"resources": {"requests": {"cpu": "1"}}}),
        ),
        ("container", json!({"containers": [container]})),
        ("init container", json!({"initContainers": [container]})),
        (
            "ephemeral container",
            json!({"ephemeralContainers": [{"name": "e", "targetContainerName": "c"}]}),
        ),
        (
            "environment, in its order",
            json!({"containers": [{"name": "c", "env": env}]}),
        ),
        ("volumes", json!({"volumes": volumes.collect::<Vec<_>>()})),
        (
            "projected volume",
            json!({"volumes": [{"name": "p", "projected": {"defaultMode": 256, "sources": [
                {"configMap": {"name": "m", "optional": true, "items": [{"key": "k", "path": "p"}]}},
                {"secret": {"name": "s"}},
                {"downwardAPI": {"items": [{"path": "p", "resourceFieldRef": {"resource": "limits.cpu"}}]}},
            ]}}]}),
        ),
    ]
}

/// Fields that are left out, or changed.
fn changed() -> Vec<Row> {
    vec![
        (
            "node, scheduler, gates: the lower scheduler places the pod",
            json!({"nodeName": "vnode", "schedulerName": "mine", "schedulingGates": [{"name": "g"}]}),
            json!({}),
        ),
        (
            "without a stash, what speaks about nodes means virtual ones; what acts at both levels comes down",
            json!({
                "nodeSelector": {"disk": "ssd"}, "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone"}],
                "affinity": {
                    "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                        {"matchExpressions": [{"key": "disk", "operator": "Exists"}]},
                    ]}},
                    "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone"}]},
                },
                "tolerations": [{"key": "own"}],
            }),
            json!({
                "topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "zone"}],
                "affinity": {
                    "podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "zone"}]},
                },
            }),
        ),
        (
            "priority and preemption come from the lower cluster",
            json!({"priority": 7, "priorityClassName": "high", "preemptionPolicy": "Never"}),
            json!({}),
        ),
        (
            "overhead is computed again from the runtime class",
            json!({"runtimeClassName": "kata", "overhead": {"podFixed": {"cpu": "1"}}}),
            json!({"runtimeClassName": "kata"}),
        ),
        (
            "readiness gates count above",
            json!({"readinessGates": [{"conditionType": "lb"}]}),
            json!({}),
        ),
        (
            "gang scheduling and evictors name upper objects",
            json!({"schedulingGroup": {}, "podGroup": "g", "workloadRef": {}, "evictionResponders": []}),
            json!({}),
        ),
        (
            "resource claims, with every use",
            json!({
                "resourceClaims": [{"name": "gpu"}], "resources": {"claims": [{"name": "gpu"}], "limits": {"cpu": "1"}},
                "initContainers": [{"name": "i", "resources": {"claims": [{"name": "gpu"}]}}],
                "containers": [{"name": "c", "resources": {"claims": [{"name": "gpu"}], "requests": {"cpu": "1"}}}],
            }),
            json!({
                "resources": {"limits": {"cpu": "1"}}, "initContainers": [{"name": "i", "resources": {}}],
                "containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}],
            }),
        ),
        (
            "trust bundles and pod certificates",
            json!({"volumes": [{"name": "v", "projected": {"sources": [
                {"clusterTrustBundle": {"name": "b"}}, {"podCertificate": {"signerName": "s"}}, {"secret": {"name": "s"}},
            ]}}]}),
            json!({"volumes": [{"name": "v", "projected": {"sources": [{"secret": {"name": "s"}}]}}]}),
        ),
    ]
}

/// The downward API, whose lower values would be others.
fn downward() -> Vec<Row> {
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let literal = |name: &str, value: &str| json!({"name": name, "value": value});
    vec![
        (
            "downward API in the environment, in its order",
            json!({"serviceAccountName": "builder", "nodeName": "vnode", "containers": [{"name": "c", "env": [
                literal("A", "$(B)"), {"name": "UID", "valueFrom": field("metadata.uid")},
                {"name": "NODE", "valueFrom": field("spec.nodeName")},
                {"name": "ACCOUNT", "valueFrom": field("spec.serviceAccountName")}, literal("Z", "$(UID)"),
            ]}]}),
            json!({"containers": [{"name": "c", "env": [
                literal("A", "$(B)"), literal("UID", "u-1"), literal("NODE", "vnode"), literal("ACCOUNT", "builder"),
                literal("Z", "$(UID)"),
            ]}]}),
        ),
        (
            "downward API in volumes",
            json!({"volumes": [{"name": "v", "downwardAPI": {"items": [
                {"path": "uid", "fieldRef": {"fieldPath": "metadata.uid"}},
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
            ]}}]}),
            json!({"volumes": [{"name": "v", "downwardAPI": {"items": [
                {"path": "uid", "fieldRef": {"fieldPath": "metadata.labels['tensile.dev/origin-uid']"}},
                {"path": "labels", "fieldRef": {"fieldPath": "metadata.annotations['tensile.dev/upper-labels']"}},
            ]}}]}),
        ),
    ]
}

/// A pod as upper admission leaves it: with a token.
fn mk_with_token() -> Value {
    json!({
        "serviceAccountName": "builder", "serviceAccount": "builder", "automountServiceAccountToken": true,
        "volumes": [{"name": "kube-api-access-1", "projected": {"sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        ]}}],
        "containers": [{"name": "c", "volumeMounts": [{"name": "kube-api-access-1"}]}],
    })
}

/// Every lower pod says so, unless it has its lower service account.
fn base(automount: bool) -> Value {
    json!({"automountServiceAccountToken": automount, "enableServiceLinks": false})
}

#[test]
fn what_describes_the_workload_arrives_as_it_is_members_of_tomorrow_included() {
    for (row, upper) in copied() {
        let upper = with_tomorrow(&upper);
        let mut expected = upper.clone();
        json_merge(&mut expected, base(false));
        assert_eq!(translate(&upper, ServiceAccount::None), expected, "{row}");
    }
}

#[test]
fn what_belongs_to_the_upper_cluster_is_left_out_or_changed() {
    for (row, upper, lower) in changed().into_iter().chain(downward()) {
        let mut expected = lower;
        json_merge(&mut expected, base(false));
        assert_eq!(translate(&upper, ServiceAccount::None), expected, "{row}");
        // What stands beside such a field is not touched.
        let mut beside = upper;
        beside["ofTomorrow"] = json!({"deep": [1, null]});
        expected["ofTomorrow"] = beside["ofTomorrow"].clone();
        assert_eq!(translate(&beside, ServiceAccount::None), expected, "{row}");
    }
}

#[test]
fn the_account_is_above_below_or_none() {
    let containers = json!([{"name": "c", "volumeMounts": [{"name": "kube-api-access-1"}]}]);
    let secret = |key: &str, path: &str| json!({"secret": {"name": "tensile-token-u-1", "items": [{"key": key, "path": path}]}});
    let volume = json!({"name": "kube-api-access-1", "projected": {"sources": [
        secret("token-0", "token"), secret("ca.crt", "ca.crt"),
    ]}});
    for (service_account, automount, lower) in [
        (
            ServiceAccount::Upper,
            false,
            json!({"volumes": [volume], "containers": containers}),
        ),
        (
            ServiceAccount::Lower,
            true,
            json!({"serviceAccountName": "builder", "serviceAccount": "builder", "containers": [{"name": "c"}]}),
        ),
        (
            ServiceAccount::None,
            false,
            json!({"containers": [{"name": "c"}]}),
        ),
    ] {
        let mut expected = lower;
        json_merge(&mut expected, base(automount));
        assert_eq!(
            translate(&mk_with_token(), service_account),
            expected,
            "{service_account:?}"
        );
    }
}

#[test]
fn every_field_of_the_api_has_a_row() {
    let mut named = BTreeSet::new();
    copied().iter().for_each(|(_, upper)| keys(upper, &mut named));
    changed()
        .iter()
        .chain(&downward())
        .for_each(|(_, upper, _)| keys(upper, &mut named));
    keys(&mk_with_token(), &mut named);
    named.extend(base(false).as_object().unwrap().keys().cloned());
    let missing: Vec<_> = [&POD_SPEC[..], &CONTAINER, &SOURCES]
        .concat()
        .into_iter()
        .filter(|field| !named.contains(*field))
        .collect();
    assert_eq!(missing, [""; 0]);
}

fn keys(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(members) => members.iter().for_each(|(key, value)| {
            found.insert(key.clone());
            keys(value, found);
        }),
        Value::Array(elements) => elements.iter().for_each(|element| keys(element, found)),
        _ => {}
    }
}

fn json_merge(value: &mut Value, more: Value) {
    if let (Some(members), Value::Object(more)) = (value.as_object_mut(), more) {
        members.extend(more);
    }
}
