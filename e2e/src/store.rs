//! Sets a cluster back to an earlier state, as an operator does who restores an old copy of etcd's data.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::cluster::Cluster;

/// Components that go by what the store said before. Kubernetes' guide to restoring etcd has them restarted, too.
const BELIEVERS: [&str; 3] = ["kube-controller-manager", "kube-scheduler", "kwok"];

// === impl Cluster ===

impl Cluster {
    /// Copies the data of etcd as it is now, for [`Cluster::restore_store`].
    ///
    /// # Errors
    /// etcd does not run, or its data cannot be copied.
    pub async fn save_store(&self) -> Result<()> {
        let etcd = self.process("etcd")?;
        // Frozen, its files are those that a crash would leave, which it can start from.
        etcd.signal("STOP").await?;
        let copied = copy(&self.data(), &self.saved_data()).await;
        etcd.signal("CONT").await?;
        copied
    }

    /// Brings back the data of [`Cluster::save_store`]: everything is restarted, and knows nothing of what came later.
    ///
    /// # Errors
    /// Nothing was saved, or a component does not start.
    pub async fn restore_store(&self) -> Result<()> {
        for component in ["kube-apiserver", "etcd"] {
            self.kill_component(component).await?;
        }
        tokio::fs::remove_dir_all(self.data()).await?;
        copy(&self.saved_data(), &self.data()).await?;
        self.start_component("etcd").await?;
        let etcd = SocketAddr::new(self.endpoint.address, self.endpoint.etcd_client);
        let answers = || async move { Ok(TcpStream::connect(etcd).await.map(drop)?) };
        self.await_component("etcd", answers).await?;
        self.start_component("kube-apiserver").await?;
        for component in BELIEVERS {
            if self.process(component).is_ok() {
                self.stop_component(component).await?;
                self.start_component(component).await?;
            }
        }
        Ok(())
    }

    fn data(&self) -> PathBuf {
        self.folder().join("etcd")
    }

    fn saved_data(&self) -> PathBuf {
        self.folder().join("etcd-saved")
    }
}

async fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").arg(from).arg(to).status().await;
    let status = status.with_context(|| format!("cannot copy {}", from.display()))?;
    ensure!(status.success(), "cannot copy {}: {status}", from.display());
    Ok(())
}
