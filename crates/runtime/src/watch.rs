//! A watch that feeds an index and heals itself.
//!
//! kube's `watcher` does the protocol: list, watch, bookmarks, relist after a 410 in the stream. What it
//! leaves open is added here: a relist is turned into one [`Change::Reset`] that names what is still there,
//! and a watch that cannot be *started* again and again (a resourceVersion that the server no longer knows,
//! as after an etcd restore) starts over from a list.

use std::collections::HashSet;
use std::fmt::Debug;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use kube::runtime::WatchStreamExt;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, DefaultBackoff, Event, watcher};
use kube::{Api, Resource};
use prometheus::{IntCounterVec, Opts, Registry};
use serde::de::DeserializeOwned;

use crate::admin::Condition;
use crate::health::Health;
use crate::key::Key;

/// Failed starts in a row after which the resourceVersion is given up. One may be a server that restarts;
/// with kube's backoff (0.8 s, doubling) three are about five seconds.
const START_FAILURES: u32 = 3;

/// Longest delay before a failed watch is tried again. kube's own go up to 30 s, and twice that with jitter: then a
/// cluster that answers again would be out of date for longer than the 30 s within which all should agree.
const MAX_DELAY: Duration = Duration::from_secs(5);

/// What an index is told; always in order, never concurrently.
#[derive(Clone, Debug)]
pub enum Change<K> {
    /// The object is new or changed.
    Apply(K),
    /// The object is gone; this is its last state.
    Delete(K),
    /// After a (re)list: only these objects exist; all of them were applied before.
    Reset(HashSet<Key>),
}

/// Counters of all watches of a process, and who says that they fail.
#[derive(Clone, Debug)]
pub struct Metrics {
    lists: IntCounterVec,
    errors: IntCounterVec,
    health: Health,
}

/// One watch: what to look at, and under which name it is counted and waited for.
#[derive(Debug)]
pub struct Watch<K> {
    /// The objects.
    pub api: Api<K>,
    /// Selectors and list strategy.
    pub config: watcher::Config,
    /// One of a small, fixed set of names, such as `upper-pods`.
    pub name: &'static str,
    /// Met while the watch has listed at least once.
    pub ready: Condition,
    /// Where it counts.
    pub metrics: Metrics,
}

/// Turns kube's events into changes.
#[derive(Debug, Default)]
struct Relist {
    listed: Option<HashSet<Key>>,
}

// === impl Metrics ===

impl Metrics {
    /// Registers the counters.
    ///
    /// # Errors
    /// When they are registered already.
    pub fn new(registry: &Registry) -> prometheus::Result<Self> {
        let lists = Opts::new("tensile_watch_lists_total", "Lists that a watch has completed.");
        let errors = Opts::new(
            "tensile_watch_errors_total",
            "Failures that a watch has recovered from.",
        );
        let metrics = Self {
            lists: IntCounterVec::new(lists, &["watch"])?,
            errors: IntCounterVec::new(errors, &["watch"])?,
            health: Health::new("watches"),
        };
        registry.register(Box::new(metrics.lists.clone()))?;
        registry.register(Box::new(metrics.errors.clone()))?;
        Ok(metrics)
    }

    /// The same counters for watches that fail and recover together, such as those of one cluster.
    #[must_use]
    pub fn of(&self, name: &str) -> Self {
        Self {
            health: Health::new(name),
            ..self.clone()
        }
    }
}

// === impl Watch ===

impl<K> Watch<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    /// Reports changes until the future is dropped.
    pub async fn run(self, mut on: impl FnMut(Change<K>)) {
        // There from the start, so that a rate sees the first failure too.
        self.metrics.errors.with_label_values(&[self.name]);
        loop {
            self.until_stuck(&mut on).await;
            tracing::debug!(
                watch = self.name,
                "the server does not take up the watch again; listing anew"
            );
        }
    }

    async fn until_stuck(&self, on: &mut impl FnMut(Change<K>)) {
        let mut events = pin!(watcher(self.api.clone(), self.config.clone()).backoff(Capped::default()));
        let mut relist = Relist::default();
        let mut starts = 0;
        while let Some(event) = events.next().await {
            match event {
                Ok(event) => {
                    starts = 0;
                    self.metrics.health.good(self.name);
                    if matches!(event, Event::InitDone) {
                        self.metrics.lists.with_label_values(&[self.name]).inc();
                        self.ready.set(true);
                    }
                    relist.change(event).into_iter().for_each(&mut *on);
                }
                Err(error) => {
                    self.failed(&error);
                    starts += u32::from(matches!(error, watcher::Error::WatchStartFailed(_)));
                    if starts >= START_FAILURES {
                        return;
                    }
                }
            }
        }
    }

    fn failed(&self, error: &watcher::Error) {
        self.metrics.errors.with_label_values(&[self.name]).inc();
        // A 410 is part of the protocol.
        if !matches!(error, watcher::Error::WatchError(status) if status.code == 410) {
            self.metrics.health.bad(self.name, error);
        }
    }
}

/// kube's delays, none longer than [`MAX_DELAY`].
#[derive(Default)]
struct Capped(DefaultBackoff);

// === impl Capped ===

impl Iterator for Capped {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        self.0.next().map(|delay| delay.min(MAX_DELAY))
    }
}

impl Backoff for Capped {
    fn reset(&mut self) {
        self.0.reset();
    }
}

// === impl Relist ===

impl Relist {
    fn change<K: Resource>(&mut self, event: Event<K>) -> Option<Change<K>> {
        match event {
            Event::Init => {
                self.listed = Some(HashSet::new());
                None
            }
            Event::InitApply(object) => {
                if let Some(listed) = &mut self.listed {
                    listed.insert(Key::of(&object));
                }
                Some(Change::Apply(object))
            }
            Event::InitDone => self.listed.take().map(Change::Reset),
            Event::Apply(object) => Some(Change::Apply(object)),
            Event::Delete(object) => Some(Change::Delete(object)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::{Request, Response};
    use kube::Client;
    use kube::client::Body;
    use parking_lot::Mutex;

    use super::*;
    use crate::admin::Readiness;
    use crate::object::{Meta, Pods};

    const LIST: &str = r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"5"},"items":[
        {"metadata":{"name":"a","namespace":"n","uid":"1","resourceVersion":"4"}}]}"#;
    const RELIST: &str = r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"9"},"items":[
        {"metadata":{"name":"b","namespace":"n","uid":"2","resourceVersion":"8"}}]}"#;
    const GONE: &str = r#"{"type":"ERROR","object":{"kind":"Status","apiVersion":"v1","status":"Failure","message":"too old","reason":"Expired","code":410}}"#;
    const TOO_LARGE: &str = r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","message":"Too large resource version","reason":"Timeout","code":504}"#;

    /// A server that answers lists and watches from a script; the last answer of each is repeated.
    fn mk_client(lists: &'static [&'static str], watches: &'static [(u16, &'static str)]) -> Client {
        let seen = Arc::new(Mutex::new((0, 0)));
        let service = tower::service_fn(move |request: Request<Body>| {
            let watch = request
                .uri()
                .query()
                .is_some_and(|query| query.contains("watch=true"));
            let mut seen = seen.lock();
            let (status, text) = if watch {
                seen.1 += 1;
                watches[(seen.1 - 1).min(watches.len() - 1)]
            } else {
                seen.0 += 1;
                (200, lists[(seen.0 - 1).min(lists.len() - 1)])
            };
            let response = Response::builder()
                .status(status)
                .body(Body::from(text.as_bytes().to_vec()));
            async move { response }
        });
        Client::new(service, "default")
    }

    async fn names(client: Client, wanted: usize) -> Vec<String> {
        let registry = Registry::new();
        let readiness = Readiness::default();
        let watch = Watch::<Meta<Pods>> {
            api: Api::all(client),
            config: watcher::Config::default(),
            name: "test",
            ready: readiness.condition("test"),
            metrics: Metrics::new(&registry).unwrap(),
        };
        let (send, mut receive) = tokio::sync::mpsc::unbounded_channel();
        let run = watch.run(move |change| {
            let text = match change {
                Change::Apply(object) => format!("apply {}", Key::of(&object)),
                Change::Delete(object) => format!("delete {}", Key::of(&object)),
                Change::Reset(live) => format!(
                    "reset {}",
                    live.iter().map(Key::to_string).collect::<Vec<_>>().join(",")
                ),
            };
            send.send(text).unwrap();
        });
        let collect = async {
            let mut names = Vec::new();
            while names.len() < wanted {
                names.extend(receive.recv().await);
            }
            names
        };
        tokio::select! {
            () = run => unreachable!("a watch does not end"),
            names = collect => names,
            () = tokio::time::sleep(Duration::from_secs(600)) => panic!("too few changes"),
        }
    }

    #[test]
    fn no_delay_is_long() {
        let delays: Vec<Duration> = Capped::default().take(20).collect();
        assert_eq!(delays[19], MAX_DELAY);
        assert!(delays[0] < MAX_DELAY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_410_in_the_stream_becomes_a_relist_with_a_reset() {
        let client = mk_client(&[LIST, RELIST], &[(200, GONE), (200, "")]);
        assert_eq!(
            names(client, 4).await,
            ["apply n/a", "reset n/a", "apply n/b", "reset n/b"]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_error_that_repeats_becomes_a_relist() {
        let client = mk_client(&[LIST, RELIST], &[(504, TOO_LARGE)]);
        assert_eq!(
            names(client, 4).await,
            ["apply n/a", "reset n/a", "apply n/b", "reset n/b"]
        );
    }
}
