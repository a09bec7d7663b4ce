//! What is not ours: objects of others below, and pods above that are not run.

use anyhow::{Context, Result, ensure};
use e2e::{TestResult, support};
use futures::StreamExt;
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret};
use kube::api::{DeleteParams, WatchEvent, WatchParams};
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::{DEADLINE, NODE, Site, is_running, mk_pod, on_site};

/// Pods made one after the other under one name; the last one is deleted gently, so that nothing of it is left.
const ROUNDS: u32 = 16;

/// Makes the test's namespace in the first lower cluster, as somebody else would.
async fn settle_below(site: &Site) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(site.first.clone());
    support::create(&namespaces, json!({"metadata": {"name": site.namespace}})).await?;
    support::service_account(&site.first, &site.namespace).await
}

fn mk_foreign_pod(name: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"containers": [{"name": "main", "image": "theirs"}]}})
}

#[test]
fn a_foreign_pod_of_the_same_name_is_left_alone() -> TestResult {
    on_site(async |site| {
        settle_below(site).await?;
        let below: Api<Pod> = site.api(&site.first);
        for name in ["stays", "goes"] {
            support::create(&below, mk_foreign_pod(name)).await?;
            site.await_pod(&site.first, name, "running", is_running).await?;
            site.create(mk_pod(name, NODE, None)).await?;
            let message = site.await_refusal(name, "ForeignNamesake").await?;
            ensure!(
                message.contains(&format!("{}/{name}", site.namespace)),
                "{message}"
            );
        }
        site.api::<Pod>(&site.upper)
            .delete("stays", &DeleteParams::default())
            .await?;
        support::pod_gone(&site.upper, &site.namespace, "stays", DEADLINE).await?;
        for name in ["stays", "goes"] {
            let foreign = site.get::<Pod>(&site.first, name).await?;
            ensure!(foreign["spec"]["containers"][0]["image"] == "theirs", "{foreign}");
            let metadata = &foreign["metadata"];
            ensure!(
                metadata.get("labels").is_none() && metadata.get("deletionTimestamp").is_none(),
                "{foreign}"
            );
        }

        below
            .delete("goes", &DeleteParams::default().grace_period(0))
            .await?;
        let ours = site.await_both(&site.first, "goes").await?;
        ensure!(ours["spec"]["containers"][0]["image"] == "ours", "{ours}");
        Ok(())
    })
}

/// A pod that needs a copy of an object whose name somebody else has below; once that one is gone, it runs.
async fn foreign_dependency<K>(site: &Site, volume: &str, reference: Value, data: &str) -> Result<()>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + std::fmt::Debug
        + DeserializeOwned
        + Serialize,
{
    let object = |value: &str| json!({"metadata": {"name": "taken"}, data: {"a": value}});
    let (above, below) = (site.api::<K>(&site.upper), site.api::<K>(&site.first));
    let theirs = serde_json::to_value(support::create(&below, object("theirs")).await?)?;
    support::create(&above, object("ours")).await?;
    let mut pod = mk_pod(volume, NODE, None);
    pod["spec"]["volumes"] = json!([{"name": "volume", volume: reference}]);
    let name = pod["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .to_lowercase();
    pod["metadata"]["name"] = json!(name);
    site.create(pod).await?;
    let message = site.await_refusal(&name, "DependencyFailed").await?;
    ensure!(
        message.contains("taken") && message.contains("not ours"),
        "{message}"
    );
    let found = site.get::<K>(&site.first, "taken").await?;
    ensure!(found == theirs, "{found} instead of {theirs}");

    below.delete("taken", &DeleteParams::default()).await?;
    site.await_both(&site.first, &name).await?;
    let found = site.get::<K>(&site.first, "taken").await?;
    let ours = site.get::<K>(&site.upper, "taken").await?;
    ensure!(found["data"] == ours["data"], "{found}");
    Ok(())
}

#[test]
fn foreign_config_maps_and_secrets_of_the_same_name_are_left_alone() -> TestResult {
    on_site(async |site| {
        settle_below(site).await?;
        foreign_dependency::<ConfigMap>(site, "configMap", json!({"name": "taken"}), "data").await?;
        foreign_dependency::<Secret>(site, "secret", json!({"secretName": "taken"}), "stringData").await
    })
}

#[test]
fn pods_of_daemon_sets_and_of_kube_system_stay_above() -> TestResult {
    on_site(async |site| {
        let daemon = json!({
            "metadata": {"name": "daemon"},
            "spec": {"selector": {"matchLabels": {"app": "daemon"}}, "template": {
                "metadata": {"labels": {"app": "daemon"}},
                "spec": {
                    "nodeSelector": {"clusterID": NODE},
                    "tolerations": [{"operator": "Exists"}],
                    "containers": [{"name": "main", "image": "ours"}],
                },
            }},
        });
        support::create(&site.api::<DaemonSet>(&site.upper), daemon).await?;
        let name = support::await_condition("the pod of the DaemonSet", DEADLINE, || async {
            let pods = site.pods(&site.upper).await?;
            Ok(pods
                .first()
                .and_then(|pod| pod["metadata"]["name"].as_str().map(str::to_owned)))
        })
        .await?;
        let message = site.await_refusal(&name, "NotOffloaded").await?;
        ensure!(message.starts_with("DaemonSet pods"), "{message}");

        let system = Site {
            namespace: "kube-system".to_owned(),
            upper: site.upper.clone(),
            first: site.first.clone(),
            second: site.second.clone(),
            ground: site.ground,
        };
        system.create(mk_pod("system", NODE, None)).await?;
        let message = system.await_refusal("system", "NotOffloaded").await?;
        ensure!(message.contains("kube-system"), "{message}");

        ensure!(site.pods(&site.first).await?.is_empty() && system.pods(&site.first).await?.is_empty());
        Ok(())
    })
}

/// Looks at every state of the pods of a namespace until the stream ends; fails when a status speaks of another
/// pod's container.
async fn watch_images(pods: Api<Pod>) -> Result<usize> {
    let mut events = pods.watch(&WatchParams::default(), "0").await?.boxed();
    let mut seen = 0;
    while let Some(event) = events.next().await {
        let pod = match event? {
            WatchEvent::Added(pod) | WatchEvent::Modified(pod) | WatchEvent::Deleted(pod) => {
                serde_json::to_value(pod)?
            }
            _ => continue,
        };
        let wanted = &pod["spec"]["containers"][0]["image"];
        let shown = &pod["status"]["containerStatuses"][0]["image"];
        ensure!(
            shown.is_null() || shown == wanted,
            "a status is another pod's: {pod}"
        );
        seen += usize::from(!shown.is_null());
        if pod["metadata"]["labels"]["last"] == "true" && is_running(&pod) {
            return Ok(seen);
        }
    }
    anyhow::bail!("the watch ended early")
}

#[test]
fn a_pod_made_again_and_again_never_shows_the_status_of_an_earlier_one() -> TestResult {
    on_site(async |site| {
        let mut watch = JoinSet::new();
        watch.spawn(watch_images(site.api(&site.upper)));
        let pods: Api<Pod> = site.api(&site.upper);
        for round in 0..ROUNDS {
            let mut pod = mk_pod("same", NODE, None);
            pod["spec"]["containers"][0]["image"] = json!(format!("image-{round}"));
            site.create(pod).await?;
            // Caught at different moments of its life.
            match round % 4 {
                0 => {}
                1 => drop(
                    site.await_pod(&site.first, "same", "below", |pod| !pod.is_null())
                        .await?,
                ),
                // kwok deletes by name, without a UID: it may take a pod for its force-deleted namesake, and what is
                // deleted below goes above, too.
                _ => {
                    let settled = |pod: &Value| pod.is_null() || is_running(pod);
                    drop(
                        site.await_pod(&site.upper, "same", "running or gone", settled)
                            .await?,
                    );
                }
            }
            let gentle = round % 2 == 0 || round == ROUNDS - 1;
            let grace = DeleteParams::default().grace_period(u32::from(gentle));
            match pods.delete("same", &grace).await {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                deleted => drop(deleted?),
            }
            support::pod_gone(&site.upper, &site.namespace, "same", DEADLINE).await?;
        }
        let mut pod = mk_pod("same", NODE, None);
        pod["metadata"]["labels"] = json!({"last": "true"});
        site.create(pod).await?;
        site.await_both(&site.first, "same").await?;
        let seen = tokio::time::timeout(DEADLINE, watch.join_next())
            .await?
            .context("no watch")???;
        ensure!(seen >= 8, "only {seen} states with containers were seen");
        Ok(())
    })
}
