//! Where the lower clusters are told: in a folder of kubeconfigs, or in Secrets.

use std::path::PathBuf;
use std::pin::Pin;

use kube::Client;
use tensile_runtime::admin::Readiness;
use tensile_runtime::clusters::{ClusterArgs, Clusters};
use tensile_runtime::shutdown::Shutdown;
use tensile_runtime::watch::Metrics;

use crate::directory::{Directory, DirectoryError};
use crate::lower::Companion;
use crate::secrets::Secrets;
use crate::shared::Shared;

/// Which of the two it is; exactly one must be given.
#[derive(Clone, Debug, clap::Args)]
pub struct SourceArgs {
    /// Folder of kubeconfigs of the lower clusters, one file `<id>.kubeconfig` each; followed as it changes.
    #[arg(
        long,
        env = "CLUSTERS_DIR",
        required_unless_present = "clusters_from_secrets",
        conflicts_with = "clusters_from_secrets"
    )]
    pub clusters_dir: Option<PathBuf>,
    /// The other source of lower clusters.
    #[command(flatten)]
    pub secrets: ClusterArgs,
}

/// What the feeds of lower clusters need, wherever those are told.
pub struct Sources<'a> {
    /// The upper cluster, where the Secrets are.
    pub upper: &'a Client,
    /// The system namespace.
    pub namespace: &'a str,
    /// What the clusters feed.
    pub shared: &'a Shared,
    /// What else is done with each of them.
    pub companion: Companion,
    /// Not ready before the Secrets have been listed.
    pub readiness: &'a Readiness,
    /// Where the watches count.
    pub metrics: &'a Metrics,
}

// === impl Sources ===

impl Sources<'_> {
    /// Follows the lower clusters until shutdown, or until the future is dropped.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn follow(
        self,
        args: &SourceArgs,
        shutdown: &Shutdown,
    ) -> Result<Pin<Box<dyn Future<Output = ()> + Send>>, DirectoryError> {
        let Some(folder) = &args.clusters_dir else {
            let secrets = Secrets::new(self.shared.clone(), self.metrics.clone()).with(self.companion);
            return Ok(Box::pin(secrets.follow(Clusters {
                client: self.upper.clone(),
                namespace: self.namespace.to_owned(),
                ready: self.readiness.condition("cluster-secrets"),
                metrics: self.metrics.clone(),
                // The virtual nodes tell users what is wrong with a Secret.
                reporter: None,
            })));
        };
        let directory = Directory::new(folder.clone(), self.shared.clone(), self.metrics.clone());
        let mut directory = directory.with(self.companion);
        directory.refresh()?;
        let shutdown = shutdown.clone();
        Ok(Box::pin(async move { directory.follow(&shutdown).await }))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Args {
        #[command(flatten)]
        _source: SourceArgs,
    }

    #[test]
    fn clusters_come_from_one_source() {
        for (flags, good) in [
            (&["x", "--clusters-dir=d"][..], true),
            (&["x", "--clusters-from-secrets"], true),
            (&["x"], false),
            (&["x", "--clusters-dir=d", "--clusters-from-secrets"], false),
        ] {
            assert_eq!(Args::try_parse_from(flags).is_ok(), good, "{flags:?}");
        }
    }
}
