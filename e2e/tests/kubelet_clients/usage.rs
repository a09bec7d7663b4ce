//! `kubectl top` and autoscaling of pods on the virtual node, by a metrics-server of the upper cluster.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{TestResult, support};
use serde_json::{Value, json};

use crate::{DEADLINE, IDLE, NODE, Site, mk_container, on_site, with};

/// metrics-server needs two scrapes, 10 s apart, to tell a rate; the autoscaler then acts within its own 3 s.
const SCALING_DEADLINE: Duration = Duration::from_secs(180);

/// Spins while there is a file; up to 0.2 cores, of which it asks for 0.05.
const WORK: &str = "while true; do if [ -e /tmp/load ]; then i=0; while [ $i -lt 5000 ]; do i=$((i+1)); done; \
    else sleep 0.2; fi; done";

/// Holds 8 MB: kubectl counts whole MiB, and an idle shell has none.
const HOLD_MEMORY: &str = "held=$(head -c 8000000 /dev/zero | tr '\\0' x)";

fn mk_deployment(script: &str) -> Value {
    let resources = json!({"resources": {"requests": {"cpu": "50m"}, "limits": {"cpu": "200m"}}});
    let labels = json!({"app": "web"});
    let template = json!({
        "terminationGracePeriodSeconds": 1,
        "tolerations": [{"key": "virtual-kubelet.io/provider", "operator": "Exists"}],
        "containers": [mk_container("main", script, &resources)],
    });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": template},
        },
    })
}

fn mk_autoscaler() -> Value {
    let target = json!({"type": "Utilization", "averageUtilization": 100});
    json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "web"},
        "spec": {
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web"},
            "minReplicas": 1, "maxReplicas": 3,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": target}}],
        },
    })
}

/// Waits until the Deployment has so many ready pods, and no more are wanted.
async fn await_replicas(site: &Site, what: &str, is_so: impl Fn(i64) -> bool) -> Result<()> {
    support::await_condition(what, SCALING_DEADLINE, || async {
        let text = site
            .kubectl_ok(&["get", "deployment", "web", "-o", "json"])
            .await?;
        let status: Value = serde_json::from_str(&text)?;
        let (ready, wanted) = (
            status["status"]["readyReplicas"].as_i64().unwrap_or(0),
            status["spec"]["replicas"].as_i64().unwrap_or(0),
        );
        if is_so(ready) && ready == wanted {
            return Ok(Some(()));
        }
        let scaler = site
            .kubectl_ok(&["get", "hpa", "web", "-o", "jsonpath={.status}"])
            .await?;
        anyhow::bail!("{ready} ready of {wanted}; the autoscaler says {scaler}")
    })
    .await
}

/// Name and figures of the rows of `kubectl top`.
fn rows(table: &str) -> Vec<Vec<&str>> {
    table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect()
}

#[test]
fn an_autoscaler_follows_the_load_of_pods_on_the_virtual_node() -> TestResult {
    on_site(async |site| {
        site.apply(&[mk_deployment(WORK), mk_autoscaler()]).await?;
        await_replicas(&site, "one replica", |ready| ready == 1).await?;
        let pod = site.kubectl_ok(&["get", "pods", "-o", "name"]).await?;
        let load = |command: &'static str| {
            let (site, pod) = (&site, pod.trim());
            async move { site.kubectl_ok(&["exec", pod, "--", "sh", "-c", command]).await }
        };
        load("touch /tmp/load").await?;
        await_replicas(&site, "more replicas under load", |ready| ready > 1).await?;
        load("rm /tmp/load").await?;
        await_replicas(&site, "one replica again", |ready| ready == 1).await
    })
}

#[test]
fn top_shows_the_node_and_the_containers_of_its_pods() -> TestResult {
    on_site(async |site| {
        let script = format!("{HOLD_MEMORY}; {IDLE}");
        let spec = json!({"containers": [
            mk_container("one", &script, &json!({})),
            mk_container("two", &script, &json!({})),
        ]});
        site.run(&[crate::mk_pod("shown", &spec)]).await?;
        site.ground.upper.await_node_metrics(NODE).await?;
        let table = support::await_condition("figures of both containers", DEADLINE, || async {
            let table = site
                .kubectl_ok(&["top", "pods", "--containers", "--no-headers"])
                .await?;
            ensure!(rows(&table).len() == 2, "{table}");
            Ok(Some(table))
        })
        .await?;
        for (row, container) in rows(&table).iter().zip(["one", "two"]) {
            ensure!(row[..2] == ["shown", container], "{table}");
            ensure!(row[3].ends_with("Mi") && row[3] != "0Mi", "{table}");
        }
        let table = site.kubectl_ok(&["top", "node", NODE, "--no-headers"]).await?;
        let row = rows(&table).pop().context("no row")?;
        // A machine that runs a control plane uses some of its cores and memory.
        ensure!(
            row[0] == NODE && row[1] != "0m" && row[3].ends_with("Mi") && row[4].ends_with('%'),
            "{table}"
        );
        Ok(())
    })
}

/// What a page of the node says, asked for through the upper API server.
async fn page(site: &Site, path: &str) -> Result<String> {
    let path = format!("/api/v1/nodes/{NODE}/proxy/{path}");
    site.kubectl_ok(&["get", "--raw", &path]).await
}

#[test]
fn the_pages_show_our_pods_by_their_upper_identity_and_nobody_elses() -> TestResult {
    on_site(async |site| {
        let foreign = with(
            crate::mk_simple("foreign", IDLE),
            &json!({"metadata": {"name": "foreign", "namespace": "default"}}),
        );
        site.ground.lower.apply(&foreign.to_string()).await?;
        let lower = site.ground.lower.client().await?;
        support::pod_running(&lower, "default", "foreign", DEADLINE).await?;
        site.run(&[crate::mk_simple("ours", IDLE)]).await?;
        let own = format!(r#"container="main",namespace="{}",pod="ours"}}"#, site.namespace);
        let text = support::await_condition("figures of the pod", DEADLINE, || async {
            let text = page(&site, "metrics/resource").await?;
            Ok(text.contains(&own).then_some(text))
        })
        .await?;
        ensure!(
            text.contains("\nresource_scrape_error 0\n") && !text.contains("foreign"),
            "{text}"
        );
        let summary: Value = serde_json::from_str(&page(&site, "stats/summary").await?)?;
        let pods = summary["pods"].as_array().context("no pods")?;
        let shown = pods
            .iter()
            .find(|pod| pod["podRef"]["name"] == "ours")
            .context("the pod is missing")?;
        let uid = site
            .kubectl_ok(&["get", "pod", "ours", "-o", "jsonpath={.metadata.uid}"])
            .await?;
        ensure!(
            shown["podRef"]["uid"] == *uid && shown["podRef"]["namespace"] == *site.namespace,
            "{shown}"
        );
        ensure!(
            shown["containers"][0]["memory"]["workingSetBytes"].as_u64() > Some(0),
            "{shown}"
        );
        ensure!(
            pods.iter().all(|pod| pod["podRef"]["name"] != "foreign"),
            "{summary}"
        );
        let cadvisor = page(&site, "metrics/cadvisor").await?;
        ensure!(
            cadvisor.contains(r#"pod="ours""#)
                && !cadvisor.contains("foreign")
                && cadvisor.contains("# TYPE "),
            "{cadvisor}"
        );
        Ok(())
    })
}
