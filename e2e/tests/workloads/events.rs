//! Events of lower pods, as a user of the upper cluster finds them.

use anyhow::{Result, ensure};
use e2e::{TestResult, support};
use serde_json::{Value, json};

use crate::{DEADLINE, NODE, Site, create, list, merge, mk_pod, on_site, until};

/// Writes that one pod's events may cost at once; the rest is dropped.
const BURST: usize = 25;

/// Writes an event about the lower pod, as its kubelet would.
async fn report(site: &Site, pod: &Value, name: &str, reason: &str, count: u32) -> Result<()> {
    let now = k8s_openapi::jiff::Timestamp::now().to_string();
    let event = json!({
        "metadata": {"name": name}, "reason": reason, "message": "as it happens", "type": "Normal", "count": count,
        "involvedObject": {
            "apiVersion": "v1", "kind": "Pod", "namespace": site.namespace,
            "name": pod["metadata"]["name"], "uid": pod["metadata"]["uid"],
        },
        "firstTimestamp": now, "lastTimestamp": now, "source": {"component": "kubelet", "host": "lower"},
    });
    create(&site.first, &site.all("events"), &event).await.map(drop)
}

#[test]
fn what_happens_to_the_lower_pod_is_told_on_the_upper_one() -> TestResult {
    on_site(async |site| {
        let pod = site.run(&mk_pod("web", NODE, &json!({})), &site.first).await?;
        report(site, &pod, "web.pull", "BackOff", 1).await?;
        let told = |event: &Value| !event.is_null();
        let event = until(&site.upper, &site.all("events"), "web.pull", "to be told", told).await?;
        let upper = crate::get(&site.upper, &site.all("pods"), "web").await?;
        ensure!(
            event["involvedObject"]["uid"] == upper["metadata"]["uid"],
            "{event}"
        );
        ensure!(event["source"]["host"] == NODE, "{event}");
        merge(&site.first, &site.all("events"), "web.pull", &json!({"count": 7})).await?;
        let counted = |event: &Value| event["count"] == 7;
        until(&site.upper, &site.all("events"), "web.pull", "to count", counted).await?;

        report(site, &pod, "web.started", "Started", 1).await?;
        for n in 0..2 * BURST {
            report(site, &pod, &format!("web.storm-{n}"), "Storm", 1).await?;
        }
        let storm = async || -> Result<usize> {
            let events = list(&site.upper, &site.all("events")).await?;
            ensure!(
                events
                    .iter()
                    .all(|event| event["metadata"]["name"] != "web.started")
            );
            Ok(events.iter().filter(|event| event["reason"] == "Storm").count())
        };
        // Two of the burst were spent above.
        support::await_condition("a part of the storm", DEADLINE, || async {
            let count = storm().await?;
            Ok((count == BURST - 2).then_some(()))
        })
        .await
    })
}

#[test]
fn a_user_sees_why_the_lower_scheduler_finds_no_node() -> TestResult {
    on_site(async |site| {
        // The stash: it acts below only.
        let mut pod = mk_pod("lost", NODE, &json!({}));
        let stash = json!({"nodeSelector": {"no": "such-node"}}).to_string();
        pod["metadata"]["annotations"] = json!({"clusterSelector": stash});
        create(&site.upper, &site.all("pods"), &pod).await?;
        support::await_condition("FailedScheduling above", DEADLINE, || async {
            let events = list(&site.upper, &site.all("events")).await?;
            let of_it = |event: &&Value| {
                event["involvedObject"]["name"] == "lost" && event["reason"] == "FailedScheduling"
            };
            let messages: Vec<_> = events
                .iter()
                .filter(of_it)
                .map(|event| &event["message"])
                .collect();
            let told = messages
                .iter()
                .any(|message| message.as_str().is_some_and(|text| text.starts_with("0/2 nodes")));
            Ok(told.then_some(()))
        })
        .await
    })
}
