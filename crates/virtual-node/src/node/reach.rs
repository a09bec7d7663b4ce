//! Whether the lower cluster answers, and whether it is still the one that it was.

use std::time::Duration;

use kube::Client;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::Reachability;
use crate::api;

/// How often the lower cluster is asked; virtual-kubelet pings as often.
const INTERVAL: Duration = Duration::from_secs(10);
/// How often while it does not answer, so that what waits for it goes on soon afterwards.
const INTERVAL_WHEN_SILENT: Duration = Duration::from_secs(2);
/// Longest time for an answer.
const TIMEOUT: Duration = Duration::from_secs(5);
/// What it is asked for: a list, since that tells the resourceVersion that its store has reached; and of pods, since only
/// versions of one kind can be compared.
const QUESTION: &str = "/api/v1/pods?limit=1";

/// Asks the lower cluster `id`, says after `grace` that it does not answer, and calls `answers_again` after every silence,
/// however short. Returns when the cluster was set back to an earlier state, as by an etcd that was restored: watches
/// go on then as if nothing had happened, but what they have shown is not true any more. `seen` is the highest
/// resourceVersion of a lower pod that was seen.
pub async fn watch_over(
    id: &str,
    lower: Client,
    grace: Duration,
    state: watch::Sender<Reachability>,
    seen: impl Fn() -> u64,
    answers_again: impl Fn(),
) {
    let (mut answered, mut silent, mut newest) = (Instant::now(), false, 0);
    loop {
        // Before it is asked: what is seen meanwhile may well be newer than the answer.
        let (asked, known) = (Instant::now(), seen().max(newest));
        match ask(&lower).await {
            Ok(version) if is_set_back(known, version) => {
                tracing::warn!(
                    cluster = id,
                    known,
                    version,
                    "the lower cluster was set back to an earlier state; everything is listed anew"
                );
                return;
            }
            Ok(version) => {
                answered = Instant::now();
                newest = newest.max(version);
                if std::mem::take(&mut silent) {
                    answers_again();
                }
                if state.send_if_modified(|state| {
                    std::mem::replace(state, Reachability::Reachable) != Reachability::Reachable
                }) {
                    tracing::info!(cluster = id, "the lower cluster answers again");
                }
            }
            Err(reason) => {
                silent = true;
                if answered.elapsed() >= grace && doubt(&state, &reason) {
                    tracing::warn!(
                        cluster = id,
                        reason,
                        "the lower cluster does not answer: node not ready"
                    );
                }
            }
        }
        let interval = if silent { INTERVAL_WHEN_SILENT } else { INTERVAL };
        tokio::time::sleep_until(asked + interval).await;
    }
}

/// Says that the cluster is unreachable; returns whether that is news.
fn doubt(state: &watch::Sender<Reachability>, reason: &str) -> bool {
    state.send_if_modified(|state| {
        let news = *state == Reachability::Reachable;
        if news {
            let reason = reason.to_owned();
            *state = Reachability::Unreachable { reason };
        }
        news
    })
}

/// Whether a store that had reached `known` cannot be at `version` unless it was set back. 0 is not known.
fn is_set_back(known: u64, version: u64) -> bool {
    version != 0 && version < known
}

/// Returns the resourceVersion that the cluster has reached, 0 if it is no number.
async fn ask(lower: &Client) -> Result<u64, String> {
    match tokio::time::timeout(TIMEOUT, api::read::<Value>(lower, QUESTION)).await {
        Ok(Ok(list)) => {
            let version = list["metadata"]["resourceVersion"].as_str();
            Ok(version.and_then(|text| text.parse().ok()).unwrap_or_default())
        }
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {} s", TIMEOUT.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::{Request, Response};
    use kube::client::Body;
    use parking_lot::Mutex;

    use super::*;

    /// A cluster whose answers follow a script; the last is repeated. `None` is a failure.
    fn mk_cluster(versions: &'static [Option<&'static str>]) -> Client {
        let asked = Arc::new(Mutex::new(0));
        let service = tower::service_fn(move |_: Request<Body>| {
            let mut asked = asked.lock();
            let version = versions[(*asked).min(versions.len() - 1)];
            *asked += 1;
            let (status, text) = match version {
                Some(version) => (
                    200,
                    format!(r#"{{"metadata":{{"resourceVersion":"{version}"}}}}"#),
                ),
                None => (503, r#"{"code":503}"#.to_owned()),
            };
            let response = Response::builder()
                .status(status)
                .body(Body::from(text.into_bytes()));
            async move { response }
        });
        Client::new(service, "default")
    }

    /// Watches over such a cluster; returns how often it answered again, whether it is reachable at the end, and
    /// whether it was found to be set back within `time`.
    async fn watched(versions: &'static [Option<&'static str>], time: Duration) -> (usize, bool, bool) {
        watched_from(0, versions, time).await
    }

    /// As [`watched`], when `seen` is the version of a pod that was seen.
    async fn watched_from(
        seen: u64,
        versions: &'static [Option<&'static str>],
        time: Duration,
    ) -> (usize, bool, bool) {
        let (send, state) = watch::channel(Reachability::Reachable);
        let again = AtomicUsize::new(0);
        let grace = Duration::from_secs(40);
        let watching = watch_over(
            "test",
            mk_cluster(versions),
            grace,
            send,
            || seen,
            || {
                again.fetch_add(1, Ordering::Relaxed);
            },
        );
        let ended = tokio::time::timeout(time, watching).await.is_ok();
        let reachable = *state.borrow() == Reachability::Reachable;
        (again.into_inner(), reachable, ended)
    }

    #[tokio::test(start_paused = true)]
    async fn a_cluster_is_unreachable_after_the_grace_and_reachable_with_its_first_answer() {
        let seconds = Duration::from_secs;
        assert_eq!(watched(&[Some("1"), None], seconds(30)).await, (0, true, false));
        assert_eq!(watched(&[Some("1"), None], seconds(60)).await, (0, false, false));
        let healed = [Some("1"), None, None, Some("2"), None, Some("3")];
        let healed: &'static [_] = Box::leak(Box::new(healed));
        assert_eq!(watched(healed, seconds(60)).await, (2, true, false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_goes_back_is_noticed_and_one_that_stands_still_is_not_suspected() {
        let time = Duration::from_secs(100);
        let restored: &[_] = &[Some("7"), Some("9"), None, Some("8")];
        assert!(watched(restored, time).await.2);
        assert!(
            watched_from(8, &[Some("7")], time).await.2,
            "a pod had a newer version"
        );
        let unknown: &[_] = &[Some("7"), Some("7"), Some("none"), Some("7")];
        assert!(!watched(unknown, time).await.2);
    }
}
