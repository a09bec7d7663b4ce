//! Two upper clusters on one lower cluster: the same names, and nothing mixed up.

use anyhow::{Context, Result, ensure};
use e2e::{TestResult, support};
use kube::Client;
use serde_json::{Value, json};

use crate::{NODE, PREFIX, Site, create, delete, get, is_running, merge, mk_pod, on_site, until, until_gone};

/// Makes the same workload in an upper cluster; only the data and the images differ.
async fn settle(site: &Site, upper: &Client, whose: &str) -> Result<Value> {
    let config = json!({"metadata": {"name": "config"}, "data": {"whose": whose}});
    create(upper, &site.all("configmaps"), &config).await?;
    let service = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}});
    create(upper, &site.all("services"), &service).await?;
    let mut pod = mk_pod(
        "web",
        NODE,
        &json!({"volumes": [{"name": "c", "configMap": {"name": "config"}}]}),
    );
    pod["spec"]["containers"][0]["image"] = json!(whose);
    create(upper, &site.all("pods"), &pod).await?;
    until(upper, &site.all("pods"), "web", "running", is_running).await
}

#[test]
fn the_same_names_in_two_upper_clusters_stay_apart() -> TestResult {
    on_site(async |site| {
        let namespaces = "/api/v1/namespaces";
        create(
            &site.other,
            namespaces,
            &json!({"metadata": {"name": site.namespace}}),
        )
        .await?;
        support::service_account(&site.other, &site.namespace).await?;
        let mine = settle(site, &site.upper, "upper").await?;
        let theirs = settle(site, &site.other, "other").await?;

        let below = format!("{PREFIX}-{}", site.namespace);
        for (namespace, whose, upper) in [(&site.namespace, "upper", &mine), (&below, "other", &theirs)] {
            let all = |plural: &str| format!("/api/v1/namespaces/{namespace}/{plural}");
            let pod = get(&site.first, &all("pods"), "web").await?;
            ensure!(pod["spec"]["containers"][0]["image"] == whose, "{pod}");
            ensure!(
                pod["metadata"]["labels"]["tensile.dev/origin-uid"] == upper["metadata"]["uid"],
                "{pod}"
            );
            ensure!(pod["status"]["podIP"] == upper["status"]["podIP"], "{upper}");
            let config = get(&site.first, &all("configmaps"), "config").await?;
            ensure!(config["data"]["whose"] == whose, "{config}");
            let service = get(&site.first, &all("services"), "web").await?;
            let host = pod["spec"]["containers"][0]["env"]
                .as_array()
                .context("no environment")?;
            let host = host
                .iter()
                .find(|env| env["name"] == "WEB_SERVICE_HOST")
                .context("no Service")?;
            ensure!(host["value"] == service["spec"]["clusterIP"], "{host} {service}");
        }

        delete(&site.other, &site.all("pods"), "web").await?;
        until_gone(&site.other, &site.all("pods"), "web").await?;
        until_gone(&site.first, namespaces, &below).await?;
        let pod = get(&site.first, &site.all("pods"), "web").await?;
        ensure!(
            pod["metadata"].get("deletionTimestamp").is_none() && is_running(&pod),
            "{pod}"
        );
        ensure!(
            !get(&site.first, &site.all("configmaps"), "config")
                .await?
                .is_null()
        );
        ensure!(!get(&site.first, &site.all("services"), "web").await?.is_null());
        Ok(())
    })
}

#[test]
fn two_virtual_nodes_before_one_lower_cluster_share_what_their_pods_need() -> TestResult {
    on_site(async |site| {
        let config = json!({"metadata": {"name": "config"}, "data": {"a": "1"}});
        create(&site.upper, &site.all("configmaps"), &config).await?;
        let service = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}});
        create(&site.upper, &site.all("services"), &service).await?;
        let volumes = json!({"volumes": [{"name": "c", "configMap": {"name": "config"}}]});
        for (name, node) in [("one", NODE), ("two", "vn-d")] {
            let pod = site.run(&mk_pod(name, node, &volumes), &site.first).await?;
            ensure!(
                pod["metadata"]["labels"]["tensile.dev/origin-node"] == node,
                "{pod}"
            );
        }
        site.end("one", &site.first).await?;
        let changed = json!({"data": {"a": "2"}});
        merge(&site.upper, &site.all("configmaps"), "config", &changed).await?;
        let is_new = |copy: &Value| copy["data"]["a"] == "2";
        until(
            &site.first,
            &site.all("configmaps"),
            "config",
            "to be renewed",
            is_new,
        )
        .await?;
        ensure!(is_running(&get(&site.first, &site.all("pods"), "two").await?));
        ensure!(!get(&site.first, &site.all("services"), "web").await?.is_null());
        site.end("two", &site.first).await?;
        until_gone(&site.first, &site.all("configmaps"), "config").await?;
        until_gone(&site.first, &site.all("services"), "web").await
    })
}
