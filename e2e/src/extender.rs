//! A scheduler extender under test: the real component as a process of its own, asked by a real kube-scheduler.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::component::Component;
use crate::leases::PortLease;
use crate::{Cluster, support};

/// Longest time until an extender is ready.
const DEADLINE: Duration = Duration::from_secs(60);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// The scheduler's configuration, as the chart installs it.
const CONFIGURATION: &str = include_str!("../../charts/tensile/files/scheduler.json");

/// A place for an extender, known before its cluster is: the scheduler's configuration names it.
pub struct ExtenderSpec {
    listen: PortLease,
    admin: PortLease,
}

/// A running extender.
pub struct Extender {
    /// The process.
    pub component: Component,
    admin: SocketAddr,
}

// === impl ExtenderSpec ===

impl ExtenderSpec {
    /// Takes the ports.
    ///
    /// # Errors
    /// When there are none.
    pub fn new() -> Result<Self> {
        Ok(Self {
            listen: PortLease::take()?,
            admin: PortLease::take()?,
        })
    }

    /// The chart's configuration of kube-scheduler, for an extender here: without TLS, and without an election.
    ///
    /// # Errors
    /// When the chart's file is no JSON.
    pub fn scheduler_config(&self) -> Result<Value> {
        let mut config: Value = serde_json::from_str(CONFIGURATION)?;
        config["leaderElection"] = json!({"leaderElect": false});
        let extender = &mut config["extenders"][0];
        extender["urlPrefix"] = json!(format!("http://{}/scheduler", self.address(&self.listen)));
        extender["enableHTTPS"] = json!(false);
        extender["tlsConfig"] = Value::Null;
        Ok(config)
    }

    /// Name of the scheduler that asks the extender.
    ///
    /// # Errors
    /// When the chart's file has none.
    pub fn scheduler_name() -> Result<String> {
        let config: Value = serde_json::from_str(CONFIGURATION)?;
        let name = config["profiles"][0]["schedulerName"].as_str();
        Ok(name.context("the chart names no scheduler")?.to_owned())
    }

    /// Starts an extender for `upper` that knows the lower clusters of `clusters`, a folder of kubeconfigs by id, and
    /// waits until it is ready.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn start(&self, upper: &Cluster, clusters: &Path, args: &[&str]) -> Result<Extender> {
        let admin = self.address(&self.admin);
        let own = [
            format!("--kubeconfig={}", upper.kubeconfig().display()),
            format!("--clusters-dir={}", clusters.display()),
            format!("--listen={}", self.address(&self.listen)),
            format!("--admin-listen={admin}"),
        ];
        let args: Vec<String> = own
            .into_iter()
            .chain(args.iter().map(|arg| (*arg).to_owned()))
            .collect();
        let component = Component::start("scheduler-extender", &args, &[])?;
        let extender = Extender { component, admin };
        support::await_condition("the extender to be ready", DEADLINE, || async {
            extender.component.check_running()?;
            let (status, text) = support::http_get(admin, "/readyz").await?;
            ensure!(status == 200, text);
            Ok(Some(()))
        })
        .await?;
        Ok(extender)
    }

    fn address(&self, port: &PortLease) -> SocketAddr {
        SocketAddr::new(LOOPBACK, port.port())
    }
}

// === impl Extender ===

impl Extender {
    /// A page of the admin server, as JSON.
    ///
    /// # Errors
    /// When it is not given.
    pub async fn page(&self, path: &str) -> Result<Value> {
        let text = self.text(path).await?;
        serde_json::from_str(&text).with_context(|| format!("{path} is no JSON: {text}"))
    }

    /// A page of the admin server, as it is.
    ///
    /// # Errors
    /// When it is not given.
    pub async fn text(&self, path: &str) -> Result<String> {
        let (status, text) = support::http_get(self.admin, path).await?;
        ensure!(status == 200, "{path}: {status}: {text}");
        Ok(text)
    }
}
