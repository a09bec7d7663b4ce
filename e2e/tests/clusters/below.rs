//! Trouble within a lower cluster, and drained nodes above and below.

use anyhow::{Context, Result, ensure};
use e2e::{NodeTemplate, TestResult, support};
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Node, Pod, ResourceQuota};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::{DEADLINE, Site, condition, kubeconfig, mk_pod, on_site};

/// A pod that runs below only where `selector` says.
fn mk_selective(name: &str, node: &str, selector: &Value) -> Value {
    let mut pod = mk_pod(name, node);
    let tolerations = json!([{"key": "own", "operator": "Exists"}]);
    let stash = json!({"nodeSelector": selector, "tolerations": tolerations});
    pod["metadata"]["annotations"] = json!({"clusterSelector": stash.to_string()});
    pod
}

pub(crate) async fn await_event(site: &Site, pod: &str, reason: &str) -> Result<()> {
    let events: Api<Event> = Api::namespaced(site.upper.clone(), &site.namespace);
    let params = ListParams::default().fields(&format!("reason={reason},involvedObject.name={pod}"));
    support::await_condition(&format!("event {reason} on {pod}"), DEADLINE, || async {
        Ok((!events.list(&params).await?.items.is_empty()).then_some(()))
    })
    .await
}

async fn set_ready(nodes: &Api<Node>, name: &str, status: &str) -> Result<()> {
    let ready = json!({"type": "Ready", "status": status, "reason": "Test", "message": "",
                       "lastHeartbeatTime": "2026-01-01T00:00:00Z", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let status = json!({"status": {
        "capacity": {"cpu": "1", "memory": "1Gi", "pods": "10"},
        "allocatable": {"cpu": "1", "memory": "1Gi", "pods": "10"},
        "conditions": [ready],
    }});
    let params = PatchParams::default();
    nodes
        .patch_status(name, &params, &Patch::Strategic(status))
        .await?;
    Ok(())
}

/// What a kubelet would say of a pod that runs.
async fn start_by_hand(pods: &Api<Pod>, name: &str) -> Result<()> {
    let status = json!({"status": {"phase": "Running", "startTime": "2026-01-01T00:00:00Z",
        "conditions": [{"type": "Ready", "status": "True"}],
        "containerStatuses": [{"name": "main", "ready": true, "restartCount": 0, "image": "ours", "imageID": "ours",
                               "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]}});
    let params = PatchParams::default();
    pods.patch_status(name, &params, &Patch::Merge(status)).await?;
    Ok(())
}

#[test]
fn a_pod_of_a_dead_lower_node_is_let_go_when_that_is_wanted() -> TestResult {
    on_site("dead", async |site| {
        let second = site.ground.second.client().await?;
        let replica = site.replica(&["--force-delete-after=3"])?;
        // A node without a kubelet: the test says what it would say, and what the node controller would.
        let nodes: Api<Node> = Api::all(second.clone());
        let taint = json!({"key": "own", "effect": "NoSchedule"});
        let node =
            json!({"metadata": {"name": "dies", "labels": {"dies": "soon"}}, "spec": {"taints": [taint]}});
        support::create(&nodes, node).await?;
        set_ready(&nodes, "dies", "True").await?;
        site.secret("dead", &kubeconfig(&site.ground.second)?, "").await?;
        site.await_ready("dead").await?;
        let pod = mk_selective("stuck", "dead", &json!({"dies": "soon"}));
        support::create(&site.pods(&site.upper), pod).await?;
        site.await_pod(&second, "stuck", "bound below", |pod| {
            pod["spec"]["nodeName"] == "dies"
        })
        .await?;
        start_by_hand(&site.pods(&second), "stuck").await?;
        site.await_running(&site.upper, "stuck").await?;
        let state = replica.state(&site.namespace, "stuck").await?;
        ensure!(state["lower"]["node"] == "dies", "{state}");

        set_ready(&nodes, "dies", "Unknown").await?;
        let grace = DeleteParams::default().grace_period(1);
        site.pods(&second).delete("stuck", &grace).await?;
        // The upper cluster learns it at once, the lower pod stays until it is overdue.
        site.await_pod(&site.upper, "stuck", "ending", |pod| {
            pod["metadata"]["deletionTimestamp"].is_string() || pod.is_null()
        })
        .await?;
        support::pod_gone(&second, &site.namespace, "stuck", DEADLINE).await?;
        support::pod_gone(&site.upper, &site.namespace, "stuck", DEADLINE).await?;
        replica.await_log("removed without its kubelet").await?;
        nodes.delete("dies", &DeleteParams::default()).await?;
        Ok(())
    })
}

#[test]
fn what_a_lower_cluster_refuses_is_told_and_tried_again() -> TestResult {
    on_site("refuse", async |site| {
        let second = site.ground.second.client().await?;
        let replica = site.replica(&[])?;
        site.secret("refuse", &kubeconfig(&site.ground.second)?, "")
            .await?;
        site.await_ready("refuse").await?;
        support::create(&site.pods(&site.upper), mk_pod("held", "refuse")).await?;
        site.await_running(&site.upper, "held").await?;
        let quotas: Api<ResourceQuota> = Api::namespaced(second.clone(), &site.namespace);
        let quota = json!({"metadata": {"name": "few"}, "spec": {"hard": {"pods": "1"}}});
        support::create(&quotas, quota).await?;
        support::await_condition("the quota to be counted", DEADLINE, || async {
            let status = quotas.get("few").await?.status.unwrap_or_default();
            Ok(status.used.filter(|used| used.contains_key("pods")).map(drop))
        })
        .await?;
        support::create(&site.pods(&site.upper), mk_pod("one-more", "refuse")).await?;
        let refused = |word: &'static str| {
            move |pod: &Value| {
                let message = pod["status"]["message"].as_str().unwrap_or_default();
                pod["status"]["reason"] == "ProviderFailed" && message.contains(word)
            }
        };
        site.await_pod(&site.upper, "one-more", "refused", refused("exceeded quota"))
            .await?;
        await_event(site, "one-more", "ProviderFailed").await?;
        let state = replica.state(&site.namespace, "one-more").await?;
        ensure!(
            state["lastError"]["error"]
                .as_str()
                .is_some_and(|error| error.contains("exceeded quota"))
                && state["pending"]["step"] == "create the lower pod"
                && state["queue"]["failures"].as_u64() >= Some(1),
            "{state}"
        );
        quotas.delete("few", &DeleteParams::default()).await?;
        site.await_running(&site.upper, "one-more").await?;

        // Somebody deletes the lower namespace, and something in it takes its time.
        hold(&second, &site.namespace, &["test/hold"], true).await?;
        let namespaces: Api<Namespace> = Api::all(second.clone());
        namespaces
            .delete(&site.namespace, &DeleteParams::default())
            .await?;
        for name in ["held", "one-more"] {
            support::pod_gone(&site.upper, &site.namespace, name, DEADLINE).await?;
        }
        support::create(&site.pods(&site.upper), mk_pod("next", "refuse")).await?;
        site.await_pod(&site.upper, "next", "refused", refused("being terminated"))
            .await?;
        hold(&second, &site.namespace, &[], false).await?;
        site.await_running(&site.upper, "next").await?;
        Ok(())
    })
}

/// Something in a lower namespace that keeps it until it has no finalizers.
async fn hold(lower: &Client, namespace: &str, finalizers: &[&str], make: bool) -> Result<()> {
    let config_maps: Api<ConfigMap> = Api::namespaced(lower.clone(), namespace);
    let metadata = json!({"metadata": {"name": "held", "finalizers": finalizers}});
    if make {
        support::create(&config_maps, metadata).await?;
    } else {
        let params = PatchParams::default();
        config_maps
            .patch("held", &params, &Patch::Merge(metadata))
            .await?;
    }
    Ok(())
}

#[test]
fn nodes_are_drained_above_and_cordoned_below() -> TestResult {
    on_site("drain", async |site| {
        let (second, _replica) = (site.ground.second.client().await?, site.replica(&[])?);
        let own = NodeTemplate::default()
            .cpu("2")
            .label("own", "drain")
            .taint("own", "drain", "NoSchedule")
            .name_prefix("drain");
        let lower_nodes = site.ground.second.kwok(2, own).await?;
        let pool = "nodes: [{name: drain, selector: {matchLabels: {own: drain}}}]";
        site.secret("drain", &kubeconfig(&site.ground.second)?, pool)
            .await?;
        let shows = |cpu: &'static str| move |node: &Value| node["status"]["allocatable"]["cpu"] == cpu;
        site.await_node("drain", "with both lower nodes", shows("4"))
            .await?;
        let nodes: Api<Node> = Api::all(second.clone());
        let spare = lower_nodes.first().context("no lower node")?;
        nodes.cordon(spare).await?;
        site.await_node("drain", "without the cordoned one", shows("2"))
            .await?;
        nodes.uncordon(spare).await?;
        site.await_node("drain", "with both again", shows("4")).await?;

        for name in ["guarded", "free"] {
            let pod = mk_selective(name, "drain", &json!({}));
            support::create(&site.pods(&site.upper), pod).await?;
            site.await_running(&site.upper, name).await?;
        }
        let budgets = site.guard().await?;
        let args = [
            "drain",
            "drain",
            "--force",
            "--ignore-daemonsets",
            "--timeout=60s",
        ];
        let drain = site.ground.upper.kubectl(&args);
        let watched = async {
            support::pod_gone(&second, &site.namespace, "free", DEADLINE).await?;
            site.await_running(&second, "guarded").await?;
            site.await_node("drain", "cordoned", |node| node["spec"]["unschedulable"] == true)
                .await?;
            budgets.delete("guard", &DeleteParams::default()).await?;
            anyhow::Ok(())
        };
        let (drained, watched) = tokio::join!(drain, watched);
        watched?;
        let output = drained?.ok()?;
        ensure!(output.contains("node/drain drained"), "{output}");
        ensure!(site.uids(&second).await?.is_empty(), "pods are left below");
        let node = site.await_ready("drain").await?;
        ensure!(condition(&node, "Ready")["status"] == "True", "{node}");
        Ok(())
    })
}

#[test]
fn the_room_that_a_node_shows_is_what_the_lower_scheduler_finds() -> TestResult {
    on_site("room", async |site| {
        let (second, _replica) = (site.ground.second.client().await?, site.replica(&[])?);
        let theirs: Api<Pod> = Api::namespaced(second.clone(), &support::namespace_for_pods(&second).await?);
        for (number, cpu) in ["2", "3"].into_iter().enumerate() {
            let own = NodeTemplate::default()
                .cpu(cpu)
                .pods(20)
                .resource("example.com/gpu", "2")
                .resource("hugepages-2Mi", "8Mi")
                .label("own", "room")
                .taint("own", "room", "NoSchedule")
                .name_prefix(&format!("room{number}"));
            site.ground.second.kwok(1, own).await?;
        }
        // What others hold: an init container that asks for more, a sidecar, a GPU.
        for spec in [
            json!({"containers": [mk_asking("main", &json!({"cpu": "250m"}))],
                   "initContainers": [mk_asking("first", &json!({"cpu": "500m"}))]}),
            json!({"containers": [mk_asking("main", &json!({"cpu": "250m", "example.com/gpu": "1"}))],
                   "initContainers": [with_restarts(mk_asking("aside", &json!({"cpu": "250m"})))]}),
        ] {
            support::create(&theirs, mk_foreign(&spec)).await?;
        }
        let pool = "nodes: [{name: room, selector: {matchLabels: {own: room}}}]";
        site.secret("room", &kubeconfig(&site.ground.second)?, pool)
            .await?;
        let node = site
            .await_node("room", "less what others hold", |node| {
                node["status"]["allocatable"]["cpu"] == "4"
            })
            .await?;
        let shown = &node["status"]["allocatable"];
        ensure!(
            shown["pods"] == "38" && shown["example.com/gpu"] == "3" && shown["hugepages-2Mi"] == "16Mi",
            "{shown}"
        );
        ensure!(
            node["metadata"]["labels"]["kubernetes.io/arch"] == "amd64",
            "{node}"
        );
        // As many halves of a core as the Node shows find a place, and not one more.
        let probe = json!({"containers": [mk_asking("main", &json!({"cpu": "500m"}))]});
        for _ in 0..9 {
            support::create(&theirs, mk_foreign(&probe)).await?;
        }
        support::await_condition("the scheduler to have judged all", DEADLINE, || async {
            let pods = serde_json::to_value(theirs.list(&ListParams::default()).await?.items)?;
            let pods = pods.as_array().cloned().unwrap_or_default();
            let bound = pods
                .iter()
                .filter(|pod| pod["spec"]["nodeName"].is_string())
                .count();
            let refused = pods
                .iter()
                .filter(|pod| condition(pod, "PodScheduled")["reason"] == "Unschedulable")
                .count();
            ensure!((bound, refused) == (10, 1), "{bound} bound, {refused} refused");
            Ok(Some(()))
        })
        .await?;
        site.await_node("room", "full", |node| node["status"]["allocatable"]["cpu"] == "0")
            .await?;
        Ok(())
    })
}

fn mk_asking(name: &str, requests: &Value) -> Value {
    json!({"name": name, "image": "theirs", "resources": {"requests": requests, "limits": extended(requests)}})
}

/// Extended resources need a limit.
fn extended(requests: &Value) -> Value {
    let all = requests.as_object().into_iter().flatten();
    let some = all.filter(|(name, _)| name.contains('/'));
    some.map(|(name, quantity)| (name.clone(), quantity.clone()))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn with_restarts(mut container: Value) -> Value {
    container["restartPolicy"] = json!("Always");
    container
}

/// A pod that somebody else makes in the lower cluster.
fn mk_foreign(spec: &Value) -> Value {
    let mut spec = spec.clone();
    spec["nodeSelector"] = json!({"own": "room"});
    spec["tolerations"] = json!([{"key": "own", "operator": "Exists"}]);
    json!({"metadata": {"generateName": "theirs-"}, "spec": spec})
}
