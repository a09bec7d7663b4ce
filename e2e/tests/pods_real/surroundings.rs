//! What a program finds around itself: volumes, Services of the upper cluster, and events about what went wrong.

use anyhow::{Context, Result, ensure};
use e2e::{TestResult, support};
use serde_json::{Value, json};

use crate::{DEADLINE, IDLE, NODE, Site, mk_container, mk_pod, on_site};

fn mk_volume(name: &str, path: &str, affinity: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
        "spec": {
            "storageClassName": "", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"},
            "local": {"path": path},
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [affinity]}]}},
        },
    })
}

/// The first thing that a user tries: a claim on a volume that both sides prepared, a ConfigMap and a Secret, all
/// mounted by one pod.
#[test]
fn a_pod_mounts_a_volume_a_config_map_and_a_secret() -> TestResult {
    on_site(async |site| {
        let folder = site.ground.lower.folder().join("data").join(&site.namespace);
        std::fs::create_dir_all(&folder)?;
        let (name, path) = (
            &site.namespace,
            folder.to_str().context("a path that is no text")?,
        );
        let hostname = "kubernetes.io/hostname";
        let below = mk_volume(name, path, &json!({"key": hostname, "operator": "Exists"}));
        let above = mk_volume(
            name,
            path,
            &json!({"key": hostname, "operator": "In", "values": [NODE]}),
        );
        site.ground.lower.apply(&below.to_string()).await?;
        let claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
            "spec": {
                "storageClassName": "", "volumeName": name, "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "1Gi"}},
            },
        });
        let config = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "config"}, "data": {"a": "1"}});
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "secret"}, "stringData": {"b": "2"}});
        let mounts = json!({"volumeMounts": [
            {"name": "data", "mountPath": "/data"},
            {"name": "config", "mountPath": "/config"},
            {"name": "secret", "mountPath": "/secret"},
        ]});
        let spec = json!({
            "volumes": [
                {"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
                {"name": "config", "configMap": {"name": "config"}},
                {"name": "secret", "secret": {"secretName": "secret"}},
            ],
            "containers": [mk_container("main", &format!("cat /config/a /secret/b >/data/seen; {IDLE}"), &mounts)],
        });
        site.apply(&[above, claim, config, secret]).await?;
        site.run(&[mk_pod("first", &spec)]).await?;
        let seen = site.exec("first", "cat /data/seen").await?;
        ensure!(seen == "12", "{seen}");
        ensure!(std::fs::read_to_string(folder.join("seen"))? == "12");

        // The data is there for the next pod.
        site.kubectl_ok(&["delete", "pod", "first"]).await?;
        let mut next = spec;
        next["containers"] = json!([mk_container("main", IDLE, &mounts)]);
        site.run(&[mk_pod("next", &next)]).await?;
        ensure!(site.exec("next", "cat /data/seen").await? == "12");
        Ok(())
    })
}

#[test]
fn a_pod_reaches_a_service_of_the_upper_cluster_by_its_variables() -> TestResult {
    on_site(async |site| {
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]},
        });
        let web = json!({"containers": [mk_container(
            "main", "mkdir /www && echo found >/www/index.html && exec httpd -f -p 8080 -h /www", &json!({}),
        )]});
        site.apply(&[service]).await?;
        site.run(&[
            mk_pod("web", &web),
            mk_pod(
                "client",
                &json!({"containers": [mk_container("main", IDLE, &json!({}))]}),
            ),
        ])
        .await?;
        support::await_condition("an answer of the Service", DEADLINE, || async {
            let fetch = "timeout 5 wget -q -O - http://$WEB_SERVICE_HOST:$WEB_SERVICE_PORT/";
            let page = site.exec("client", fetch).await?;
            Ok((page == "found\n").then_some(()))
        })
        .await
    })
}

#[test]
fn an_image_that_cannot_be_pulled_is_explained_above() -> TestResult {
    on_site(async |site| {
        let container =
            json!({"name": "main", "image": "tensile.local/no-such-image:1", "imagePullPolicy": "Never"});
        site.apply(&[mk_pod("lost", &json!({"containers": [container]}))])
            .await?;
        support::await_condition("the reason in kubectl describe", DEADLINE, || async {
            let described = site.kubectl_ok(&["describe", "pod", "lost"]).await?;
            let events = described.split("\nEvents:").nth(1).unwrap_or_default();
            Ok(events.contains("ErrImageNeverPull").then_some(()))
        })
        .await
    })
}

async fn await_ephemeral(site: &Site, pod: &str) -> Result<()> {
    site.await_pod(pod, "with a running debugger", |pod| {
        pod["status"]["ephemeralContainerStatuses"][0]["state"]
            .get("running")
            .is_some()
    })
    .await
    .map(drop)
}

async fn resize(site: &Site, pod: &str, cpu: &str) -> Result<()> {
    let patch = json!({"spec": {"containers": [{"name": "main", "resources": {"requests": {"cpu": cpu}}}]}});
    let patch = patch.to_string();
    site.kubectl_ok(&["patch", "pod", pod, "--subresource", "resize", "-p", &patch])
        .await
        .map(drop)
}

#[test]
fn a_running_pod_is_debugged_and_resized_without_a_restart() -> TestResult {
    on_site(async |site| {
        let cpu = |quantity: &str| json!({"resources": {"requests": {"cpu": quantity}}});
        site.run(&[mk_pod(
            "app",
            &json!({"containers": [mk_container("main", IDLE, &cpu("10m"))]}),
        )])
        .await?;
        let before = site.lower_pod("app").await?;
        let debugger = [
            "debug",
            "app",
            "--image",
            e2e::BUSYBOX_IMAGE,
            "--container",
            "debugger",
            "--target",
            "main",
            "--profile",
            "general",
            "--image-pull-policy",
            "IfNotPresent",
            "--",
            "sh",
            "-c",
            IDLE,
        ];
        site.kubectl_ok(&debugger).await?;
        await_ephemeral(&site, "app").await?;
        let printed = site
            .kubectl_ok(&["exec", "app", "-c", "debugger", "--", "echo", "inside"])
            .await?;
        ensure!(printed == "inside\n", "{printed}");

        resize(&site, "app", "20m").await?;
        let resized =
            |pod: &Value| pod["status"]["containerStatuses"][0]["resources"]["requests"]["cpu"] == "20m";
        let after = site.await_pod("app", "resized", resized).await?;
        ensure!(
            after["status"]["containerStatuses"][0]["restartCount"] == 0,
            "{after}"
        );
        let below = site.lower_pod("app").await?;
        ensure!(below["metadata"]["uid"] == before["metadata"]["uid"], "{below}");

        // More than the lower node has beside another pod: its kubelet says so above, until the user thinks again.
        let neighbour = json!({"containers": [mk_container("main", IDLE, &cpu("100m"))]});
        site.run(&[mk_pod("neighbour", &neighbour)]).await?;
        let all = ["get", "node", NODE, "-o", "jsonpath={.status.allocatable.cpu}"];
        let all = site.kubectl_ok(&all).await?;
        let pending = |pod: &Value| {
            let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
            let mut reasons = conditions
                .filter(|c| c["type"] == "PodResizePending")
                .map(|c| c["reason"].clone());
            reasons.next()
        };
        resize(&site, "app", &all).await?;
        site.await_pod("app", "too large", |pod| pending(pod) == Some(json!("Deferred")))
            .await?;
        resize(&site, "app", "30m").await?;
        let shown =
            |pod: &Value| pod["status"]["containerStatuses"][0]["resources"]["requests"]["cpu"] == "30m";
        site.await_pod("app", "resized again", |pod| shown(pod) && pending(pod).is_none())
            .await
            .map(drop)
    })
}
