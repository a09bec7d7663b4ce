//! How pods end: by their grace period, and when somebody deletes them below.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::{TestResult, support};
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, WatchEvent, WatchParams};
use serde_json::{Value, json};

use crate::{DEADLINE, IDLE, mk_container, mk_simple, mk_spec, on_site, with};

/// The pod as it was when it was deleted.
async fn last_state(pods: &Api<Pod>, name: &str, version: &str) -> Result<Value> {
    let params = WatchParams::default().fields(&format!("metadata.name={name}"));
    let mut events = pods.watch(&params, version).await?.boxed();
    while let Some(event) = events.next().await {
        if let WatchEvent::Deleted(pod) = event? {
            return Ok(serde_json::to_value(pod)?);
        }
    }
    anyhow::bail!("the watch ended before the pod")
}

#[test]
fn a_pod_ends_in_its_own_way_and_its_last_words_are_shown() -> TestResult {
    on_site(async |site| {
        let script = "trap 'echo last words >/dev/termination-log; exit 0' TERM; sleep 3600 & wait";
        let mut pod = mk_simple("polite", script);
        pod["spec"]["terminationGracePeriodSeconds"] = json!(60);
        site.run(&[pod]).await?;
        let pods: Api<Pod> = Api::namespaced(site.client.clone(), &site.namespace);
        let version = pods
            .get("polite")
            .await?
            .metadata
            .resource_version
            .unwrap_or_default();
        let asked = Instant::now();
        pods.delete("polite", &DeleteParams::default()).await?;
        let last = tokio::time::timeout(DEADLINE, last_state(&pods, "polite", &version)).await??;
        let terminated = &last["status"]["containerStatuses"][0]["state"]["terminated"];
        ensure!(terminated["exitCode"] == 0, "{last}");
        ensure!(terminated["message"] == "last words\n", "{last}");
        ensure!(
            asked.elapsed() < Duration::from_secs(30),
            "it waited out its grace period"
        );
        Ok(())
    })
}

#[test]
fn a_pod_that_does_not_listen_is_killed_after_its_grace_period() -> TestResult {
    on_site(async |site| {
        let mut pod = mk_simple("deaf", "trap '' TERM; while :; do sleep 1; done");
        pod["spec"]["terminationGracePeriodSeconds"] = json!(3);
        site.run(&[pod]).await?;
        let asked = Instant::now();
        site.kubectl_ok(&["delete", "pod", "deaf", "--wait=false"])
            .await?;
        support::pod_gone(&site.client, &site.namespace, "deaf", DEADLINE).await?;
        let took = asked.elapsed();
        ensure!(took >= Duration::from_secs(3), "gone after {took:?}");
        let lower = site.ground.lower.client().await?;
        support::pod_gone(&lower, &site.namespace, "deaf", DEADLINE).await?;
        Ok(())
    })
}

#[test]
fn a_pod_deleted_below_is_replaced_by_its_owner() -> TestResult {
    on_site(async |site| {
        let container = mk_container("main", IDLE, &json!({}));
        let template = json!({"metadata": {"labels": {"app": "set"}}, "spec": mk_spec(&json!({"containers": [container]}))});
        let set = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "set"},
            "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "set"}}, "template": template},
        });
        site.apply(&[set]).await?;
        let only_one = async |not: &str| {
            support::await_condition("one running pod", DEADLINE, || async {
                let [above, _] = site.pods().await?;
                let [pod] = above.as_slice() else { return Ok(None) };
                let new = pod["metadata"]["name"].as_str().filter(|name| *name != not);
                let name = new.filter(|_| pod["status"]["phase"] == "Running");
                Ok(name.map(str::to_owned))
            })
            .await
        };
        let first = only_one("").await?;
        let lower: Api<Pod> = Api::namespaced(site.ground.lower.client().await?, &site.namespace);
        lower.delete(&first, &DeleteParams::default()).await?;
        let second = only_one(&first).await?;
        let below = site.lower_pod(&second).await?;
        let phase = below["status"]["phase"].as_str().context("nothing below")?;
        ensure!(phase == "Running");
        Ok(())
    })
}

#[test]
fn a_pod_past_its_deadline_fails_above() -> TestResult {
    on_site(async |site| {
        let mut pod = mk_simple("late", IDLE);
        pod["spec"] = with(
            pod["spec"].take(),
            &json!({"activeDeadlineSeconds": 2, "restartPolicy": "Never"}),
        );
        site.apply(&[pod]).await?;
        let late = |pod: &Value| pod["status"]["phase"] == "Failed";
        let pod = site.await_pod("late", "Failed", late).await?;
        ensure!(pod["status"]["reason"] == "DeadlineExceeded", "{}", pod["status"]);
        Ok(())
    })
}
