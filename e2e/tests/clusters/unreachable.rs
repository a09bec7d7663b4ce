//! What a cluster's silence means for its Node and for its pods, by the policy of each.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::webhook::{self, Webhook};
use e2e::{Fault, FaultProxy, TestResult, support};
use k8s_openapi::api::apps::v1::ReplicaSet;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::{DEADLINE, Site, condition, kubeconfig, mk_pod, on_site};

/// The goal: time from the end of a fault until both sides agree.
const CONVERGENCE: Duration = Duration::from_secs(30);

#[test]
fn pods_of_a_silent_cluster_are_not_ready_and_run_on_when_it_is_back() -> TestResult {
    on_site("silent", async |site| {
        let _replica = site.replica(&["--unreachable-grace=5"])?;
        let proxy = FaultProxy::start(site.ground.second.api_server()).await?;
        let through = std::fs::read_to_string(site.ground.second.kubeconfig_through(proxy.address())?)?;
        let second = site.ground.second.client().await?;
        site.secret("silent", &through, "").await?;
        site.secret("spoken", &kubeconfig(&site.ground.first)?, "")
            .await?;
        for (name, node) in [("doubted", "silent"), ("trusted", "spoken")] {
            site.await_ready(node).await?;
            support::create(&site.pods(&site.upper), mk_pod(name, node)).await?;
            site.await_running(&site.upper, name).await?;
        }
        let before = site.uids(&second).await?;
        for fault in [Fault::HalfOpen, Fault::Cut] {
            proxy.set(fault);
            site.await_node("silent", "unreachable", |node| {
                condition(node, "Ready")["reason"] == "LowerClusterUnreachable"
            })
            .await?;
            let doubted = |pod: &Value| condition(pod, "Ready")["reason"] == "LowerClusterUnreachable";
            site.await_pod(&site.upper, "doubted", "not ready", doubted)
                .await?;
            site.await_running(&site.upper, "trusted").await?;
            proxy.set(Fault::None);
            let healed = Instant::now();
            site.await_running(&site.upper, "doubted").await?;
            ensure!(
                healed.elapsed() < CONVERGENCE,
                "{fault:?}: {:?}",
                healed.elapsed()
            );
        }
        ensure!(site.uids(&second).await? == before, "the pod was made again");
        Ok(())
    })
}

#[test]
fn pods_stay_ready_while_all_clusters_are_silent_since_then_it_is_we_who_are_cut_off() -> TestResult {
    on_site("deaf", async |site| {
        let replica = site.replica(&["--unreachable-grace=5"])?;
        let mut proxies = Vec::new();
        for (node, cluster) in [("deaf-a", &site.ground.first), ("deaf-b", &site.ground.second)] {
            let proxy = FaultProxy::start(cluster.api_server()).await?;
            let through = std::fs::read_to_string(cluster.kubeconfig_through(proxy.address())?)?;
            proxies.push(proxy);
            site.secret(node, &through, "").await?;
            site.await_ready(node).await?;
            support::create(&site.pods(&site.upper), mk_pod(node, node)).await?;
            site.await_running(&site.upper, node).await?;
        }
        proxies.iter().for_each(|proxy| proxy.set(Fault::Cut));
        let log = replica.component.log();
        let every = "every lower cluster is silent";
        for node in ["deaf-a", "deaf-b"] {
            site.await_node(node, "unreachable", |node| {
                condition(node, "Ready")["reason"] == "LowerClusterUnreachable"
            })
            .await?;
        }
        support::await_condition("each virtual node to suspect itself", DEADLINE, || async {
            let told = std::fs::read_to_string(log)?.matches(every).count();
            Ok((told == 2).then_some(()))
        })
        .await?;
        for name in ["deaf-a", "deaf-b"] {
            let pod = serde_json::to_value(site.pods(&site.upper).get(name).await?)?;
            ensure!(
                condition(&pod, "Ready")["status"] == "True",
                "{name} was doubted: {pod}"
            );
        }
        Ok(())
    })
}

const POLICIES: [&str; 3] = ["evict", "stay", "never-duplicate"];

/// A ReplicaSet of one pod with a policy, for either of two clusters. The pod bears an unreachable node for seconds only,
/// which is what the API server gives 300 s for.
fn mk_owner(policy: &str) -> Value {
    let briefly =
        |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 3});
    let either = json!({"key": "clusterID", "operator": "In", "values": ["policy-a", "policy-b"]});
    json!({
        "metadata": {"name": policy},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": policy}}, "template": {
            "metadata": {"labels": {"app": policy, "virtual-pod": "true"},
                         "annotations": {"tensile.dev/when-unreachable": policy}},
            "spec": {
                "tolerations": [briefly("node.kubernetes.io/not-ready"), briefly("node.kubernetes.io/unreachable")],
                "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [either]}]}}},
                "containers": [{"name": "main", "image": "ours"}],
            },
        }},
    })
}

/// The pods of an owner, oldest first.
async fn pods_of(site: &Site, client: &Client, policy: &str) -> Result<Vec<Value>> {
    let params = ListParams::default().labels(&format!("app={policy}"));
    let mut pods = site.pods(client).list(&params).await?.items;
    pods.sort_by_key(|pod| pod.metadata.creation_timestamp.as_ref().map(|time| time.0));
    pods.iter().map(|pod| Ok(serde_json::to_value(pod)?)).collect()
}

/// Waits until the pods of an owner are as `is_so` says, and returns them.
async fn await_pods(
    site: &Site,
    client: &Client,
    policy: &str,
    what: &str,
    is_so: impl Fn(&[Value]) -> bool,
) -> Result<Vec<Value>> {
    support::await_condition(
        &format!("pods with policy {policy}: {what}"),
        DEADLINE,
        || async {
            let pods = pods_of(site, client, policy).await?;
            ensure!(is_so(&pods), "they are {pods:?}");
            Ok(Some(pods))
        },
    )
    .await
}

fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready")["status"] == "True"
}

fn name(pod: &Value) -> &str {
    pod["metadata"]["name"].as_str().unwrap_or_default()
}

#[test]
fn the_policy_of_a_pod_decides_when_another_may_take_its_place() -> TestResult {
    on_site("policies", async |site| {
        let upper = &site.ground.upper;
        let webhook = Webhook::start(upper, &[]).await?;
        webhook::register(upper, webhook.address(), "Fail", Some(upper.client_ca_pem())).await?;
        let _replica = site.replica(&["--unreachable-grace=5"])?;
        let proxy = FaultProxy::start(site.ground.second.api_server()).await?;
        let through = std::fs::read_to_string(site.ground.second.kubeconfig_through(proxy.address())?)?;
        let (old, new) = (
            site.ground.second.client().await?,
            site.ground.first.client().await?,
        );
        site.secret("policy-a", &through, "").await?;
        site.await_ready("policy-a").await?;
        let owners: Api<ReplicaSet> = Api::namespaced(site.upper.clone(), &site.namespace);
        for policy in POLICIES {
            support::create(&owners, mk_owner(policy)).await?;
            await_pods(site, &site.upper, policy, "one, ready", |pods| {
                pods.len() == 1 && is_ready(&pods[0])
            })
            .await?;
        }
        site.secret("policy-b", &kubeconfig(&site.ground.first)?, "")
            .await?;
        site.await_ready("policy-b").await?;
        let before = site.uids(&old).await?;

        proxy.set(Fault::HalfOpen);
        // The evicted pod cannot be ended, but another runs in its place.
        await_pods(site, &site.upper, "evict", "replaced", |pods| {
            pods.len() == 2 && !pods[0]["metadata"]["deletionTimestamp"].is_null() && is_ready(&pods[1])
        })
        .await?;
        let unmoved = |pods: &[Value]| {
            pods.len() == 1
                && pods[0]["metadata"]["deletionTimestamp"].is_null()
                && condition(&pods[0], "Ready")["reason"] == "LowerClusterUnreachable"
        };
        await_pods(site, &site.upper, "stay", "unmoved, in doubt", unmoved).await?;
        let kept = await_pods(site, &site.upper, "never-duplicate", "unmoved, in doubt", unmoved).await?;
        // Whoever deletes it: its replacement waits, since nobody knows whether the old one runs.
        site.pods(&site.upper)
            .delete(name(&kept[0]), &DeleteParams::default())
            .await?;
        let waits =
            |pods: &[Value]| pods.len() == 2 && pods[1]["status"]["reason"] == "WaitingForPredecessor";
        await_pods(site, &site.upper, "never-duplicate", "the new one waits", waits).await?;
        ensure!(
            pods_of(site, &new, "never-duplicate").await?.is_empty(),
            "it was started"
        );

        proxy.set(Fault::None);
        let healed = Instant::now();
        for policy in POLICIES {
            let one = |pods: &[Value]| pods.len() == 1 && is_ready(&pods[0]);
            await_pods(site, &site.upper, policy, "one again, ready", one).await?;
            let places = (
                pods_of(site, &old, policy).await?.len(),
                pods_of(site, &new, policy).await?.len(),
            );
            let expected = if policy == "stay" { (1, 0) } else { (0, 1) };
            ensure!(
                places == expected,
                "{policy}: {places:?} pods in the old and the new cluster"
            );
        }
        eprintln!(
            "one pod of each policy {:?} after the cluster was back",
            healed.elapsed()
        );
        let after = site.uids(&old).await?;
        ensure!(
            after.len() == 1 && before.contains(&after[0]),
            "the pod that stayed was started again: {before:?}, now {after:?}"
        );
        let configurations: Api<k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration> =
            Api::all(site.upper.clone());
        let deleted = configurations
            .delete(webhook::CONFIGURATION, &DeleteParams::default())
            .await;
        deleted.map(drop).context("removing the webhook's configuration")
    })
}
