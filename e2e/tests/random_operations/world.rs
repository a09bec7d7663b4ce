//! Two clusters, a virtual node between them that dies now and then, and what others have below.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::virtual_node::{VirtualNode, VirtualNodeSpec};
use e2e::{Cluster, Fault, FaultProxy, support};
use kube::Client;
use kube::api::{DeleteParams, GetParams, ListParams, Patch, PatchParams, PostParams};
use kube::core::Request;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

/// Answers that an operation may get: gone, there already, not allowed now, not valid.
const EXPECTED: [u16; 4] = [403, 404, 409, 422];
/// Time for an orderly end.
const END: Duration = Duration::from_secs(30);

pub(crate) struct World {
    upper_cluster: &'static Cluster,
    lower_cluster: &'static Cluster,
    pub(crate) upper: Client,
    pub(crate) lower: Client,
    /// The first is below already, as somebody else's, and others have objects there; the second is made by us.
    pub(crate) namespaces: [String; 2],
    /// Made by us below, and somebody has put something into it.
    pub(crate) kept: String,
    /// Name of the virtual node.
    pub(crate) node: String,
    /// Foreign objects below, as they were made, by collection and name.
    pub(crate) foreign: BTreeMap<(String, String), Value>,
    /// To the upper and to the lower cluster.
    links: [Link; 2],
    process: VirtualNode,
}

/// The way of the virtual node to one cluster.
struct Link {
    proxy: FaultProxy,
    kubeconfig: PathBuf,
    /// Operations until it heals.
    broken_for: usize,
}

// === impl World ===

impl World {
    pub(crate) async fn new(upper: &'static Cluster, lower: &'static Cluster, seed: u64) -> Result<Self> {
        let (above, below) = (upper.client().await?, lower.client().await?);
        let namespaces = [
            support::namespace_for_pods(&above).await?,
            support::namespace_for_pods(&above).await?,
        ];
        create(
            &below,
            "/api/v1/namespaces",
            &json!({"metadata": {"name": namespaces[0]}}),
        )
        .await?;
        support::service_account(&below, &namespaces[0]).await?;
        let links = [Link::to(upper).await?, Link::to(lower).await?];
        let node = format!("vn-{seed}");
        let process = spec(&node, &links).start(upper, lower).await?;
        let kept = settle(&above, &below, &node).await?;
        Ok(Self {
            upper_cluster: upper,
            lower_cluster: lower,
            upper: above,
            lower: below,
            namespaces,
            kept,
            node,
            foreign: BTreeMap::new(),
            links,
            process,
        })
    }

    /// Breaks the link to the upper cluster (0) or to the lower one (1).
    pub(crate) fn break_link(&mut self, link: usize, fault: Fault, operations: usize) {
        let link = &mut self.links[link];
        link.proxy.set(fault);
        link.broken_for = operations;
    }

    /// One more operation was done.
    pub(crate) fn tick(&mut self) {
        for link in &mut self.links {
            link.broken_for = link.broken_for.saturating_sub(1);
            if link.broken_for == 0 {
                link.proxy.set(Fault::None);
            }
        }
    }

    fn heal(&mut self) {
        for link in &mut self.links {
            link.broken_for = 0;
            link.proxy.set(Fault::None);
        }
    }

    /// What the virtual node that runs now has logged.
    pub(crate) fn log(&self) -> Result<String> {
        std::fs::read_to_string(self.process.component.log()).context("no log")
    }

    /// Ends the process, gently or not, and starts it again without waiting for it.
    pub(crate) async fn restart(&mut self, gently: bool) -> Result<()> {
        if gently {
            self.process.component.terminate().await?;
            self.process.component.wait_exit(END).await?;
        } else {
            self.process.component.kill().await?;
        }
        let spec = spec(&self.node, &self.links);
        // It would refuse to start without the clusters.
        self.heal();
        self.process = spec.spawn(self.upper_cluster, self.lower_cluster).await?;
        Ok(())
    }

    /// Heals the links and waits until the virtual node works again.
    pub(crate) async fn quiet(&mut self) -> Result<()> {
        self.heal();
        self.process.ready(self.upper_cluster).await
    }

    pub(crate) async fn delete_all_pods(&self) -> Result<()> {
        for namespace in self.namespaces.iter().chain([&self.kept]) {
            let pods = collection(namespace, "pods");
            for pod in list(&self.upper, &pods).await? {
                delete(&self.upper, &pods, text(&pod["metadata"]["name"]), None).await?;
            }
        }
        Ok(())
    }
}

// === impl Link ===

impl Link {
    async fn to(cluster: &Cluster) -> Result<Self> {
        let proxy = FaultProxy::start(cluster.api_server()).await?;
        Ok(Self {
            kubeconfig: cluster.kubeconfig_through(proxy.address())?,
            proxy,
            broken_for: 0,
        })
    }
}

fn spec(node: &str, links: &[Link; 2]) -> VirtualNodeSpec {
    VirtualNodeSpec::new(node)
        .upper_kubeconfig(&links[0].kubeconfig)
        .lower_kubeconfig(&links[1].kubeconfig)
}

/// Lets a pod have a namespace made below, and puts an object of that kind there; returns the namespace.
async fn settle(upper: &Client, lower: &Client, node: &str) -> Result<String> {
    let namespace = support::namespace_for_pods(upper).await?;
    let pod = json!({
        "metadata": {"name": "first"},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "ours"}]},
    });
    create(upper, &collection(&namespace, "pods"), &pod).await?;
    let widgets = format!("/apis/tensile.test/v1/namespaces/{namespace}/widgets");
    let widget = json!({"apiVersion": "tensile.test/v1", "kind": "Widget", "metadata": {"name": "theirs"}});
    support::await_condition("a widget in a namespace of ours", END, || async {
        Ok(create(lower, &widgets, &widget).await?.map(drop))
    })
    .await?;
    Ok(namespace)
}

pub(crate) fn collection(namespace: &str, plural: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/{plural}")
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// An answer that is none of the expected refusals; null for those.
fn tolerate<T>(answer: kube::Result<T>) -> Result<Option<T>> {
    match answer {
        Err(kube::Error::Api(status)) if EXPECTED.contains(&status.code) => Ok(None),
        answer => answer.map(Some).context("an unexpected answer"),
    }
}

pub(crate) async fn get(client: &Client, collection: &str, name: &str) -> Result<Value> {
    let request = Request::new(collection).get(name, &GetParams::default())?;
    Ok(tolerate(client.request(request).await)?.unwrap_or_default())
}

pub(crate) async fn list(client: &Client, collection: &str) -> Result<Vec<Value>> {
    let list: Value = client
        .request(Request::new(collection).list(&ListParams::default())?)
        .await?;
    Ok(list["items"].as_array().cloned().unwrap_or_default())
}

pub(crate) async fn create(client: &Client, collection: &str, object: &Value) -> Result<Option<Value>> {
    let body = serde_json::to_vec(object)?;
    tolerate(
        client
            .request(Request::new(collection).create(&PostParams::default(), body)?)
            .await,
    )
}

pub(crate) async fn merge(
    client: &Client,
    collection: &str,
    name: &str,
    patch: &Value,
) -> Result<Option<Value>> {
    let request = Request::new(collection).patch(name, &PatchParams::default(), &Patch::Merge(patch))?;
    tolerate(client.request(request).await)
}

pub(crate) async fn delete(client: &Client, collection: &str, name: &str, grace: Option<u32>) -> Result<()> {
    let params = DeleteParams {
        grace_period_seconds: grace,
        ..DeleteParams::default()
    };
    let request = Request::new(collection).delete(name, &params)?;
    tolerate(client.request::<IgnoredAny>(request).await).map(drop)
}
