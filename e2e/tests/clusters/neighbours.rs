//! Two upper clusters before one lower cluster, one of which leaves.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use e2e::virtual_node::VirtualNodeSpec;
use e2e::{Cluster, ClusterSpec, TestResult, support};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Service};
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Client};
use serde_json::json;

use crate::secrets::await_gone;
use crate::{DEADLINE, Site, kubeconfig, mk_pod, on_site};

/// Before the namespaces of the other upper cluster.
const PREFIX: &str = "other";
const NAMES: [&str; 2] = ["one", "two"];

/// The same workload in either upper cluster, in the namespace of the test.
async fn settle(upper: &Client, namespace: &str, node: &str) -> Result<()> {
    let config = json!({"metadata": {"name": "config"}, "data": {"a": "1"}});
    support::create(&Api::<ConfigMap>::namespaced(upper.clone(), namespace), config).await?;
    let service = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"port": 80}]}});
    support::create(&Api::<Service>::namespaced(upper.clone(), namespace), service).await?;
    for name in NAMES {
        let mut pod = mk_pod(name, node);
        pod["spec"]["volumes"] = json!([{"name": "c", "configMap": {"name": "config"}}]);
        support::create(&Api::<Pod>::namespaced(upper.clone(), namespace), pod).await?;
        support::pod_running(upper, namespace, name, DEADLINE).await?;
    }
    Ok(())
}

/// Everything in a lower namespace, as far as somebody writes it: kind and name, UID and resourceVersion.
async fn content(lower: &Client, namespace: &str) -> Result<BTreeMap<String, (String, String)>> {
    let mut found = BTreeMap::new();
    for plural in ["pods", "configmaps", "services", "secrets"] {
        let path = format!("/api/v1/namespaces/{namespace}/{plural}");
        let request = kube::core::Request::new(path).list(&ListParams::default())?;
        let list: serde_json::Value = lower.request(request).await?;
        for object in list["items"].as_array().into_iter().flatten() {
            let text = |key: &str| object["metadata"][key].as_str().unwrap_or_default().to_owned();
            let name = format!("{plural}/{}", text("name"));
            found.insert(name, (text("uid"), text("resourceVersion")));
        }
    }
    Ok(found)
}

/// The other upper cluster, with the namespace of the test and a virtual node before the second lower cluster.
async fn other_upper(site: &Site) -> Result<(Cluster, e2e::virtual_node::VirtualNode)> {
    let other = Cluster::start(ClusterSpec::new("clusters-other")).await?;
    let client = other.client().await?;
    let namespace = json!({"metadata": {"name": site.namespace}});
    support::create(&Api::<Namespace>::all(client.clone()), namespace).await?;
    support::service_account(&client, &site.namespace).await?;
    // The node has the same name, too.
    let node = VirtualNodeSpec::new("share").args(["--namespace-prefix", PREFIX]);
    let node = node.start(&other, &site.ground.second).await?;
    Ok((other, node))
}

#[test]
fn one_of_two_upper_clusters_leaves_and_nothing_of_the_other_is_touched() -> TestResult {
    on_site("share", async |site| {
        let _replica = site.replica(&[])?;
        let second = site.ground.second.client().await?;
        let (other, node) = other_upper(site).await?;
        site.secret("share", &kubeconfig(&site.ground.second)?, "")
            .await?;
        site.await_ready("share").await?;
        settle(&site.upper, &site.namespace, "share").await?;
        settle(&other.client().await?, &site.namespace, "share").await?;
        let theirs = format!("{PREFIX}-{}", site.namespace);
        let before = content(&second, &theirs).await?;
        for name in ["pods/one", "pods/two", "configmaps/config", "services/web"] {
            ensure!(before.contains_key(name), "{before:?}");
        }
        ensure!(content(&second, &site.namespace).await?.contains_key("pods/one"));

        site.secrets().delete("share", &DeleteParams::default()).await?;
        await_gone(site, "share").await?;
        let ours = content(&second, &site.namespace).await?;
        let ours: Vec<_> = ours
            .keys()
            .filter(|name| *name != "configmaps/kube-root-ca.crt")
            .collect();
        ensure!(ours.is_empty(), "left below: {ours:?}");
        let after = content(&second, &theirs).await?;
        ensure!(after == before, "it was {before:?} and is {after:?}");
        for name in NAMES {
            support::pod_running(&other.client().await?, &site.namespace, name, DEADLINE)
                .await
                .context("the other upper cluster")?;
        }
        node.component.check_running()
    })
}
