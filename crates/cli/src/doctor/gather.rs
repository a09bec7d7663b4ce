//! Asks both sides for what doctor judges.

use futures::future::join_all;
use jiff::Timestamp;
use jiff::fmt::rfc2822;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, PostParams};
use kube::client::Body;
use kube::config::Kubeconfig;
use kube::{Api, Client};
use serde_json::json;
use tensile_core::names;

use super::expiry;
use super::facts::{ClusterAnswer, ClusterFacts, Facts, NodeFacts, WebhookFacts, Workload};
use crate::connect::{self, Upper};
use crate::error::{CliError, unless_forbidden};
use crate::join::{kubelet_answers, role};
use crate::lower::{self, LowerCluster};
use crate::nodes;

/// Name of the webhook's entry for pods that say that they take part; the chart gives it.
const WEBHOOK_ENTRY: &str = "pods.tensile.dev";
/// Where the pod of the dry run would be.
const DRY_RUN_NAMESPACE: &str = "default";

/// Asks everything.
pub(super) async fn facts(upper: &Upper) -> Result<Facts, CliError> {
    let identity = connect::identify(&upper.client)
        .await
        .map_err(|reason| CliError::Api {
            what: "the upper cluster".to_owned(),
            reason,
        })?;
    let clusters = lower::list(upper).await?;
    let nodes = nodes::list(upper).await?.into_iter().map(|node| async {
        NodeFacts {
            kubelet: kubelet_answers(&upper.client, &node.name).await,
            node,
        }
    });
    let (clusters, nodes) = tokio::join!(join_all(clusters.iter().map(cluster)), join_all(nodes));
    Ok(Facts {
        now: Timestamp::now(),
        upper: identity,
        upper_clock: clock(&upper.client).await,
        clusters,
        nodes,
        webhook: webhook(&upper.client).await?,
        workloads: workloads(upper).await?,
    })
}

async fn cluster(cluster: &LowerCluster) -> ClusterFacts {
    // Read as kube reads it, so that YAML and JSON both do.
    let parsed = cluster
        .kubeconfig
        .as_ref()
        .ok()
        .and_then(|text| Kubeconfig::from_yaml(text).ok());
    let parsed = parsed.and_then(|kubeconfig| serde_json::to_value(kubeconfig).ok());
    ClusterFacts {
        id: cluster.id.clone(),
        leaving: cluster.leaving,
        expires: parsed.as_ref().and_then(expiry::of_kubeconfig),
        answer: answer(cluster).await,
    }
}

async fn answer(cluster: &LowerCluster) -> Result<ClusterAnswer, String> {
    let client = cluster.open().await?;
    let identity = connect::identify(&client).await?;
    let rights = role::rights().map_err(|error| error.to_string())?;
    Ok(ClusterAnswer {
        clock: clock(&client).await,
        lacking: role::lacking(&client, rights).await,
        identity,
    })
}

/// The clock of an API server: the header that every HTTP answer has.
async fn clock(client: &Client) -> Option<Timestamp> {
    let request = http::Request::get("/version").body(Body::empty()).ok()?;
    let answer = client.send(request).await.ok()?;
    let date = answer.headers().get(http::header::DATE)?.to_str().ok()?;
    rfc2822::parse(date).ok().map(|date| date.timestamp())
}

async fn webhook(client: &Client) -> Result<Option<WebhookFacts>, CliError> {
    let configurations: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let all = configurations
        .list(&ListParams::default())
        .await
        .map_err(CliError::api("cannot list the webhooks"))?;
    let ours = all.items.into_iter().find(|found| {
        let entries = found.webhooks.iter().flatten();
        entries.into_iter().any(|entry| entry.name == WEBHOOK_ENTRY)
    });
    let Some(found) = ours else { return Ok(None) };
    let entries = found.webhooks.unwrap_or_default();
    let bundles: Vec<Vec<u8>> = entries
        .iter()
        .filter_map(|entry| entry.client_config.ca_bundle.as_ref())
        .map(|bundle| bundle.0.clone())
        .collect();
    Ok(Some(WebhookFacts {
        name: found.metadata.name.unwrap_or_default(),
        has_ca: bundles.len() == entries.len(),
        ca_expires: bundles.iter().filter_map(|pem| expiry::of_pem(pem)).min(),
        changes_pods: dry_run(client).await,
    }))
}

/// Lets the API server go through the creation of a pod that takes part, without making it.
async fn dry_run(client: &Client) -> Option<Result<bool, String>> {
    let pod = json!({
        "metadata": {"generateName": "tensile-doctor-", "labels": {names::VIRTUAL_POD: "true"}},
        "spec": {"containers": [{"name": "doctor", "image": "doctor"}]},
    });
    let pod: Pod = match serde_json::from_value(pod) {
        Ok(pod) => pod,
        Err(error) => return Some(Err(error.to_string())),
    };
    let pods: Api<Pod> = Api::namespaced(client.clone(), DRY_RUN_NAMESPACE);
    let params = PostParams {
        dry_run: true,
        ..PostParams::default()
    };
    let answer = unless_forbidden(pods.create(&params, &pod).await)?;
    Some(answer.map(|pod| tolerates_provider(&pod)))
}

/// What the webhook does to every pod that takes part.
fn tolerates_provider(pod: &Pod) -> bool {
    let tolerations = pod.spec.as_ref().and_then(|spec| spec.tolerations.as_ref());
    let mut keys = tolerations
        .into_iter()
        .flatten()
        .filter_map(|toleration| toleration.key.as_deref());
    keys.any(|key| key == names::PROVIDER_TAINT)
}

async fn workloads(upper: &Upper) -> Result<Vec<Workload>, CliError> {
    let deployments: Api<Deployment> = Api::namespaced(upper.client.clone(), &upper.namespace);
    let ours = ListParams::default().labels("app.kubernetes.io/name=tensile");
    let found = deployments.list(&ours).await.map_err(CliError::api(format!(
        "cannot list the Deployments of namespace {}",
        upper.namespace
    )))?;
    let workload = |deployment: Deployment| Workload {
        name: deployment.metadata.name.unwrap_or_default(),
        ready: deployment
            .status
            .and_then(|status| status.ready_replicas)
            .unwrap_or(0),
        wanted: deployment.spec.replicas.unwrap_or(1),
    };
    Ok(found.items.into_iter().map(workload).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_pod_is_known_by_its_toleration() {
        let pod = |key: &str| {
            let pod =
                json!({"spec": {"containers": [], "tolerations": [{"key": key, "operator": "Exists"}]}});
            serde_json::from_value(pod).unwrap()
        };
        assert!(tolerates_provider(&pod("virtual-kubelet.io/provider")));
        assert!(!tolerates_provider(&pod("other")) && !tolerates_provider(&Pod::default()));
    }
}
