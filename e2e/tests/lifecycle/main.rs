//! The life of virtual nodes: what is not theirs, restarts, their Nodes, and what they refuse. On simulated nodes.
//!
//! All tests share one upper and two lower clusters. The virtual node `vn-a` runs in front of the first lower cluster
//! all the time; tests with a virtual node of their own take turns at the second one.

mod foreign;
mod node;
mod refusals;
mod restart;

use std::time::Duration;

use anyhow::{Context, Result};
use e2e::support::{self, Shared};
use e2e::virtual_node::{VirtualNode, VirtualNodeSpec};
use e2e::{Cluster, ClusterSpec, NodeTemplate, TestResult};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Pod};
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

/// Longest time for one thing to happen.
const DEADLINE: Duration = Duration::from_secs(60);
/// The virtual node in front of the first lower cluster.
const NODE: &str = "vn-a";

static GROUND: Shared<Ground> = Shared::new();

struct Ground {
    upper: Cluster,
    first: Cluster,
    second: Cluster,
    _node: VirtualNode,
    turn: Mutex<()>,
}

/// A namespace of its own for one test.
struct Site {
    ground: &'static Ground,
    namespace: String,
    upper: Client,
    first: Client,
    second: Client,
}

async fn mk_ground() -> Result<Ground> {
    let (upper, first, second) = tokio::try_join!(
        Cluster::start(ClusterSpec::new("life-upper").with_audit_log()),
        Cluster::start(ClusterSpec::new("life-first")),
        Cluster::start(ClusterSpec::new("life-second").with_audit_log()),
    )?;
    tokio::try_join!(
        first.kwok(2, NodeTemplate::default()),
        second.kwok(2, NodeTemplate::default())
    )?;
    let node = VirtualNodeSpec::new(NODE).start(&upper, &first).await?;
    Ok(Ground {
        upper,
        first,
        second,
        _node: node,
        turn: Mutex::default(),
    })
}

/// Runs a test in a namespace of its own.
fn on_site(test: impl AsyncFnOnce(&Site) -> Result<()>) -> TestResult {
    GROUND.run(mk_ground, async |ground| {
        let upper = ground.upper.client().await?;
        let namespace = support::namespace_for_pods(&upper).await?;
        let (first, second) = (ground.first.client().await?, ground.second.client().await?);
        test(&Site {
            ground,
            namespace,
            upper,
            first,
            second,
        })
        .await
    })
}

/// A pod bound to `node` that uses the ConfigMap `config`, if it is named.
fn mk_pod(name: &str, node: &str, config: Option<&str>) -> Value {
    let volumes = config.map(|config| json!([{"name": "config", "configMap": {"name": config}}]));
    json!({
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "nodeName": node,
            "volumes": volumes,
            "containers": [{"name": "main", "image": "ours"}],
        },
    })
}

fn is_running(pod: &Value) -> bool {
    pod["status"]["phase"] == "Running"
}

// === impl Site ===

impl Site {
    /// Waits for this test's turn at the second lower cluster; what earlier turns left there may still be there.
    async fn turn(&self) -> MutexGuard<'static, ()> {
        self.ground.turn.lock().await
    }

    fn api<K>(&self, client: &Client) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        Api::namespaced(client.clone(), &self.namespace)
    }

    /// Creates a pod above.
    async fn create(&self, pod: Value) -> Result<Value> {
        Ok(serde_json::to_value(
            support::create(&self.api::<Pod>(&self.upper), pod).await?,
        )?)
    }

    /// An object as JSON; null if there is none.
    async fn get<K>(&self, client: &Client, name: &str) -> Result<Value>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + DeserializeOwned
            + serde::Serialize,
    {
        Ok(serde_json::to_value(self.api::<K>(client).get_opt(name).await?)?)
    }

    /// The pods of this namespace.
    async fn pods(&self, client: &Client) -> Result<Vec<Value>> {
        let pods = self.api::<Pod>(client).list(&ListParams::default()).await?;
        Ok(pods
            .items
            .iter()
            .map(serde_json::to_value)
            .collect::<Result<_, _>>()?)
    }

    /// Waits until a pod is as it should be; returns it.
    async fn await_pod(
        &self,
        client: &Client,
        name: &str,
        what: &str,
        is_so: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        support::await_condition(&format!("pod {name} {what}"), DEADLINE, || async {
            let pod = self.get::<Pod>(client, name).await?;
            if is_so(&pod) {
                return Ok(Some(pod));
            }
            anyhow::bail!("it is {pod}")
        })
        .await
    }

    /// Waits until a pod runs above and below; returns the lower one.
    async fn await_both(&self, lower: &Client, name: &str) -> Result<Value> {
        let upper = self
            .await_pod(&self.upper, name, "running above", is_running)
            .await?;
        let uid = &upper["metadata"]["uid"];
        let of_it =
            |pod: &Value| pod["metadata"]["labels"]["tensile.dev/origin-uid"] == *uid && is_running(pod);
        self.await_pod(lower, name, "running below", of_it).await
    }

    /// Waits until a pod says why it does not run; returns the message.
    async fn await_refusal(&self, name: &str, reason: &str) -> Result<String> {
        let is_so = |pod: &Value| pod["status"]["reason"] == reason;
        let pod = self
            .await_pod(&self.upper, name, "to say why it does not run", is_so)
            .await?;
        anyhow::ensure!(pod["status"]["phase"] == "Pending", "{pod}");
        let events: Api<Event> = self.api(&self.upper);
        let selector = format!("involvedObject.name={name},reason={reason}");
        support::await_condition(&format!("one event {reason}"), DEADLINE, || async {
            let found = events.list(&ListParams::default().fields(&selector)).await?.items;
            Ok((found.len() == 1).then_some(()))
        })
        .await?;
        let message = pod["status"]["message"].as_str().context("no message")?;
        Ok(message.to_owned())
    }

    /// Makes or replaces what a ConfigMap says.
    async fn set_config(&self, client: &Client, name: &str, value: &str) -> Result<()> {
        let config = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": value},
        });
        let params = PatchParams::apply("test").force();
        self.api::<ConfigMap>(client)
            .patch(name, &params, &Patch::Apply(config))
            .await?;
        Ok(())
    }
}
