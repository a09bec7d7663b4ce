//! What a workload brings along, on simulated nodes: Services, claims, events, namespaces, several clusters.
//!
//! Two upper clusters, `upper` and `other`; two lower ones. In `upper`, `vn-a` and `vn-d` stand for the first lower
//! cluster and `vn-b` for the second; `vn-a` of `other` stands for the first one too, with a prefix before its
//! namespaces.

mod claims;
mod dependencies;
mod events;
mod neighbours;
mod services;

use std::time::Duration;

use anyhow::{Result, bail};
use e2e::support::{self, Shared};
use e2e::virtual_node::{VirtualNode, VirtualNodeSpec};
use e2e::{Cluster, ClusterSpec, NodeTemplate, TestResult, rights};
use kube::Client;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::core::Request;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

/// Longest time for one thing to happen.
const DEADLINE: Duration = Duration::from_secs(90);
/// The virtual node of the first lower cluster.
const NODE: &str = "vn-a";
/// Before the namespaces of the other upper cluster.
const PREFIX: &str = "other";

static GROUND: Shared<Ground> = Shared::new();

struct Ground {
    clusters: [Cluster; 4],
    nodes: [VirtualNode; 4],
}

/// A namespace of its own for one test, and clients as administrator.
struct Site {
    ground: &'static Ground,
    namespace: String,
    upper: Client,
    other: Client,
    first: Client,
    second: Client,
}

async fn mk_ground() -> Result<Ground> {
    let start = |name: &str| Cluster::start(ClusterSpec::new(name));
    let (upper, other, first, second) = tokio::try_join!(
        start("work-upper"),
        start("work-other"),
        start("work-first"),
        start("work-second"),
    )?;
    tokio::try_join!(
        first.kwok(2, NodeTemplate::default()),
        second.kwok(2, NodeTemplate::default())
    )?;
    // All of them have the rights of the chart's roles, and no others.
    let (of_upper, of_other) = tokio::try_join!(rights::for_upper(&upper), rights::for_upper(&other))?;
    let (of_first, of_second) = tokio::try_join!(rights::for_lower(&first), rights::for_lower(&second))?;
    let a = VirtualNodeSpec::new(NODE)
        .upper_kubeconfig(&of_upper)
        .lower_kubeconfig(&of_first);
    let b = VirtualNodeSpec::new("vn-b")
        .upper_kubeconfig(&of_upper)
        .lower_kubeconfig(of_second);
    let c = VirtualNodeSpec::new(NODE)
        .args(["--namespace-prefix", PREFIX])
        .upper_kubeconfig(of_other)
        .lower_kubeconfig(&of_first);
    let d = VirtualNodeSpec::new("vn-d")
        .upper_kubeconfig(&of_upper)
        .lower_kubeconfig(&of_first);
    let nodes = tokio::try_join!(
        a.start(&upper, &first),
        b.start(&upper, &second),
        c.start(&other, &first),
        d.start(&upper, &first)
    )?;
    Ok(Ground {
        clusters: [upper, other, first, second],
        nodes: nodes.into(),
    })
}

/// Runs a test in a namespace of its own.
fn on_site(test: impl AsyncFnOnce(&Site) -> Result<()>) -> TestResult {
    GROUND.run(mk_ground, async |ground| {
        let [upper, other, first, second] = &ground.clusters;
        let site = Site {
            ground,
            namespace: support::namespace_for_pods(&upper.client().await?).await?,
            upper: upper.client().await?,
            other: other.client().await?,
            first: first.client().await?,
            second: second.client().await?,
        };
        test(&site).await
    })
}

/// A pod that tolerates virtual nodes and is bound to `node`; `spec` is added.
fn mk_pod(name: &str, node: &str, spec: &Value) -> Value {
    let mut pod = json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "tolerations": [{"key": "virtual-kubelet.io/provider", "operator": "Exists"}],
            "containers": [{"name": "main", "image": "ours"}],
        },
    });
    for (key, value) in spec.as_object().into_iter().flatten() {
        pod["spec"][key] = value.clone();
    }
    pod
}

fn is_running(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running"
}

/// An object; null if there is none.
async fn get(client: &Client, collection: &str, name: &str) -> Result<Value> {
    let request = Request::new(collection).get(name, &kube::api::GetParams::default())?;
    match client.request(request).await {
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(Value::Null),
        found => Ok(found?),
    }
}

async fn list(client: &Client, collection: &str) -> Result<Vec<Value>> {
    let list: Value = client
        .request(Request::new(collection).list(&kube::api::ListParams::default())?)
        .await?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

async fn create(client: &Client, collection: &str, object: &Value) -> Result<Value> {
    let body = serde_json::to_vec(object)?;
    Ok(client
        .request(Request::new(collection).create(&PostParams::default(), body)?)
        .await?)
}

/// Merges a patch; `name` may name a subresource too.
async fn merge(client: &Client, collection: &str, name: &str, patch: &Value) -> Result<Value> {
    let request = Request::new(collection).patch(name, &PatchParams::default(), &Patch::Merge(patch))?;
    Ok(client.request(request).await?)
}

async fn delete(client: &Client, collection: &str, name: &str) -> Result<()> {
    let request = Request::new(collection).delete(name, &DeleteParams::default())?;
    client.request::<IgnoredAny>(request).await?;
    Ok(())
}

/// Waits until an object is as it should be (null if there is none); returns it.
async fn until(
    client: &Client,
    collection: &str,
    name: &str,
    what: &str,
    is_so: impl Fn(&Value) -> bool,
) -> Result<Value> {
    support::await_condition(&format!("{collection}/{name} {what}"), DEADLINE, || async {
        let found = get(client, collection, name).await?;
        if is_so(&found) {
            return Ok(Some(found));
        }
        bail!("it is {found}")
    })
    .await
}

async fn until_gone(client: &Client, collection: &str, name: &str) -> Result<()> {
    until(client, collection, name, "to be gone", Value::is_null)
        .await
        .map(drop)
}

// === impl Site ===

impl Site {
    /// The collection of a core kind in this test's namespace.
    fn all(&self, plural: &str) -> String {
        format!("/api/v1/namespaces/{}/{plural}", self.namespace)
    }

    /// Creates a pod above and waits until it runs below; returns the lower pod.
    async fn run(&self, pod: &Value, lower: &Client) -> Result<Value> {
        create(&self.upper, &self.all("pods"), pod).await?;
        let name = pod["metadata"]["name"].as_str().unwrap_or_default();
        until(&self.upper, &self.all("pods"), name, "running above", is_running).await?;
        until(lower, &self.all("pods"), name, "running below", is_running).await
    }

    /// Deletes a pod above and waits until it is gone on both sides.
    async fn end(&self, name: &str, lower: &Client) -> Result<()> {
        delete(&self.upper, &self.all("pods"), name).await?;
        until_gone(&self.upper, &self.all("pods"), name).await?;
        until_gone(lower, &self.all("pods"), name).await
    }

    /// Waits until a pod says that something it needs cannot be had; returns the message.
    async fn refusal(&self, name: &str, reason: &str) -> Result<String> {
        let is_so = |pod: &Value| pod["status"]["reason"] == reason;
        let pod = until(&self.upper, &self.all("pods"), name, "to say why it waits", is_so).await?;
        Ok(pod["status"]["message"].as_str().unwrap_or_default().to_owned())
    }
}
