//! The ways to install: as the quick start has it, the full suite, and with the bundled scheduler as the only one.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{Cluster, support};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::{Value, json};

use crate::ground::{DEMO, Ground, NAMESPACE, mk_containers};
use crate::rights::{self, Rights};
use crate::{image, neighbour, workload};

const DEADLINE: Duration = Duration::from_secs(120);
/// Kinds of which a release makes objects, and those that its components make.
const KINDS: &str =
    "all,configmaps,secrets,serviceaccounts,roles,rolebindings,leases,poddisruptionbudgets,networkpolicies";
const CLUSTER_KINDS: &str = "nodes,clusterroles,clusterrolebindings,mutatingwebhookconfigurations,\
                             validatingadmissionpolicies,validatingadmissionpolicybindings";

/// The blocks of a page that begin with "```sh run", in order, without their indentation.
pub(crate) fn commands(page: &str) -> Vec<String> {
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

/// Does what a page of docs/ says, as it is written.
async fn follow(ground: &Ground, page: &str, blocks: usize) -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(page);
    let found = commands(&std::fs::read_to_string(path)?);
    ensure!(found.len() == blocks, "{page} has {} blocks", found.len());
    for block in &found {
        ground.bash(block).await?;
    }
    Ok(())
}

/// Virtual nodes and webhook, by the quick start's commands, and away again by those of the operations page. Meanwhile a
/// second release shares the lower cluster a.
pub(crate) async fn as_the_docs_say(ground: &Ground) -> Result<()> {
    follow(ground, "quick-start.md", 4).await?;
    workload::logs(ground, "deployment/hello").await?;
    ensure!(ground.pods_below(1).await?.len() == 2, "the pods are not below");
    let doctor = ground.bash("kubectl tensile doctor -o json").await?;
    let doctor: Value = serde_json::from_str(&doctor)?;
    let findings = doctor["findings"].as_array().context("no findings")?;
    let works = |text: &str| findings.iter().any(|finding| finding["message"] == text);
    ensure!(works("changes pods that take part"), "{doctor}");
    ensure!(works("ready, and the API server reaches it"), "{doctor}");

    ground.upgrade_and_rollback().await?;
    let other = neighbour::moves_in(ground).await?;
    rights::are_enough(ground, &rights::Mark::default())?;
    follow(ground, "operations.md", 3).await?;
    nothing_is_left(ground).await?;
    neighbour::is_undisturbed_and_leaves(ground, &other).await
}

/// All components; the bundled scheduler beside the cluster's own. What all of their roles grant.
pub(crate) async fn full_suite(ground: &Ground) -> Result<Rights> {
    let below = json!({"name": "UnschedulableBelow", "args": {"thresholdSeconds": 1}});
    let policy = json!({
        "apiVersion": "descheduler/v1alpha2", "kind": "DeschedulerPolicy",
        "profiles": [{"name": "tensile", "pluginConfig": [below],
            "plugins": {"deschedule": {"enabled": ["UnschedulableBelow"]}}}],
    });
    let values = json!({
        "scheduler": {"enabled": true, "replicas": 1, "image": image::SCHEDULER},
        "descheduler": {"enabled": true, "interval": "2s", "policy": policy},
    });
    let mark = rights::Mark::now(ground)?;
    ground.install(&ground.upper, 2, &values).await?;
    ground.helm(&["test", "tensile"]).await?;
    ground.make_demo().await?;
    let placed = json!({"schedulerName": "tensile-scheduler"});
    workload::runs(ground, "second", &placed).await?;
    workload::uses_everything(ground).await?;
    the_descheduler_moves_what_is_stuck(ground).await?;
    ground.upgrade_and_rollback().await?;
    let granted = rights::granted(ground).await?;
    rights::are_enough(ground, &mark)?;
    ground.uninstall(&ground.upper).await?;
    nothing_is_left(ground).await?;
    Ok(granted)
}

/// A pod that prefers the cluster a, whose node does not take it, ends up in b.
async fn the_descheduler_moves_what_is_stuck(ground: &Ground) -> Result<()> {
    let taint = async |taint: &str| {
        ground.lower[0]
            .kubectl(&["taint", "nodes", "--all", taint])
            .await?
            .ok()
    };
    taint("full=yes:NoSchedule").await?;
    let of = |clusters: &[&str]| json!({"matchExpressions": [{"key": "clusterID", "operator": "In", "values": clusters}]});
    let affinity = json!({"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [of(&["a", "b"])]},
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": of(&["a"])}],
    }});
    let labels = json!({"app": "stuck"});
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "stuck", "namespace": DEMO},
        "spec": {"selector": {"matchLabels": labels}, "template": {"metadata": {"labels": labels}, "spec": {
            "terminationGracePeriodSeconds": 1, "containers": mk_containers(),
            "affinity": affinity,
        }}},
    });
    ground.demo_apply(&deployment).await?;
    let pods: Api<Pod> = Api::namespaced(ground.upper.client().await?, DEMO);
    let moved = support::await_condition("the pod to be moved", DEADLINE, || async {
        let events = ground
            .demo(&["get", "events", "--field-selector", "reason=UnschedulableBelow"])
            .await?;
        ensure!(
            events.contains("stuck"),
            "it was never stuck, or nobody said so: {events}"
        );
        let list = pods
            .list(&kube::api::ListParams::default().labels("app=stuck"))
            .await?;
        let ready = list.items.into_iter().find(support::is_ready);
        ensure!(ready.is_some(), "{events}");
        Ok(ready)
    })
    .await?;
    ensure!(
        moved.spec.and_then(|spec| spec.node_name).as_deref() == Some("b"),
        "it runs on another node"
    );
    taint("full-").await.map(drop)
}

/// The cluster's own scheduler ends, and the bundled one, which shares its Lease, takes over; in the end the lower cluster b
/// is dead.
pub(crate) async fn the_only_scheduler(ground: &Ground) -> Result<()> {
    let values = json!({
        "scheduler": {"enabled": true, "mode": "replacement", "replicas": 1, "image": image::SCHEDULER},
        "uninstall": {"timeout": 5},
    });
    ground.install(&ground.upper, 2, &values).await?;
    ground.upper.stop_component("kube-scheduler").await?;
    ground.make_demo().await?;
    let in_b = json!({"nodeSelector": {"clusterID": "b"}});
    workload::runs(ground, "replaced", &in_b).await?;
    ground.helm(&["test", "tensile"]).await?;
    if is_long() {
        ground.upgrade_and_rollback().await?;
    }
    let before = ground.pods_below(1).await?;
    ground.lower[1].partition().await?;
    ground.uninstall(&ground.upper).await?;
    nothing_is_left_above(ground).await?;
    ground.lower[1].heal().await?;
    ensure!(
        ground.pods_below(1).await? == before,
        "what was abandoned did not go on"
    );
    ground.upper.start_component("kube-scheduler").await
}

/// Nobody runs the virtual nodes any more when the release is removed.
pub(crate) async fn without_virtual_nodes_at_the_end(ground: &Ground) -> Result<()> {
    let values = json!({"webhook": {"enabled": false}, "uninstall": {"timeout": 1}});
    ground.install(&ground.upper, 1, &values).await?;
    ground
        .kubectl(&["wait", "node/a", "--for", "condition=Ready", "--timeout=60s"])
        .await?;
    ground
        .kubectl(&[
            "-n",
            NAMESPACE,
            "scale",
            "deployment/tensile-virtual-node",
            "--replicas=0",
        ])
        .await?;
    ground.uninstall(&ground.upper).await?;
    nothing_is_left_above(ground).await
}

/// Whether to do also what takes minutes.
pub(crate) fn is_long() -> bool {
    std::env::var_os("TENSILE_INSTALL_LONG").is_some()
}

/// Neither above nor below.
async fn nothing_is_left(ground: &Ground) -> Result<()> {
    nothing_is_left_above(ground).await?;
    let uid = upper_uid(&ground.upper).await?;
    let ours = format!("tensile.dev/origin-cluster={uid}");
    for lower in &ground.lower {
        let kinds = "pods,configmaps,secrets,services,endpointslices";
        support::await_condition("nothing of ours below", DEADLINE, || async {
            let left = lower
                .kubectl(&["get", kinds, "-A", "-l", &ours, "-o", "name"])
                .await?
                .ok()?;
            ensure!(left.is_empty(), "{left}");
            Ok(Some(()))
        })
        .await?;
    }
    ground
        .kubectl(&["delete", "namespace", DEMO, "--ignore-not-found"])
        .await
        .map(drop)
}

async fn upper_uid(upper: &Cluster) -> Result<String> {
    let uid = [
        "get",
        "namespace",
        "kube-system",
        "-o",
        "jsonpath={.metadata.uid}",
    ];
    upper.kubectl(&uid).await?.ok()
}

/// Of the release, and of what its components made: names are the release's, or those of virtual nodes.
async fn nothing_is_left_above(ground: &Ground) -> Result<()> {
    let names = |list: &str| -> Vec<String> {
        let ours = |name: &&str| name.contains("tensile") || name.ends_with("/a") || name.ends_with("/b");
        list.lines().filter(ours).map(str::to_owned).collect()
    };
    support::await_condition("nothing of the release above", DEADLINE, || async {
        let mut left = names(
            &ground
                .kubectl(&["get", KINDS, "-n", NAMESPACE, "-o", "name"])
                .await?,
        );
        left.extend(names(
            &ground.kubectl(&["get", CLUSTER_KINDS, "-o", "name"]).await?,
        ));
        left.extend(names(
            &ground
                .kubectl(&["get", "roles,rolebindings", "-n", "kube-system", "-o", "name"])
                .await?,
        ));
        left.extend(names(
            &ground
                .kubectl(&["get", "leases,roles", "-n", "kube-node-lease", "-o", "name"])
                .await?,
        ));
        ensure!(left.is_empty(), "{left:?}");
        Ok(Some(()))
    })
    .await
}

#[test]
fn only_blocks_that_say_so_are_run() {
    let page = "```sh\nno\n```\n  ```sh run\n  one\n    two\n  ```\n```sh run\nthree\n```\n";
    assert_eq!(commands(page), ["one\n  two", "three"]);
}
