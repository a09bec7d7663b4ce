//! Secrets that come, change, hold nonsense, and go.

use anyhow::{Result, ensure};
use e2e::{TestResult, support};
use k8s_openapi::api::core::v1::{Event, Node};
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::json;

use crate::{DEADLINE, Site, kubeconfig, mk_pod, on_site};

#[test]
fn clusters_come_and_change_and_nonsense_disturbs_nobody() -> TestResult {
    on_site("come", async |site| {
        let replica = site.replica(&[])?;
        let first = site.ground.first.client().await?;
        site.secret("come-a", &kubeconfig(&site.ground.first)?, "")
            .await?;
        let node = site.await_ready("come-a").await?;
        ensure!(node["metadata"]["labels"]["clusterID"] == "come-a", "{node}");
        support::create(&site.pods(&site.upper), mk_pod("web", "come-a")).await?;
        let below = site.await_running(&first, "web").await?;

        site.secret("come-b", &kubeconfig(&site.ground.second)?, "nodes: [{nam: x}]")
            .await?;
        let says = |secret: &serde_json::Value| {
            let problem = secret["metadata"]["annotations"]["tensile.dev/problem"].as_str();
            problem
                .is_some_and(|problem| problem.starts_with("key nodes.yaml: nodes[0]: unknown field `nam`"))
        };
        site.await_secret("come-b", "to say what is wrong", says).await?;
        let events: Api<Event> = Api::namespaced(site.upper.clone(), &site.system);
        support::await_condition("an event on the Secret", DEADLINE, || async {
            let params = ListParams::default().fields("reason=InvalidCluster,involvedObject.name=come-b");
            Ok((!events.list(&params).await?.items.is_empty()).then_some(()))
        })
        .await?;
        // The upper cluster as its own lower one never gets a Node.
        site.secret("come-c", &kubeconfig(&site.ground.upper)?, "")
            .await?;
        site.secret("come-b", &kubeconfig(&site.ground.second)?, "")
            .await?;
        site.await_secret("come-b", "to be well", |secret| {
            secret["metadata"]["annotations"]["tensile.dev/problem"].is_null()
        })
        .await?;
        site.await_ready("come-b").await?;
        let nodes: Api<Node> = Api::all(site.upper.clone());
        ensure!(
            nodes.get_opt("come-c").await?.is_none(),
            "the upper cluster is its own lower one"
        );

        // Labels of the Node change; what runs does not notice.
        let labelled = "nodes: [{name: come-a, labels: {team: ml}}]";
        site.secret("come-a", &kubeconfig(&site.ground.first)?, labelled)
            .await?;
        site.await_node("come-a", "with its label", |node| {
            node["metadata"]["labels"]["team"] == "ml"
        })
        .await?;
        let still = site.await_running(&first, "web").await?;
        ensure!(
            still["metadata"]["uid"] == below["metadata"]["uid"],
            "the pod was started again"
        );
        replica.component.check_running()?;
        Ok(())
    })
}

#[test]
fn a_cluster_leaves_through_evictions_that_obey_budgets() -> TestResult {
    on_site("leave", async |site| {
        let _replica = site.replica(&[])?;
        let second = site.ground.second.client().await?;
        site.secret("leave", &kubeconfig(&site.ground.second)?, "")
            .await?;
        site.await_ready("leave").await?;
        site.await_secret("leave", "to be held", |secret| {
            secret["metadata"]["finalizers"] == json!(["tensile.dev/cluster"])
        })
        .await?;
        for name in ["guarded", "free"] {
            support::create(&site.pods(&site.upper), mk_pod(name, "leave")).await?;
            site.await_running(&site.upper, name).await?;
        }
        let budgets = site.guard().await?;

        site.secrets().delete("leave", &DeleteParams::default()).await?;
        support::pod_gone(&second, &site.namespace, "free", DEADLINE).await?;
        site.await_running(&second, "guarded").await?;
        ensure!(
            site.secrets().get_opt("leave").await?.is_some(),
            "the Secret went before its pods"
        );
        budgets.delete("guard", &DeleteParams::default()).await?;
        await_gone(site, "leave").await?;
        ensure!(site.uids(&second).await?.is_empty(), "pods are left below");
        Ok(())
    })
}

#[test]
fn a_dead_cluster_can_be_abandoned() -> TestResult {
    on_site("abandon", async |site| {
        let replica = site.replica(&["--unreachable-grace=5"])?;
        let proxy = e2e::FaultProxy::start(site.ground.second.api_server()).await?;
        let through = site.ground.second.kubeconfig_through(proxy.address())?;
        site.secret("abandon", &std::fs::read_to_string(through)?, "")
            .await?;
        site.await_ready("abandon").await?;
        support::create(&site.pods(&site.upper), mk_pod("lost", "abandon")).await?;
        site.await_running(&site.upper, "lost").await?;
        proxy.set(e2e::Fault::Cut);
        site.await_node("abandon", "unreachable", |node| {
            crate::condition(node, "Ready")["reason"] == "LowerClusterUnreachable"
        })
        .await?;
        site.secrets().delete("abandon", &DeleteParams::default()).await?;
        let abandon = json!({"metadata": {"annotations": {"tensile.dev/abandon": "true"}}});
        site.secrets()
            .patch("abandon", &PatchParams::default(), &Patch::Merge(abandon))
            .await?;
        await_gone(site, "abandon").await?;
        let second = site.ground.second.client().await?;
        site.await_running(&second, "lost").await?;
        let log = std::fs::read_to_string(replica.component.log())?;
        let failures = log.lines().filter(|line| line.contains("trying on"));
        ensure!(failures.count() == 1, "a dead cluster is not one line:\n{log}");
        Ok(())
    })
}

pub(crate) async fn await_gone(site: &Site, id: &str) -> Result<()> {
    let nodes: Api<Node> = Api::all(site.upper.clone());
    support::await_condition("the Secret and the Node to be gone", DEADLINE, || async {
        let (secret, node) = (site.secrets().get_opt(id).await?, nodes.get_opt(id).await?);
        Ok((secret.is_none() && node.is_none()).then_some(()))
    })
    .await
}
