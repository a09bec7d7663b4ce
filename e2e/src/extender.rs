//! A scheduler extender under test: the real component as a process of its own, asked by a real kube-scheduler.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::component::Component;
use crate::leases::PortLease;
use crate::pki::Pki;
use crate::run::Folder;
use crate::{Cluster, support};

/// Longest time until an extender is ready.
const DEADLINE: Duration = Duration::from_secs(60);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// The scheduler's configuration, as the chart installs it.
const CONFIGURATION: &str = include_str!("../../charts/tensile/files/scheduler.json");

/// The name that the scheduler wants in the extender's certificate.
const HOST: &str = "localhost";

/// A place for an extender, known before its cluster is: the scheduler's configuration names it.
pub struct ExtenderSpec {
    listen: PortLease,
    admin: PortLease,
    pki: Pki,
    // Last: dropping it removes the keys.
    folder: Folder,
}

/// A running extender.
pub struct Extender {
    /// The process.
    pub component: Component,
    admin: SocketAddr,
}

// === impl ExtenderSpec ===

impl ExtenderSpec {
    /// Takes the ports, and makes a certificate with a CA of its own.
    ///
    /// # Errors
    /// When there are none, or files cannot be written.
    pub fn new() -> Result<Self> {
        let folder = Folder::create("extender-keys")?;
        let spec = Self {
            listen: PortLease::take()?,
            admin: PortLease::take()?,
            pki: Pki::bare(folder.path())?,
            folder,
        };
        spec.renew()?;
        Ok(spec)
    }

    /// Puts another certificate of the same CA in place of the extender's; gives its file and that of its key.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn renew(&self) -> Result<(PathBuf, PathBuf)> {
        let identity = self.pki.serving(&[HOST.to_owned()])?;
        self.pki.write("extender", &identity)
    }

    /// The chart's configuration of kube-scheduler, for an extender here that is asked by TLS, and without an election.
    ///
    /// # Errors
    /// When the chart's file is no JSON.
    pub fn scheduler_config(&self) -> Result<Value> {
        let mut config: Value = serde_json::from_str(CONFIGURATION)?;
        config["leaderElection"] = json!({"leaderElect": false});
        let extender = &mut config["extenders"][0];
        extender["urlPrefix"] = json!(format!("https://{}/scheduler", self.address(&self.listen)));
        extender["enableHTTPS"] = json!(true);
        extender["tlsConfig"] = json!({"caFile": self.pki.path("ca.crt"), "serverName": HOST});
        Ok(config)
    }

    /// The certificate that is served now, if who trusts the CA takes it for the extender's; DER.
    ///
    /// # Errors
    /// When no connection comes about.
    pub async fn served_certificate(&self) -> Result<Vec<u8>> {
        support::served_certificate(self.address(&self.listen), self.pki.ca(), HOST).await
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

    /// A folder that is removed with this.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts an extender for `upper` with further flags, which say where the lower clusters are told, and waits until
    /// it is ready.
    ///
    /// # Errors
    /// When it is not ready in time.
    pub async fn start(&self, upper: &Cluster, args: &[&str]) -> Result<Extender> {
        let admin = self.address(&self.admin);
        let own = [
            format!("--kubeconfig={}", upper.kubeconfig().display()),
            format!("--listen={}", self.address(&self.listen)),
            format!("--admin-listen={admin}"),
            format!("--tls-cert-file={}", self.pki.path("extender.crt").display()),
            format!(
                "--tls-private-key-file={}",
                self.pki.path("extender.key").display()
            ),
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

    /// Posts a body to a page of the admin server, with further header lines that each end in CRLF: status and body.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn post(&self, path: &str, headers: &str, body: &str) -> Result<(u16, String)> {
        let headers = format!("Content-Type: application/json\r\n{headers}");
        support::http_send(self.admin, "POST", path, &headers, body).await
    }
}
