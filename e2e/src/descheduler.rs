//! A descheduler under test: the real component as a process of its own.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::component::Component;
use crate::leases::PortLease;
use crate::{Cluster, support};

/// Longest time until a descheduler has made its first round.
const DEADLINE: Duration = Duration::from_secs(60);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A running descheduler.
pub struct Descheduler {
    /// The process.
    pub component: Component,
    admin: PortLease,
}

// === impl Descheduler ===

impl Descheduler {
    /// Starts one for `upper` that knows the lower clusters of `clusters`, a folder of kubeconfigs by id.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(upper: &Cluster, clusters: &std::path::Path, args: &[&str]) -> Result<Self> {
        let admin = PortLease::take()?;
        let own = [
            format!("--kubeconfig={}", upper.kubeconfig().display()),
            format!("--clusters-dir={}", clusters.display()),
            format!("--admin-listen={}", SocketAddr::new(LOOPBACK, admin.port())),
        ];
        let args: Vec<String> = own
            .into_iter()
            .chain(args.iter().map(|arg| (*arg).to_owned()))
            .collect();
        let component = Component::start("descheduler", &args, &[])?;
        Ok(Self { component, admin })
    }

    /// Waits until it has made a round later than `time` (seconds since the Unix epoch), with a plan; gives its report.
    ///
    /// # Errors
    /// When it ends, or makes none in time.
    pub async fn report_after(&self, time: u64) -> Result<Value> {
        support::await_condition("a round of the descheduler", DEADLINE, || async {
            self.component.check_running()?;
            let report = self.report().await?;
            let made = report["time"].as_u64().is_some_and(|made| made > time);
            ensure!(report["doubt"].is_null(), "{report}");
            Ok(made.then_some(report))
        })
        .await
    }

    /// The report of its last round.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn report(&self) -> Result<Value> {
        let (status, text) = self.page("/report").await?;
        ensure!(status == 200, "{status}: {text}");
        serde_json::from_str(&text).context("the report is no JSON")
    }

    /// How many pods it has evicted, by its metrics.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn evictions(&self) -> Result<usize> {
        let (status, text) = self.page("/metrics").await?;
        ensure!(status == 200, "{status}: {text}");
        let evicted = text.lines().filter(|line| {
            line.starts_with("tensile_descheduler_evictions_total{") && line.contains(r#"result="Evicted""#)
        });
        let counts = evicted.map(|line| line.rsplit(' ').next().unwrap_or_default().parse::<usize>());
        Ok(counts.sum::<Result<usize, _>>()?)
    }

    /// A page of the admin server: status and body.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn page(&self, path: &str) -> Result<(u16, String)> {
        support::http_get(SocketAddr::new(LOOPBACK, self.admin.port()), path).await
    }
}

/// Writes the kubeconfigs of lower clusters, by id, into a folder.
///
/// # Errors
/// When a file cannot be written.
pub fn write_clusters(folder: &std::path::Path, clusters: &[(&str, &Cluster)]) -> Result<PathBuf> {
    let folder = folder.join("clusters");
    std::fs::create_dir_all(&folder)?;
    for (id, cluster) in clusters {
        std::fs::copy(cluster.kubeconfig(), folder.join(format!("{id}.kubeconfig")))?;
    }
    Ok(folder)
}
