//! Files that change under us: certificates, keys, CA bundles.
//!
//! The contents are compared, not the modification times, and no inotify is used: a mounted Secret changes by
//! swapping the `..data` symlink, which a watch on the file itself never sees.

use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::TlsError;

/// How often followed files are read. kube-rs re-reads mounted tokens and CAs within a minute; ten seconds make a
/// rotation visible well before the old certificate is withdrawn, for the price of a few small reads.
pub const POLL_INTERVAL: Duration = Duration::from_secs(10);

/// The contents of `paths`, in order.
///
/// # Errors
/// Names the first file that cannot be read.
pub async fn read_files(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>, TlsError> {
    let mut contents = Vec::with_capacity(paths.len());
    for path in paths {
        let bytes = tokio::fs::read(path).await.map_err(|source| TlsError::Read {
            path: path.display().to_string(),
            source,
        })?;
        contents.push(bytes);
    }
    Ok(contents)
}

/// Calls `apply` with the contents of `paths` whenever they differ from the last ones seen (at first: from
/// `seen`), until `stop`. Contents that `apply` refuses are logged once and not tried again until they change:
/// a key and its certificate are often replaced one after the other.
pub async fn follow_files<F>(
    paths: Vec<PathBuf>,
    mut seen: Vec<Vec<u8>>,
    every: Duration,
    stop: CancellationToken,
    mut apply: F,
) where
    F: FnMut(&[Vec<u8>]) -> Result<(), TlsError> + Send,
{
    while stop
        .run_until_cancelled(tokio::time::sleep(every))
        .await
        .is_some()
    {
        let now = match read_files(&paths).await {
            Ok(now) => now,
            Err(error) => {
                tracing::warn!(%error, "keeping what was read before");
                continue;
            }
        };
        if now == seen {
            continue;
        }
        match apply(&now) {
            Ok(()) => tracing::info!(?paths, "reloaded"),
            Err(error) => tracing::warn!(?paths, %error, "keeping what was read before"),
        }
        seen = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn each_change_is_applied_once_and_a_refused_one_does_not_end_the_loop() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "1").unwrap();
        let (tx, mut rx) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let paths = vec![path.clone()];
        let seen = read_files(&paths).await.unwrap();
        let every = Duration::from_millis(5);
        let task = tokio::spawn(follow_files(paths, seen, every, stop.clone(), move |files| {
            tx.send(String::from_utf8_lossy(&files[0]).into_owned()).unwrap();
            if files[0] == b"bad" {
                Err(TlsError::NoCertificate { what: "certificate" })
            } else {
                Ok(())
            }
        }));
        for text in ["bad", "2"] {
            // A new file renamed into place, as a mounted Secret changes.
            std::fs::write(dir.path().join("new"), text).unwrap();
            std::fs::rename(dir.path().join("new"), &path).unwrap();
            assert_eq!(rx.recv().await.unwrap(), text);
            let again = tokio::time::timeout(every * 10, rx.recv()).await;
            assert!(again.is_err(), "{text} was applied again");
        }
        std::fs::remove_file(&path).unwrap();
        stop.cancel();
        task.await.unwrap();
        assert!(
            rx.try_recv().is_err(),
            "unchanged or missing files are not applied"
        );
    }

    #[tokio::test]
    async fn a_missing_file_is_named() {
        let error = read_files(&[PathBuf::from("/nonexistent/tls.crt")])
            .await
            .unwrap_err();
        assert!(error.to_string().contains("/nonexistent/tls.crt"), "{error}");
    }
}
