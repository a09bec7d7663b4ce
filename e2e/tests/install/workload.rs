//! What users run: something of everything that a pod can need, so that the rights for it are seen used.

use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::support;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::{Value, json};

use crate::ground::{DEMO, Ground, mk_containers};

const DEADLINE: Duration = Duration::from_secs(120);
/// Of the storage class above, and with `-below` of the one that it stands for.
const CLASS: &str = "demo";

/// A pod of this name is made and runs on a virtual node, by default in the cluster a; logs and exec work.
pub(crate) async fn runs(ground: &Ground, name: &str, spec: &Value) -> Result<()> {
    let mut pod = json!({
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 1, "nodeSelector": {"clusterID": "a"},
            "containers": mk_containers(),
        },
    });
    for (member, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][member] = value.clone();
    }
    let client = ground.upper.client().await?;
    support::create(&Api::<Pod>::namespaced(client.clone(), DEMO), pod).await?;
    let pod = support::pod_running(&client, DEMO, name, DEADLINE).await?;
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
    ensure!(matches!(node, Some("a" | "b")), "it runs on {node:?}");
    logs(ground, name).await?;
    let host = ground.demo(&["exec", name, "--", "hostname"]).await?;
    ensure!(host.trim() == name, "{host:?}");
    Ok(())
}

/// Waits for the log: a container runs before its command has written anything.
pub(crate) async fn logs(ground: &Ground, name: &str) -> Result<()> {
    support::await_condition("the log", DEADLINE, || async {
        let logs = ground.demo(&["logs", name]).await?;
        ensure!(logs == "hello\n", "{logs:?}");
        Ok(Some(()))
    })
    .await
}

/// A pod with a ConfigMap, a Secret, a token, a volume and a Service runs, changes, is looked at, and goes.
pub(crate) async fn uses_everything(ground: &Ground) -> Result<()> {
    prepare_volume(ground).await?;
    ground.demo_apply(&mk_needs(1)).await?;
    let spec = json!({
        "nodeSelector": {"clusterID": "b"},
        "volumes": [
            {"name": "config", "configMap": {"name": "needed"}},
            {"name": "secret", "secret": {"secretName": "needed"}},
            {"name": "data", "persistentVolumeClaim": {"claimName": "needed"}},
        ],
    });
    runs(ground, "everything", &spec).await?;
    // Copies follow, and the pod's metadata, resources and containers.
    ground.demo_apply(&mk_needs(2)).await?;
    ground
        .demo(&["label", "pod", "everything", "app=everything"])
        .await?;
    let more = r#"{"spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": "20m"}}}]}}"#;
    ground
        .demo(&[
            "patch",
            "pod",
            "everything",
            "--subresource",
            "resize",
            "-p",
            more,
        ])
        .await?;
    let debug = ["debug", "everything", "--image", e2e::BUSYBOX_IMAGE, "--", "true"];
    ground.demo(&debug).await?;
    ground
        .kubectl(&["get", "--raw", "/api/v1/nodes/b/proxy/metrics/resource"])
        .await?;
    below_follows(ground).await?;
    broken_pods_say_why(ground).await?;
    ground
        .demo(&["delete", "pod/everything", "pvc/needed", "service/needed"])
        .await
        .map(drop)
}

/// Both classes, and below what a provisioner would make.
async fn prepare_volume(ground: &Ground) -> Result<()> {
    let below = format!("{CLASS}-below");
    let class = |name: &str, provisioner: &str, parameters: Value| {
        json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name},
            "provisioner": provisioner, "parameters": parameters, "volumeBindingMode": "WaitForFirstConsumer",
            "reclaimPolicy": "Delete"})
    };
    let above = class(CLASS, "tensile.dev", json!({"storageClassName": below}));
    ground.upper.apply(&above.to_string()).await?;
    let lower = &ground.lower[1];
    let path = lower.folder().join("volume");
    let volume = json!({"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": "demo"}, "spec": {
        "storageClassName": below, "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
        "persistentVolumeReclaimPolicy": "Retain", "hostPath": {"path": path, "type": "DirectoryOrCreate"},
    }});
    lower
        .apply(&class(&below, "kubernetes.io/no-provisioner", Value::Null).to_string())
        .await?;
    lower.apply(&volume.to_string()).await
}

/// What the pod refers to, in this version.
fn mk_needs(version: u16) -> Value {
    let metadata = json!({"name": "needed", "namespace": DEMO});
    let text = version.to_string();
    let claim = json!({"storageClassName": CLASS, "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}});
    let service = json!({"selector": {"app": "everything"}, "ports": [{"port": version}]});
    json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {"version": text}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": {"version": text}},
        {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": claim},
        {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service},
    ]})
}

async fn below_follows(ground: &Ground) -> Result<()> {
    let lower = &ground.lower[1];
    support::await_condition("the changes below", DEADLINE, || async {
        let see = async |what: &str, path: &str| {
            let path = format!("jsonpath={{{path}}}");
            lower.kubectl(&["-n", DEMO, "get", what, "-o", &path]).await?.ok()
        };
        let version = see("configmap/needed", ".data.version").await?;
        let label = see("pod/everything", ".metadata.labels.app").await?;
        let cpu = see("pod/everything", ".spec.containers[0].resources.requests.cpu").await?;
        let debugger = see("pod/everything", ".spec.ephemeralContainers[0].name").await?;
        let slices = see("endpointslices", ".items[*].endpoints[*].addresses").await?;
        ensure!(
            (&*version, &*label, &*cpu) == ("2", "everything", "20m")
                && !debugger.is_empty()
                && !slices.is_empty(),
            "{version} {label} {cpu} {debugger} {slices}"
        );
        Ok(Some(()))
    })
    .await
}

/// An event of the lower pod becomes one of the upper pod.
async fn broken_pods_say_why(ground: &Ground) -> Result<()> {
    let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "broken", "namespace": DEMO}, "spec": {
        "terminationGracePeriodSeconds": 1, "nodeSelector": {"clusterID": "b"},
        "containers": [{"name": "c", "image": e2e::BUSYBOX_IMAGE, "command": ["/no/such/program"]}],
    }});
    ground.demo_apply(&pod).await?;
    support::await_condition("an event", DEADLINE, || async {
        let events = ground
            .demo(&["get", "events", "--field-selector", "involvedObject.name=broken"])
            .await?;
        ensure!(events.contains("no such file"), "{events}");
        Ok(Some(()))
    })
    .await?;
    ground.demo(&["delete", "pod/broken"]).await.map(drop)
}
