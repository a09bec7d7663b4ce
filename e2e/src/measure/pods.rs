//! One watch over the pods of a namespace, and when it saw what.

use std::{
    collections::{HashMap, HashSet},
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use futures::StreamExt;
use kube::{
    Api, Client,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event, watcher},
    },
};
use parking_lot::Mutex;
use serde::Deserialize;
use tensile_runtime::object::{Pods, Slim};
use tokio::sync::watch;

use crate::run;

/// When the watch delivered each step of a pod, on this process' monotonic clock.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// It exists.
    pub created: Option<Instant>,
    /// It has a node.
    pub bound: Option<Instant>,
    /// Its phase is Running.
    pub running: Option<Instant>,
    /// It is gone.
    pub gone: Option<Instant>,
}

/// How many pods have come how far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Pods that exist.
    pub present: usize,
    /// Pods that got a node, gone ones included.
    pub bound: usize,
    /// Pods that have been Running, gone ones included.
    pub running: usize,
    /// Different status messages seen.
    pub messages: usize,
}

/// Follows the pods of one namespace until dropped.
pub struct PodWatch {
    state: Arc<Mutex<State>>,
    progress: watch::Receiver<Progress>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Default)]
struct State {
    pods: HashMap<String, Seen>,
    messages: HashMap<String, Instant>,
    progress: Progress,
    listed: HashSet<String>,
}

type Pod = Slim<Pods, Spec, Status>;

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
struct Status {
    phase: Option<String>,
    message: Option<String>,
}

// === impl PodWatch ===

impl PodWatch {
    /// Starts the watch and returns once it has listed.
    ///
    /// # Errors
    /// The API server does not answer in time.
    pub async fn start(client: Client, namespace: &str) -> Result<Self> {
        let state = Arc::new(Mutex::new(State::default()));
        let (send, progress) = watch::channel(Progress::default());
        let (listed, mut is_listed) = watch::channel(false);
        let api: Api<Pod> = Api::namespaced(client, namespace);
        let shared = state.clone();
        let task = tokio::spawn(async move {
            let mut events = pin!(watcher(api, watcher::Config::default()).default_backoff());
            while let Some(event) = events.next().await {
                // The watcher goes on after an error, from where it was.
                let Ok(event) = event else { continue };
                let done = matches!(event, Event::InitDone);
                let now = {
                    let mut state = shared.lock();
                    state.take(event, Instant::now());
                    state.progress
                };
                send.send_if_modified(|progress| std::mem::replace(progress, now) != now);
                if done {
                    listed.send_replace(true);
                }
            }
        });
        let first = tokio::time::timeout(Duration::from_secs(60), is_listed.wait_for(|&listed| listed));
        first
            .await
            .context("the pods cannot be listed")?
            .context("the watch ended")?;
        Ok(Self {
            state,
            progress,
            task,
        })
    }

    /// Waits until `reached` holds; `tell` is called about once a second meanwhile.
    ///
    /// # Errors
    /// It does not within `deadline`.
    pub async fn until(
        &self,
        what: &str,
        deadline: Duration,
        reached: impl Fn(&Progress) -> bool,
        mut tell: impl FnMut(&Progress),
    ) -> Result<()> {
        let mut progress = self.progress.clone();
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        let waiting = async {
            loop {
                tokio::select! {
                    done = progress.wait_for(&reached) => return done.map(drop).context("the watch ended"),
                    _ = tick.tick() => tell(&self.progress.borrow()),
                }
            }
        };
        let result = tokio::time::timeout(deadline, waiting).await;
        result.unwrap_or_else(|_| {
            run::note_failure();
            let progress = *self.progress.borrow();
            anyhow::bail!("{what}: not within {deadline:?}, only {progress:?}")
        })
    }

    /// What was seen of each pod, by name.
    #[must_use]
    pub fn seen(&self) -> HashMap<String, Seen> {
        self.state.lock().pods.clone()
    }

    /// When each status message was seen first.
    #[must_use]
    pub fn messages(&self) -> HashMap<String, Instant> {
        self.state.lock().messages.clone()
    }
}

impl Drop for PodWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl State ===

impl State {
    fn take(&mut self, event: Event<Pod>, now: Instant) {
        match event {
            Event::Init => self.listed.clear(),
            Event::InitApply(pod) => {
                self.listed.insert(name(&pod).to_owned());
                self.apply(&pod, now);
            }
            Event::InitDone => {
                let listed = std::mem::take(&mut self.listed);
                let missed: Vec<String> = self
                    .pods
                    .keys()
                    .filter(|name| !listed.contains(*name))
                    .cloned()
                    .collect();
                missed.iter().for_each(|name| self.gone(name, now));
            }
            Event::Apply(pod) => self.apply(&pod, now),
            Event::Delete(pod) => self.gone(name(&pod), now),
        }
    }

    fn apply(&mut self, pod: &Pod, now: Instant) {
        let seen = self.pods.entry(name(pod).to_owned()).or_default();
        if seen.created.is_none() {
            seen.created = Some(now);
            self.progress.present += 1;
        }
        let has_node = pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some());
        if has_node && seen.bound.is_none() {
            seen.bound = Some(now);
            self.progress.bound += 1;
        }
        let Some(status) = &pod.status else { return };
        if status.phase.as_deref() == Some("Running") && seen.running.is_none() {
            seen.running = Some(now);
            self.progress.running += 1;
        }
        if let Some(message) = &status.message
            && !self.messages.contains_key(message)
        {
            self.messages.insert(message.clone(), now);
            self.progress.messages += 1;
        }
    }

    fn gone(&mut self, name: &str, now: Instant) {
        if let Some(seen) = self.pods.get_mut(name).filter(|seen| seen.gone.is_none()) {
            seen.gone = Some(now);
            self.progress.present -= 1;
        }
    }
}

fn name(pod: &Pod) -> &str {
    pod.metadata.name.as_deref().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_pod(name: &str, node: Option<&str>, phase: &str, message: Option<&str>) -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"nodeName": node},
            "status": {"phase": phase, "message": message},
        }))
        .unwrap()
    }

    #[test]
    fn each_step_is_dated_when_it_is_seen_first() {
        let mut state = State::default();
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        state.take(Event::Apply(mk_pod("a", None, "Pending", None)), at(0));
        state.take(Event::Apply(mk_pod("a", Some("n"), "Pending", None)), at(1));
        state.take(Event::Apply(mk_pod("a", Some("n"), "Running", None)), at(2));
        state.take(Event::Apply(mk_pod("a", Some("n"), "Running", Some("m"))), at(3));
        let expected = Progress {
            present: 1,
            bound: 1,
            running: 1,
            messages: 1,
        };
        assert_eq!(state.progress, expected);
        let seen = &state.pods["a"];
        assert_eq!(
            (seen.created, seen.bound, seen.running),
            (Some(at(0)), Some(at(1)), Some(at(2)))
        );
        assert_eq!(state.messages["m"], at(3));
        state.take(Event::Delete(mk_pod("a", Some("n"), "Running", None)), at(4));
        assert_eq!((state.progress.present, state.pods["a"].gone), (0, Some(at(4))));
    }

    #[test]
    fn a_pod_that_a_relist_misses_is_gone() {
        let mut state = State::default();
        let now = Instant::now();
        state.take(Event::Apply(mk_pod("a", None, "Pending", None)), now);
        state.take(Event::Init, now);
        state.take(Event::InitApply(mk_pod("b", None, "Pending", None)), now);
        state.take(Event::InitDone, now);
        assert_eq!(state.progress.present, 1);
        assert!(state.pods["a"].gone.is_some() && state.pods["b"].gone.is_none());
    }
}
