//! Tensile installed by Helm from its image, in an upper cluster whose node is real, before two real lower clusters.

mod ground;
mod image;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{TestResult, real_nodes_or_report, support};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};

use ground::{Ground, NAMESPACE};

const DEADLINE: Duration = Duration::from_secs(120);

/// The blocks of a page that begin with "```sh run", in order, without their indentation.
fn commands(page: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        if line.trim_start() != "```sh run" {
            continue;
        }
        let block = lines.by_ref().take_while(|line| line.trim() != "```");
        let block: Vec<&str> = block.map(|line| line.get(indent..).unwrap_or_default()).collect();
        blocks.push(block.join("\n"));
    }
    blocks
}

/// UID and restarts of the pods of the namespace `demo` in the lower cluster b.
async fn pods_below(ground: &Ground) -> Result<Vec<(String, i32)>> {
    let pods: Api<Pod> = Api::namespaced(ground.lower[1].client().await?, "demo");
    let mut found: Vec<_> = pods
        .list(&ListParams::default())
        .await?
        .into_iter()
        .filter(|pod| pod.metadata.deletion_timestamp.is_none())
        .map(|pod| {
            let statuses = pod.status.and_then(|status| status.container_statuses);
            let restarts = statuses
                .into_iter()
                .flatten()
                .map(|status| status.restart_count)
                .sum();
            (pod.metadata.uid.unwrap_or_default(), restarts)
        })
        .collect();
    found.sort();
    Ok(found)
}

/// The quick start, as it is written.
async fn a_new_user_follows_the_quick_start(ground: &Ground) -> Result<()> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/quick-start.md");
    let blocks = commands(&std::fs::read_to_string(page)?);
    assert!(blocks.len() == 4, "{} blocks", blocks.len());
    for block in &blocks {
        ground.bash(block).await?;
    }
    let logs = ground
        .kubectl(&["-n", "demo", "logs", "deployment/hello"])
        .await?;
    assert!(logs == "hello\n", "{logs:?}");
    assert!(pods_below(ground).await?.len() == 2, "the pods are not below");
    let doctor = ground.bash("kubectl tensile doctor -o json").await?;
    let doctor: Value = serde_json::from_str(&doctor)?;
    let findings = doctor["findings"].as_array().context("no findings")?;
    let works = |text: &str| findings.iter().any(|finding| finding["message"] == text);
    assert!(works("changes pods that take part"), "{doctor}");
    assert!(works("ready, and the API server reaches it"), "{doctor}");
    Ok(())
}

/// An upgrade and the way back: the pods below notice nothing.
async fn no_pod_moves_when_the_release_changes(ground: &Ground) -> Result<()> {
    let before = pods_below(ground).await?;
    let tag = format!("image.tag={}", image::TAGS[1]);
    ground.upgrade(&["logLevel=debug", &tag]).await?;
    assert!(pods_below(ground).await? == before, "pods moved with the upgrade");
    ground
        .helm(&["rollback", "tensile", "1", "--wait", "--timeout", "3m"])
        .await?;
    assert!(
        pods_below(ground).await? == before,
        "pods moved with the rollback"
    );
    Ok(())
}

/// A pod of its own scheduler name is placed by the bundled scheduler, and one that fits nowhere is not.
async fn the_second_scheduler_knows_what_fits_below(ground: &Ground) -> Result<()> {
    let scheduler = format!("scheduler.image={}", image::SCHEDULER);
    ground
        .upgrade(&["scheduler.enabled=true", "scheduler.replicas=1", &scheduler])
        .await?;
    let client = ground.upper.client().await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "demo");
    support::create(&pods, ground.mk_pod("second", &json!("tensile-scheduler"))).await?;
    let pod = support::pod_running(&client, "demo", "second", DEADLINE).await?;
    let node = pod.spec.and_then(|spec| spec.node_name);
    assert!(
        node.is_some_and(|node| node.starts_with("vn-")),
        "it runs on another node"
    );
    Ok(())
}

/// The cluster's own scheduler ends, and the bundled one, which shares its Lease, takes over.
async fn the_bundled_scheduler_replaces_the_clusters_own(ground: &Ground) -> Result<()> {
    let scheduler = format!("scheduler.image={}", image::SCHEDULER);
    let values = [
        "scheduler.enabled=true",
        "scheduler.mode=replacement",
        "scheduler.replicas=1",
        &scheduler,
    ];
    ground.upgrade(&values).await?;
    ground.upper.stop_component("kube-scheduler").await?;
    let client = ground.upper.client().await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "demo");
    support::create(&pods, ground.mk_pod("replaced", &Value::Null)).await?;
    support::pod_running(&client, "demo", "replaced", DEADLINE).await?;
    ground.upper.start_component("kube-scheduler").await
}

async fn uninstall_leaves_nothing_of_the_release(ground: &Ground) -> Result<()> {
    ground.kubectl(&["delete", "namespace", "demo"]).await?;
    ground
        .helm(&["uninstall", "tensile", "--wait", "--timeout", "3m"])
        .await?;
    let kinds = "all,configmaps,serviceaccounts,roles,rolebindings,clusterroles,clusterrolebindings,\
                 mutatingwebhookconfigurations,poddisruptionbudgets,networkpolicies";
    let of_release = [
        "get",
        kinds,
        "--all-namespaces",
        "-l",
        "app.kubernetes.io/instance=tensile",
        "-o",
        "name",
    ];
    support::await_condition("everything of the release to be gone", DEADLINE, || async {
        let left = ground.kubectl(&of_release).await?;
        ensure!(left.is_empty(), "{left}");
        Ok(Some(()))
    })
    .await?;
    let nodes: Api<Node> = Api::all(ground.upper.client().await?);
    for node in ["vn-a", "vn-b"] {
        nodes.delete(node, &DeleteParams::default()).await?;
    }
    for id in ["a", "b"] {
        ground.bash(&format!("kubectl tensile leave {id}")).await?;
    }
    assert!(pods_below(ground).await?.is_empty(), "pods are left below");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_is_installed_tested_upgraded_rolled_back_and_removed() -> TestResult {
    if !real_nodes_or_report()? {
        return Ok(());
    }
    let ground = Ground::make().await?;
    a_new_user_follows_the_quick_start(&ground).await?;
    no_pod_moves_when_the_release_changes(&ground).await?;
    the_second_scheduler_knows_what_fits_below(&ground).await?;
    the_bundled_scheduler_replaces_the_clusters_own(&ground).await?;
    let refused = ground.forbidden()?;
    uninstall_leaves_nothing_of_the_release(&ground).await?;
    assert!(
        refused.is_empty(),
        "requests without a right to them in {NAMESPACE}: {refused:#?}"
    );
    Ok(())
}

#[test]
fn only_blocks_that_say_so_are_run() {
    let page = "```sh\nno\n```\n  ```sh run\n  one\n    two\n  ```\n```sh run\nthree\n```\n";
    assert_eq!(commands(page), ["one\n  two", "three"]);
}
