//! Pods bound to a virtual node run in its lower cluster, on simulated nodes.

use std::time::Duration;

use anyhow::{Context, Result};
use e2e::virtual_node::{VirtualNode, VirtualNodeSpec};
use e2e::{Cluster, ClusterSpec, NodeTemplate, TestResult, support};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Node, Pod, Secret};
use kube::Api;
use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(60);

/// An upper and a lower cluster with a virtual node between them.
struct Ground {
    upper: Cluster,
    lower: Cluster,
    node: VirtualNode,
}

async fn mk_ground(name: &str) -> Result<Ground> {
    let (upper, lower) = tokio::try_join!(
        Cluster::start(ClusterSpec::new(&format!("{name}-upper"))),
        Cluster::start(ClusterSpec::new(&format!("{name}-lower"))),
    )?;
    lower
        .kwok(3, NodeTemplate::default().cpu("4").memory("8Gi"))
        .await?;
    let node = VirtualNodeSpec::new("vn-a").start(&upper, &lower).await?;
    Ok(Ground { upper, lower, node })
}

/// A Deployment whose pods tolerate the virtual node and use a ConfigMap and a Secret in several ways.
fn mk_deployment(replicas: u32) -> Value {
    json!({
        "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {
                    "tolerations": [{"key": "virtual-kubelet.io/provider", "operator": "Exists"}],
                    "volumes": [{"name": "config", "configMap": {"name": "config"}}],
                    "containers": [{
                        "name": "web", "image": "web",
                        "volumeMounts": [{"name": "config", "mountPath": "/config"}],
                        "envFrom": [{"secretRef": {"name": "secret"}}],
                        "resources": {"requests": {"cpu": "100m"}},
                    }],
                },
            },
        },
    })
}

async fn pods(cluster: &Cluster, namespace: &str) -> Result<Vec<Pod>> {
    let pods: Api<Pod> = Api::namespaced(cluster.client().await?, namespace);
    Ok(pods.list(&ListParams::default()).await?.items)
}

fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_runs_below_with_what_it_refers_to_and_leaves_nothing_behind() -> TestResult {
    let ground = mk_ground("deploy").await?;
    let client = ground.upper.client().await?;
    let namespace = support::temp_namespace(&client).await?;
    let config = Api::<ConfigMap>::namespaced(client.clone(), &namespace);
    support::create(
        &config,
        json!({"metadata": {"name": "config"}, "data": {"a": "1"}}),
    )
    .await?;
    let secret = Api::<Secret>::namespaced(client.clone(), &namespace);
    support::create(
        &secret,
        json!({"metadata": {"name": "secret"}, "stringData": {"A": "s"}}),
    )
    .await?;
    let deployments = Api::<Deployment>::namespaced(client.clone(), &namespace);
    support::create(&deployments, mk_deployment(6)).await?;

    support::await_condition("all pods to run on both sides", DEADLINE, || async {
        let (above, below) = (
            pods(&ground.upper, &namespace).await?,
            pods(&ground.lower, &namespace).await?,
        );
        let run = |pods: &[Pod]| pods.len() == 6 && pods.iter().all(|pod| phase(pod) == Some("Running"));
        Ok((run(&above) && run(&below)).then_some(()))
    })
    .await?;
    let above = pods(&ground.upper, &namespace).await?;
    assert!(
        above
            .iter()
            .all(|pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some("vn-a"))
    );
    let below = Api::<Secret>::namespaced(ground.lower.client().await?, &namespace)
        .get("secret")
        .await?;
    assert!(below.data.context("no data")?["A"].0 == b"s");

    deployments.delete("web", &DeleteParams::default()).await?;
    support::await_condition("nothing of ours to be left below", DEADLINE, || async {
        let gone = pods(&ground.upper, &namespace).await?.is_empty()
            && pods(&ground.lower, &namespace).await?.is_empty();
        let maps = Api::<ConfigMap>::namespaced(ground.lower.client().await?, &namespace);
        Ok((gone && maps.get_opt("config").await?.is_none()).then_some(()))
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_shows_what_the_lower_cluster_has() -> TestResult {
    let ground = mk_ground("node").await?;
    let nodes: Api<Node> = Api::all(ground.upper.client().await?);
    let node = serde_json::to_value(nodes.get("vn-a").await?)?;
    assert!(
        node["status"]["capacity"]["cpu"] == "12",
        "{}",
        node["status"]["capacity"]
    );
    assert!(node["metadata"]["labels"]["type"] == "virtual-kubelet");
    assert!(node["spec"]["taints"][0]["key"] == "virtual-kubelet.io/provider");
    assert!(node["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"] == ground.node.kubelet().port());
    nodes.delete("vn-a", &DeleteParams::default()).await?;
    ground.node.ready(&ground.upper).await?;
    Ok(())
}
