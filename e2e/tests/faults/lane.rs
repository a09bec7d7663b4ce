//! One virtual node with pods of its own, and what breaks its links.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::measure::AuditLog;
use e2e::virtual_node::{VirtualNode, VirtualNodeSpec};
use e2e::{BUSYBOX_IMAGE, Cluster, Fault, FaultProxy, support};
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::DEADLINE;
use crate::gateway::{Gateway, Storm};
use crate::picture::{Gaps, Picture, Seen, Wanted};
use crate::table::{Link, Row, What};

/// A virtual node, its namespace, and what was asked for there.
pub(crate) struct Lane<'a> {
    pub(crate) upper: &'a Cluster,
    pub(crate) lower: &'a Cluster,
    pub(crate) spec: VirtualNodeSpec,
    pub(crate) node: VirtualNode,
    pub(crate) namespace: String,
    above: Client,
    below: Client,
    wall: Wall,
    audit: AuditLog,
    pub(crate) wanted: Wanted,
    /// How many upper pods of each name there have been.
    pub(crate) asked: BTreeMap<String, usize>,
    /// How many faults it has suffered; their pods are named by it.
    pub(crate) faults: usize,
}

/// What stands between the virtual node and a cluster.
enum Wall {
    None,
    Proxy(FaultProxy),
    Gateway(Gateway),
}

impl Wall {
    async fn build(row: &Row, cluster: &Cluster) -> Result<Self> {
        Ok(match row.what {
            What::Network(_) => Self::Proxy(FaultProxy::start(cluster.api_server()).await?),
            What::Answers(storm) => {
                let name = format!("gateway-{storm:?}").to_lowercase();
                Self::Gateway(Gateway::start(cluster, &name).await?)
            }
            What::ApiServer | What::OlderState | What::Namespace => Self::None,
        })
    }

    fn address(&self) -> Option<std::net::SocketAddr> {
        match self {
            Self::None => None,
            Self::Proxy(proxy) => Some(proxy.address()),
            Self::Gateway(gateway) => Some(gateway.address()),
        }
    }

    fn set(&self, what: What) {
        match (self, what) {
            (Self::Proxy(proxy), What::Network(fault)) => proxy.set(fault),
            (Self::Gateway(gateway), What::Answers(storm)) => gateway.set(storm),
            _ => {}
        }
    }

    fn heal(&self) {
        self.set(What::Network(Fault::None));
        self.set(What::Answers(Storm::None));
    }
}

/// A pod on `node`; it takes a token along unless it is one of very many.
fn mk_pod(name: &str, node: &str, token: bool) -> Value {
    json!({"metadata": {"name": name, "labels": {"app": "fault"}}, "spec": pod_spec(node, token)})
}

fn pod_spec(node: &str, token: bool) -> Value {
    json!({
        "nodeName": node, "terminationGracePeriodSeconds": 1, "automountServiceAccountToken": token,
        "containers": [{"name": "main", "image": BUSYBOX_IMAGE, "command": ["sleep", "36000"]}],
    })
}

// === impl Lane ===

impl<'a> Lane<'a> {
    /// Starts the virtual node `name`, with what `row` needs in its way.
    pub(crate) async fn start(name: &str, row: &Row, upper: &'a Cluster, lower: &'a Cluster) -> Result<Self> {
        let behind = match row.link {
            Link::Upper => upper,
            Link::Lower => lower,
        };
        let wall = Wall::build(row, behind).await?;
        let mut spec = VirtualNodeSpec::new(name).pod_uid(name);
        if let Some(address) = wall.address() {
            let through = behind.kubeconfig_through(address)?;
            spec = match row.link {
                Link::Upper => spec.upper_kubeconfig(through),
                Link::Lower => spec.lower_kubeconfig(through),
            };
        }
        let (above, below) = (upper.client().await?, lower.client().await?);
        let namespace = support::namespace_for_pods(&above).await?;
        Ok(Self {
            node: spec.start(upper, lower).await?,
            audit: AuditLog::from_now(lower)?,
            upper,
            lower,
            spec,
            namespace,
            above,
            below,
            wall,
            wanted: Wanted::default(),
            asked: BTreeMap::new(),
            faults: 0,
        })
    }

    fn pods(&self) -> Api<Pod> {
        Api::namespaced(self.above.clone(), &self.namespace)
    }

    /// Makes a pod, also while the API server does not answer for some time.
    pub(crate) async fn make(&mut self, name: &str, token: bool) -> Result<()> {
        self.create(name, token).await?;
        self.wanted.names.insert(name.to_owned());
        *self.asked.entry(name.to_owned()).or_default() += 1;
        Ok(())
    }

    /// As [`Lane::make`], but without noting that it was asked for.
    pub(crate) async fn create(&self, name: &str, token: bool) -> Result<()> {
        let pod: Pod = serde_json::from_value(mk_pod(name, self.node.name(), token))?;
        let pods = self.pods();
        support::await_condition(&format!("pod {name} to be made"), DEADLINE, || async {
            match pods.create(&PostParams::default(), &pod).await {
                Err(kube::Error::Api(status)) if status.code == 409 => Ok(Some(())),
                made => Ok(made.map(|_| Some(()))?),
            }
        })
        .await
    }

    /// Deletes a pod as users do.
    pub(crate) async fn remove(&mut self, name: &str) -> Result<()> {
        self.delete(name, &DeleteParams::default()).await?;
        self.wanted.names.remove(name);
        Ok(())
    }

    /// Deletes a pod.
    pub(crate) async fn delete(&self, name: &str, params: &DeleteParams) -> Result<()> {
        let pods = self.pods();
        support::await_condition(&format!("pod {name} to be deleted"), DEADLINE, || async {
            match pods.delete(name, params).await {
                Err(kube::Error::Api(status)) if status.code == 404 => Ok(Some(())),
                deleted => Ok(deleted.map(|_| Some(()))?),
            }
        })
        .await
    }

    /// Deletes a pod by force and makes another one of the same name at once, which must not be taken for it.
    pub(crate) async fn exchange(&mut self, name: &str) -> Result<()> {
        self.delete(name, &DeleteParams::default().grace_period(0))
            .await?;
        self.make(name, true).await
    }

    /// Makes a ReplicaSet, whose pods are replaced when they are lost.
    pub(crate) async fn make_owned(&mut self, name: &str, replicas: usize) -> Result<()> {
        let sets: Api<ReplicaSet> = Api::namespaced(self.above.clone(), &self.namespace);
        let labels = json!({"app": name});
        let set = json!({
            "metadata": {"name": name},
            "spec": {"replicas": replicas, "selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels}, "spec": pod_spec(self.node.name(), true)}},
        });
        support::create(&sets, set).await?;
        self.wanted.owned += replicas;
        Ok(())
    }

    async fn list(&self, client: &Client) -> Result<Vec<Seen>> {
        let pods: Api<Pod> = Api::namespaced(client.clone(), &self.namespace);
        let pods = pods.list(&ListParams::default()).await?.items;
        pods.iter()
            .map(|pod| Ok(Seen::of(&serde_json::to_value(pod)?)))
            .collect()
    }

    /// Both sides now. What the other side of a pod's own virtual node made does not count.
    pub(crate) async fn picture(&self) -> Result<Picture> {
        let (above, below) = tokio::try_join!(self.list(&self.above), self.list(&self.below))?;
        Ok(Picture { above, below })
    }

    /// Waits until both sides are as they should be; returns how long that took.
    pub(crate) async fn await_agreement(&self, deadline: Duration) -> Result<Duration> {
        let started = Instant::now();
        let what = format!("both sides of {} to agree", self.node.name());
        support::await_condition(&what, deadline, || async {
            self.node.component.check_running()?;
            let gaps = self.picture().await?.gaps(&self.wanted);
            ensure!(gaps == Gaps::default(), "{gaps:?}");
            Ok(Some(()))
        })
        .await?;
        Ok(started.elapsed())
    }

    /// How often each pod was made below.
    pub(crate) fn made_below(&self) -> Result<BTreeMap<String, usize>> {
        self.audit.pods_made(&self.namespace)
    }

    /// Begins a fault.
    pub(crate) async fn begin(&self, row: &Row) -> Result<()> {
        match row.what {
            What::Network(_) | What::Answers(_) => self.wall.set(row.what),
            What::ApiServer => self.faulty(row).kill_component("kube-apiserver").await?,
            What::OlderState => {}
            What::Namespace => self.lower.partition().await?,
        }
        Ok(())
    }

    /// Ends a fault.
    pub(crate) async fn end(&self, row: &Row) -> Result<()> {
        match row.what {
            What::Network(_) | What::Answers(_) => self.wall.heal(),
            What::ApiServer => self.faulty(row).start_component("kube-apiserver").await?,
            What::OlderState => self.faulty(row).restore_store().await.context("restoring etcd")?,
            What::Namespace => self.lower.heal().await?,
        }
        Ok(())
    }

    /// The cluster that breaks.
    pub(crate) fn faulty(&self, row: &Row) -> &'a Cluster {
        match row.link {
            Link::Upper => self.upper,
            Link::Lower => self.lower,
        }
    }
}
