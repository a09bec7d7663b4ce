//! Lower clusters from a folder of kubeconfigs: they come and go while we run.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tensile_runtime::cluster::Source;
use tensile_runtime::shutdown::Shutdown;
use tensile_runtime::watch::Metrics;
use tokio::task::JoinHandle;

use crate::lower::{Companion, Credentials, Feed};
use crate::shared::Shared;

/// How often the folder is looked at. A mounted Secret itself takes up to a minute to change.
const INTERVAL: Duration = Duration::from_secs(10);
/// What a kubeconfig's file name ends with; before it is the cluster's id.
const SUFFIX: &str = "kubeconfig";

/// A folder with one file `<id>.kubeconfig` for each lower cluster.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    shared: Shared,
    metrics: Metrics,
    companion: Companion,
    feeds: BTreeMap<String, JoinHandle<()>>,
}

/// The folder cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("--clusters-dir {path}: {source}; give a folder that can be read", path = path.display())]
pub struct DirectoryError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

// === impl Directory ===

impl Directory {
    /// A folder whose clusters feed `shared`.
    #[must_use]
    pub fn new(path: PathBuf, shared: Shared, metrics: Metrics) -> Self {
        Self {
            path,
            shared,
            metrics,
            companion: Companion::default(),
            feeds: BTreeMap::new(),
        }
    }

    /// Does this with every cluster besides feeding its model.
    #[must_use]
    pub fn with(mut self, companion: Companion) -> Self {
        self.companion = companion;
        self
    }

    /// Starts the feeds of new files and ends those of files that are gone.
    ///
    /// # Errors
    /// When the folder cannot be read; running feeds go on.
    pub fn refresh(&mut self) -> Result<(), DirectoryError> {
        let wrong = |source| DirectoryError {
            path: self.path.clone(),
            source,
        };
        let present = kubeconfigs(&self.path).map_err(wrong)?;
        self.feeds.retain(|id, feed| {
            let stays = present.contains_key(id);
            if !stays {
                feed.abort();
                self.shared.world().delete_cluster(id);
                tracing::info!(cluster = id, "lower cluster left");
            }
            stays
        });
        for (id, kubeconfig) in present {
            self.feeds.entry(id.clone()).or_insert_with(|| {
                tracing::info!(cluster = id, "lower cluster joins");
                let feed = Feed {
                    id,
                    credentials: Credentials::Source(Source::File(kubeconfig)),
                    shared: self.shared.clone(),
                    metrics: self.metrics.clone(),
                    companion: self.companion.clone(),
                };
                feed.spawn()
            });
        }
        self.shared.world().clusters_listed();
        Ok(())
    }

    /// Follows the folder until shutdown.
    pub async fn follow(mut self, shutdown: &Shutdown) {
        let mut tick = tokio::time::interval(INTERVAL);
        loop {
            tokio::select! { () = shutdown.wait() => break, _ = tick.tick() => {} }
            if let Err(error) = self.refresh() {
                tracing::warn!(%error, "clusters stay as they are");
            }
        }
        self.feeds.values().for_each(JoinHandle::abort);
    }
}

/// The kubeconfigs of a folder by cluster id. Hidden files are left out: a mounted Secret has some.
fn kubeconfigs(folder: &Path) -> io::Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let id = path
            .file_stem()
            .and_then(|stem| stem.to_str())
            .filter(|id| !id.starts_with('.'));
        if let Some(id) = id.filter(|_| path.extension().is_some_and(|suffix| suffix == SUFFIX)) {
            found.insert(id.to_owned(), path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kubeconfigs_are_clusters() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "a.kubeconfig",
            "b.c.kubeconfig",
            "notes.txt",
            ".hidden.kubeconfig",
            "kubeconfig",
        ] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        let ids: Vec<String> = kubeconfigs(folder.path()).unwrap().into_keys().collect();
        assert_eq!(ids, ["a", "b.c"]);
    }

    #[tokio::test]
    async fn clusters_come_and_go_with_their_files() {
        let folder = tempfile::tempdir().unwrap();
        let shared = Shared::new(crate::World::default());
        let metrics = Metrics::new(&prometheus::Registry::new()).unwrap();
        let mut directory = Directory::new(folder.path().to_owned(), shared, metrics);
        let file = folder.path().join("a.kubeconfig");
        std::fs::write(&file, "").unwrap();
        directory.refresh().unwrap();
        assert_eq!(directory.feeds.keys().collect::<Vec<_>>(), ["a"]);
        std::fs::remove_file(file).unwrap();
        directory.refresh().unwrap();
        assert!(directory.feeds.is_empty());
        drop(folder);
        let error = directory.refresh().unwrap_err().to_string();
        assert!(error.starts_with("--clusters-dir "), "{error}");
    }
}
