//! ConfigMaps, Secrets and the downward API, as programs in pods see them.

use anyhow::{Result, ensure};
use e2e::{TestResult, support};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::Api;
use serde_json::{Value, json};

use crate::{DEADLINE, IDLE, NODE, Site, mk_container, mk_pod, on_site};

fn mk_config(name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data})
}

fn mk_secret(name: &str, data: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data})
}

/// A pod with the ConfigMap `config` and the Secret `secret` in each way, and with missing ones where that is allowed.
fn mk_user() -> Value {
    let volumes = json!([
        {"name": "config", "configMap": {"name": "config"}},
        {"name": "items", "configMap": {"name": "config", "items": [{"key": "b", "path": "folder/renamed"}]}},
        {"name": "secret", "secret": {"secretName": "secret", "defaultMode": 0o400}},
        {"name": "projected", "projected": {"sources": [
            {"configMap": {"name": "config", "items": [{"key": "a", "path": "a"}]}},
            {"secret": {"name": "secret"}},
            {"secret": {"name": "missing", "optional": true}},
        ]}},
        {"name": "missing", "configMap": {"name": "missing", "optional": true}},
    ]);
    let mounts = json!([
        {"name": "config", "mountPath": "/config"},
        {"name": "items", "mountPath": "/items"},
        {"name": "secret", "mountPath": "/secret"},
        {"name": "projected", "mountPath": "/projected"},
        {"name": "missing", "mountPath": "/missing"},
        {"name": "config", "mountPath": "/etc/one-file", "subPath": "a"},
    ]);
    let env = json!([
        {"name": "FROM_CONFIG", "valueFrom": {"configMapKeyRef": {"name": "config", "key": "a"}}},
        {"name": "FROM_SECRET", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "password"}}},
        {"name": "NO_KEY", "valueFrom": {"configMapKeyRef": {"name": "config", "key": "c", "optional": true}}},
        {"name": "NO_MAP", "valueFrom": {"configMapKeyRef": {"name": "missing", "key": "c", "optional": true}}},
    ]);
    let env_from = json!([
        {"prefix": "C_", "configMapRef": {"name": "config"}},
        {"prefix": "S_", "secretRef": {"name": "secret"}},
        {"secretRef": {"name": "missing", "optional": true}},
    ]);
    let container = json!({"volumeMounts": mounts, "env": env, "envFrom": env_from});
    mk_pod(
        "user",
        &json!({"volumes": volumes, "containers": [mk_container("main", IDLE, &container)]}),
    )
}

fn mk_reader(config: &str) -> Value {
    let mount = json!({"volumeMounts": [{"name": "config", "mountPath": "/config"}]});
    let spec = json!({
        "volumes": [{"name": "config", "configMap": {"name": config}}],
        "containers": [mk_container("main", IDLE, &mount)],
    });
    mk_pod("reader", &spec)
}

/// Waits until a command prints something.
async fn await_output(site: &Site, pod: &str, script: &str, expected: &str) -> Result<()> {
    support::await_condition(&format!("{script} to print {expected:?}"), DEADLINE, || async {
        let printed = site.exec(pod, script).await?;
        ensure!(printed == expected, "it prints {printed:?}");
        Ok(Some(()))
    })
    .await
}

#[test]
fn config_maps_and_secrets_arrive_in_each_way_of_use() -> TestResult {
    on_site(async |site| {
        let config = mk_config("config", &json!({"a": "one", "b": "two"}));
        let secret = mk_secret("secret", &json!({"password": "three"}));
        let registry = json!({"auths": {"registry.example": {"auth": "dXNlcjpwYXNz"}}}).to_string();
        let mut pull = mk_secret("pull", &json!({".dockerconfigjson": registry}));
        pull["type"] = json!("kubernetes.io/dockerconfigjson");
        site.apply(&[config, secret, pull]).await?;
        let mut user = mk_user();
        user["spec"]["imagePullSecrets"] = json!([{"name": "pull"}]);
        site.run(&[user]).await?;
        // There is no registry here that would ask for it.
        let secrets: Api<Secret> = Api::namespaced(site.ground.lower.client().await?, &site.namespace);
        ensure!(secrets.get("pull").await?.type_.as_deref() == Some("kubernetes.io/dockerconfigjson"));
        let files = "cd /; for f in config/* items/*/* secret/* projected/* missing/* etc/one-file; do
                         [ -f $f ] && echo $f=$(cat $f); done; true";
        let expected = "config/a=one\nconfig/b=two\nitems/folder/renamed=two\nsecret/password=three\n\
                        projected/a=one\nprojected/password=three\netc/one-file=one\n";
        let found = site.exec("user", files).await?;
        ensure!(found == expected, "{found}");
        let mode = site.exec("user", "stat -L -c %a /secret/password").await?;
        ensure!(mode == "400\n", "{mode}");
        let env = "echo $FROM_CONFIG $FROM_SECRET $C_a $C_b $S_password [$NO_KEY$NO_MAP]";
        let found = site.exec("user", env).await?;
        ensure!(found == "one three one two three []\n", "{found}");

        // What is optional reaches a pod that runs already.
        site.apply(&[
            mk_config("missing", &json!({"c": "four"})),
            mk_secret("missing", &json!({"d": "five"})),
        ])
        .await?;
        let below: Api<ConfigMap> = Api::namespaced(site.ground.lower.client().await?, &site.namespace);
        support::await_condition("the copies", DEADLINE, || async {
            let there =
                below.get_opt("missing").await?.is_some() && secrets.get_opt("missing").await?.is_some();
            Ok(there.then_some(()))
        })
        .await?;
        // A kubelet looks at its volumes once a minute, and when the pod changes.
        site.kubectl_ok(&["annotate", "pod", "user", "look=again"])
            .await?;
        await_output(&site, "user", "cat /missing/c /projected/d", "fourfive").await
    })
}

#[test]
fn a_changed_config_map_reaches_the_mounted_file() -> TestResult {
    on_site(async |site| {
        site.apply(&[mk_config("config", &json!({"a": "before"}))])
            .await?;
        site.run(&[mk_reader("config")]).await?;
        await_output(&site, "reader", "cat /config/a", "before").await?;
        site.apply(&[mk_config("config", &json!({"a": "after"}))]).await?;
        let below: Api<ConfigMap> = Api::namespaced(site.ground.lower.client().await?, &site.namespace);
        support::await_condition("the copy to change", DEADLINE, || async {
            let data = below.get("config").await?.data.unwrap_or_default();
            Ok((data.get("a").map(String::as_str) == Some("after")).then_some(()))
        })
        .await?;
        // A kubelet looks at its volumes once a minute, and when the pod changes.
        site.kubectl_ok(&["annotate", "pod", "reader", "look=again"])
            .await?;
        await_output(&site, "reader", "cat /config/a", "after").await
    })
}

#[test]
fn a_pod_says_what_it_misses_and_runs_once_that_is_there() -> TestResult {
    on_site(async |site| {
        site.apply(&[mk_reader("later")]).await?;
        let refused = |pod: &Value| pod["status"]["reason"] == "MandatoryConfigMapNotFound";
        let pod = site.await_pod("reader", "to say why it waits", refused).await?;
        ensure!(pod["status"]["phase"] == "Pending");
        ensure!(
            pod["status"]["message"] == "configmap \"later\" not found",
            "{}",
            pod["status"]
        );
        let selector = "involvedObject.name=reader,reason=MandatoryConfigMapNotFound,type=Warning";
        support::await_condition("an event", DEADLINE, || async {
            let events = site
                .kubectl_ok(&["get", "events", "-o", "name", "--field-selector", selector])
                .await?;
            Ok((!events.is_empty()).then_some(()))
        })
        .await?;
        ensure!(site.lower_pod("reader").await?.is_null());

        site.apply(&[mk_config("later", &json!({"a": "here"}))]).await?;
        let pod = support::pod_running(&site.client, &site.namespace, "reader", DEADLINE).await?;
        ensure!(pod.status.is_some_and(|status| status.reason.is_none()));
        ensure!(site.exec("reader", "cat /config/a").await? == "here");
        Ok(())
    })
}

#[test]
fn the_downward_api_tells_of_the_upper_pod() -> TestResult {
    on_site(async |site| {
        let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
        let env: Vec<Value> = [
            ("NAME", "metadata.name"),
            ("NAMESPACE", "metadata.namespace"),
            ("UID_ABOVE", "metadata.uid"),
            ("NODE", "spec.nodeName"),
            ("APP", "metadata.labels['app']"),
        ]
        .map(|(name, path)| json!({"name": name, "valueFrom": field(path)}))
        .into();
        let labels = json!({"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}});
        let spec = json!({
            "volumes": [{"name": "info", "downwardAPI": {"items": [labels]}}],
            "containers": [mk_container("main", IDLE, &json!({
                "env": env, "volumeMounts": [{"name": "info", "mountPath": "/info"}],
            }))],
        });
        site.run(&[mk_pod("curious", &spec)]).await?;
        let uid = site.pod("curious").await?["metadata"]["uid"].clone();
        let expected = format!(
            "curious {} {} {NODE} curious\n",
            site.namespace,
            uid.as_str().unwrap_or_default()
        );
        let found = site
            .exec("curious", "echo $NAME $NAMESPACE $UID_ABOVE $NODE $APP")
            .await?;
        ensure!(found == expected, "{found} instead of {expected}");
        let labels = site.exec("curious", "cat /info/labels").await?;
        ensure!(labels == "app=\"curious\"", "{labels}");
        Ok(())
    })
}
