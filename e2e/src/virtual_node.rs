//! A virtual node under test: the real component as a process of its own, between two clusters.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Namespace, Node};
use kube::Api;
use kube::api::PostParams;
use serde_json::json;

use crate::Cluster;
use crate::component::Component;
use crate::leases::PortLease;
use crate::support;

/// Longest time until a virtual node is Ready.
const DEADLINE: Duration = Duration::from_secs(60);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// How a virtual node is started.
#[derive(Clone, Debug)]
pub struct VirtualNodeSpec {
    name: String,
    args: Vec<String>,
    address: IpAddr,
    upper_kubeconfig: Option<std::path::PathBuf>,
    lower_kubeconfig: Option<std::path::PathBuf>,
    pod_uid: Option<String>,
    binary: Option<std::path::PathBuf>,
}

/// A running virtual node.
pub struct VirtualNode {
    /// The process.
    pub component: Component,
    name: String,
    address: IpAddr,
    admin: PortLease,
    kubelet: PortLease,
}

// === impl VirtualNodeSpec ===

impl VirtualNodeSpec {
    /// A virtual node called `name`.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            args: Vec::new(),
            address: LOOPBACK,
            upper_kubeconfig: None,
            lower_kubeconfig: None,
            pod_uid: None,
            binary: None,
        }
    }

    /// Further flags.
    #[must_use]
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Another address for its kubelet API than loopback, to which API servers proxy no requests for nodes.
    #[must_use]
    pub fn address(mut self, address: IpAddr) -> Self {
        self.address = address;
        self
    }

    /// Another kubeconfig for the upper cluster than the administrator's.
    #[must_use]
    pub fn upper_kubeconfig(mut self, path: impl Into<std::path::PathBuf>) -> Self {
        self.upper_kubeconfig = Some(path.into());
        self
    }

    /// Another kubeconfig for the lower cluster than the administrator's, for instance through a proxy.
    #[must_use]
    pub fn lower_kubeconfig(mut self, path: impl Into<std::path::PathBuf>) -> Self {
        self.lower_kubeconfig = Some(path.into());
        self
    }

    /// The pod that its processes run in, one after the other.
    #[must_use]
    pub fn pod_uid(mut self, uid: &str) -> Self {
        self.pod_uid = Some(uid.to_owned());
        self
    }

    /// Its own binary, if there is one, in place of that with all components.
    #[must_use]
    pub fn binary(mut self, path: Option<std::path::PathBuf>) -> Self {
        self.binary = path;
        self
    }

    /// Starts the process and returns at once.
    ///
    /// # Errors
    /// When the namespace for its lease cannot be made, or the process cannot be started.
    pub async fn spawn(&self, upper: &Cluster, lower: &Cluster) -> Result<VirtualNode> {
        let (admin, kubelet) = (PortLease::take()?, PortLease::take()?);
        system_namespace(upper).await?;
        let file = |own: &Option<std::path::PathBuf>, cluster: &Cluster| {
            own.as_deref()
                .unwrap_or(cluster.kubeconfig())
                .display()
                .to_string()
        };
        let mut args: Vec<String> = [
            ("--nodename", self.name.clone()),
            ("--kubeconfig", file(&self.upper_kubeconfig, upper)),
            ("--client-kubeconfig", file(&self.lower_kubeconfig, lower)),
            (
                "--admin-listen",
                SocketAddr::new(LOOPBACK, admin.port()).to_string(),
            ),
            (
                "--listen",
                SocketAddr::new(self.address, kubelet.port()).to_string(),
            ),
        ]
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect();
        args.extend(self.args.iter().cloned());
        let env = self.pod_uid.as_deref().map(|uid| ("POD_UID", uid));
        let component = Component::start_from(self.binary.as_deref(), "virtual-node", &args, env.as_slice())?;
        Ok(VirtualNode {
            component,
            name: self.name.clone(),
            address: self.address,
            admin,
            kubelet,
        })
    }

    /// Starts the process and waits until its Node is Ready.
    ///
    /// # Errors
    /// As [`VirtualNodeSpec::spawn`], and when it is not ready in time.
    pub async fn start(&self, upper: &Cluster, lower: &Cluster) -> Result<VirtualNode> {
        let node = self.spawn(upper, lower).await?;
        node.ready(upper).await?;
        Ok(node)
    }
}

// === impl VirtualNode ===

impl VirtualNode {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Address of its kubelet API.
    #[must_use]
    pub fn kubelet(&self) -> SocketAddr {
        SocketAddr::new(self.address, self.kubelet.port())
    }

    /// Address of its admin server.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        SocketAddr::new(LOOPBACK, self.admin.port())
    }

    /// Waits until the process says that it is ready and the Node is Ready.
    ///
    /// # Errors
    /// When it ends, or is not ready in time.
    pub async fn ready(&self, upper: &Cluster) -> Result<()> {
        let nodes: Api<Node> = Api::all(upper.client().await?);
        support::await_condition(
            &format!("virtual node {} to be ready", self.name),
            DEADLINE,
            || async {
                self.component.check_running()?;
                let node = nodes.get_opt(&self.name).await?;
                let conditions = node.and_then(|node| node.status?.conditions).unwrap_or_default();
                let ready = conditions
                    .iter()
                    .any(|c| c.type_ == "Ready" && c.status == "True");
                Ok((ready && self.is_ready().await).then_some(()))
            },
        )
        .await
    }

    /// Whether /readyz says so.
    pub async fn is_ready(&self) -> bool {
        matches!(self.page("/readyz").await, Ok((200, _)))
    }

    /// A page of the admin server: status and body.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn page(&self, path: &str) -> Result<(u16, String)> {
        support::http_get(self.admin(), path).await
    }

    /// The value of a counter or gauge in /metrics, summed over its labels.
    ///
    /// # Errors
    /// When there is no such metric.
    pub async fn metric(&self, name: &str) -> Result<f64> {
        let (_, text) = self.page("/metrics").await?;
        let samples = text
            .lines()
            .filter(|line| line.starts_with(name) && !line.starts_with('#'));
        let values: Vec<f64> = samples
            .filter_map(|line| line.rsplit(' ').next()?.parse().ok())
            .collect();
        (!values.is_empty())
            .then(|| values.iter().sum())
            .with_context(|| format!("no metric {name}"))
    }
}

async fn system_namespace(upper: &Cluster) -> Result<()> {
    let namespaces: Api<Namespace> = Api::all(upper.client().await?);
    let namespace = serde_json::from_value(json!({"metadata": {"name": "tensile-system"}}))?;
    match namespaces.create(&PostParams::default(), &namespace).await {
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
        made => made.map(|_| ()).context("cannot make namespace tensile-system"),
    }
}
