//! A keyed work queue: at most one job per key, first attempts before retries, backoff per key, never gives up.
//!
//! A key that is pushed while its job runs is run once more afterwards; pushes in between coalesce. A key
//! that failed waits out its backoff in the retry lane, which is served only when no fresh key waits, so that
//! a broken object never delays a healthy one. A fresh push of a waiting key runs it at once, because
//! something has changed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::future::Future;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

/// First delay after a failure. Long enough for a watch to bring what was missing, short enough for a person.
const BACKOFF_BASE: Duration = Duration::from_millis(250);
/// Longest delay: what kubelet uses at most between two attempts at a pod is 5 minutes; we retry sooner,
/// since an attempt is one request.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// A queue of keys; clones share it.
#[derive(Debug)]
pub struct Queue<K>(Arc<Shared<K>>);

/// What became of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing more to do until the key is pushed again.
    Done,
    /// Failed: run again after the key's backoff.
    Retry,
    /// Run again after this time, without counting as a failure.
    After(Duration),
}

/// Sizes of a queue, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// Keys that wait for their first attempt.
    pub fresh: usize,
    /// Keys that wait for another attempt, due or not.
    pub retry: usize,
    /// Keys whose job runs.
    pub running: usize,
}

/// Where a key is, for those who ask why nothing happens with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which lane it is in.
    pub lane: Lane,
    /// Failed attempts in a row.
    pub failures: u32,
    /// How long it still waits, if it waits for a time.
    pub due_in: Option<Duration>,
}

/// A part of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Waits for its first attempt.
    Fresh,
    /// Waits for another attempt, which is due or will be.
    Retry,
    /// Its job runs.
    Running,
}

#[derive(Debug)]
struct Shared<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

#[derive(Debug)]
struct State<K> {
    fresh: VecDeque<K>,
    due: VecDeque<K>,
    timers: BinaryHeap<Reverse<(Instant, u64)>>,
    waiting: HashMap<u64, K>,
    jobs: HashMap<K, Job>,
    next_timer: u64,
}

#[derive(Clone, Copy, Debug)]
struct Job {
    stage: Stage,
    failures: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Fresh,
    Due,
    Waiting(u64),
    Running { again: bool },
}

enum Next<K> {
    Run(K),
    WaitUntil(Instant),
    Wait,
}

// === impl Queue ===

impl<K> Clone for Queue<K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<K: Clone + Eq + Hash> Default for Queue<K> {
    fn default() -> Self {
        let state = State {
            fresh: VecDeque::new(),
            due: VecDeque::new(),
            timers: BinaryHeap::new(),
            waiting: HashMap::new(),
            jobs: HashMap::new(),
            next_timer: 0,
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            changed: Notify::new(),
        }))
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    /// Says that something about `key` changed.
    pub fn push(&self, key: K) {
        if self.0.state.lock().push(key) {
            self.0.changed.notify_one();
        }
    }

    /// Runs `key` after `delay`, unless it is queued anyway.
    pub fn push_after(&self, key: K, delay: Duration) {
        self.0.state.lock().push_after(key, Instant::now() + delay);
        self.0.changed.notify_one();
    }

    /// Lets every key that waits for another attempt run now, with its backoff begun anew: what made it fail is over.
    pub fn hurry(&self) {
        self.0.state.lock().hurry();
        self.0.changed.notify_one();
    }

    /// Sizes now.
    #[must_use]
    pub fn depth(&self) -> Depth {
        let state = self.0.state.lock();
        let running = state
            .jobs
            .values()
            .filter(|job| matches!(job.stage, Stage::Running { .. }))
            .count();
        Depth {
            fresh: state.fresh.len(),
            retry: state.due.len() + state.waiting.len(),
            running,
        }
    }

    /// Where `key` is; `None` when nothing is to be done with it.
    #[must_use]
    pub fn place(&self, key: &K) -> Option<Place> {
        let state = self.0.state.lock();
        let job = state.jobs.get(key)?;
        let (lane, timer) = match job.stage {
            Stage::Fresh => (Lane::Fresh, None),
            Stage::Due => (Lane::Retry, None),
            Stage::Waiting(timer) => (Lane::Retry, Some(timer)),
            Stage::Running { .. } => (Lane::Running, None),
        };
        let due = |timer| state.timers.iter().find(|Reverse((_, other))| *other == timer);
        let due = timer.and_then(due).map(|Reverse((at, _))| *at);
        Some(Place {
            lane,
            failures: job.failures,
            due_in: due.map(|at| at.saturating_duration_since(Instant::now())),
        })
    }

    /// Takes keys until the future is dropped, with `workers` jobs at a time.
    pub async fn run<F, Fut>(&self, workers: usize, work: F)
    where
        F: Fn(K) -> Fut,
        Fut: Future<Output = Outcome>,
    {
        let worker = || async {
            loop {
                let key = self.next().await;
                let outcome = work(key.clone()).await;
                self.finish(&key, outcome);
            }
        };
        // Unlike `join_all` of a few, this polls only the workers that were woken.
        let mut workers: FuturesUnordered<_> = (0..workers).map(|_| worker()).collect();
        while workers.next().await.is_some() {}
    }

    /// Waits for the next key to work on. Its job runs until [`finish`](Self::finish).
    async fn next(&self) -> K {
        loop {
            let changed = self.0.changed.notified();
            let next = self.0.state.lock().next(Instant::now());
            match next {
                Next::Run(key) => {
                    // Another worker may take the key behind this one.
                    self.0.changed.notify_one();
                    return key;
                }
                Next::WaitUntil(at) => {
                    tokio::select! { () = changed => {}, () = tokio::time::sleep_until(at) => {} }
                }
                Next::Wait => changed.await,
            }
        }
    }

    fn finish(&self, key: &K, outcome: Outcome) {
        self.0.state.lock().finish(key, outcome, Instant::now());
        self.0.changed.notify_one();
    }
}

// === impl Lane ===

impl Lane {
    /// For metrics and pages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Retry => "retry",
            Self::Running => "running",
        }
    }
}

// === impl State ===

impl<K: Clone + Eq + Hash> State<K> {
    /// Returns whether a worker must be woken.
    fn push(&mut self, key: K) -> bool {
        let job = self.jobs.entry(key.clone()).or_insert(Job {
            stage: Stage::Due,
            failures: 0,
        });
        match job.stage {
            Stage::Fresh => return false,
            Stage::Running { .. } => {
                job.stage = Stage::Running { again: true };
                return false;
            }
            Stage::Waiting(timer) => {
                self.waiting.remove(&timer);
            }
            // New, or about to be retried: the entry in the retry lane is skipped when it comes up.
            Stage::Due => {}
        }
        job.stage = Stage::Fresh;
        self.fresh.push_back(key);
        true
    }

    fn push_after(&mut self, key: K, at: Instant) {
        if !self.jobs.contains_key(&key) {
            self.wait(key, at, 0);
        }
    }

    fn next(&mut self, now: Instant) -> Next<K> {
        self.wake(now);
        while let Some(key) = self.fresh.pop_front() {
            if self.start(&key, Stage::Fresh) {
                return Next::Run(key);
            }
        }
        while let Some(key) = self.due.pop_front() {
            if self.start(&key, Stage::Due) {
                return Next::Run(key);
            }
        }
        self.timers
            .peek()
            .map_or(Next::Wait, |Reverse((at, _))| Next::WaitUntil(*at))
    }

    fn start(&mut self, key: &K, from: Stage) -> bool {
        let Some(job) = self.jobs.get_mut(key).filter(|job| job.stage == from) else {
            return false;
        };
        job.stage = Stage::Running { again: false };
        true
    }

    /// Moves keys whose time has come to the retry lane; timers of keys that were pushed meanwhile lapse.
    fn wake(&mut self, now: Instant) {
        while let Some(Reverse((at, timer))) = self.timers.peek().copied() {
            let lapsed = !self.waiting.contains_key(&timer);
            if !lapsed && at > now {
                break;
            }
            self.timers.pop();
            let Some(key) = self.waiting.remove(&timer) else {
                continue;
            };
            if let Some(job) = self.jobs.get_mut(&key) {
                job.stage = Stage::Due;
                self.due.push_back(key);
            }
        }
    }

    fn hurry(&mut self) {
        let jobs = &self.jobs;
        let failed = |key: &K| jobs.get(key).is_some_and(|job| job.failures > 0);
        let waiting = self.waiting.iter().filter(|(_, key)| failed(key));
        let timers: Vec<u64> = waiting.map(|(timer, _)| *timer).collect();
        for timer in timers {
            let Some(key) = self.waiting.remove(&timer) else {
                continue;
            };
            if let Some(job) = self.jobs.get_mut(&key) {
                job.stage = Stage::Due;
                self.due.push_back(key);
            }
        }
        // Also of jobs that run: if they still fail for the old reason, that is soon tried again.
        self.jobs.values_mut().for_each(|job| job.failures = 0);
    }

    fn finish(&mut self, key: &K, outcome: Outcome, now: Instant) {
        let Some(job) = self.jobs.remove(key) else { return };
        let again = job.stage == Stage::Running { again: true };
        let failures = if outcome == Outcome::Retry {
            job.failures.saturating_add(1)
        } else {
            0
        };
        match outcome {
            _ if again => {
                self.jobs.insert(
                    key.clone(),
                    Job {
                        stage: Stage::Fresh,
                        failures,
                    },
                );
                self.fresh.push_back(key.clone());
            }
            Outcome::Done => {}
            Outcome::Retry => self.wait(key.clone(), now + backoff(failures), failures),
            Outcome::After(delay) => self.wait(key.clone(), now + delay, 0),
        }
    }

    fn wait(&mut self, key: K, at: Instant, failures: u32) {
        let timer = self.next_timer;
        self.next_timer += 1;
        self.timers.push(Reverse((at, timer)));
        self.waiting.insert(timer, key.clone());
        self.jobs.insert(
            key,
            Job {
                stage: Stage::Waiting(timer),
                failures,
            },
        );
    }
}

/// Delay after the n-th failure in a row (n ≥ 1).
fn backoff(failures: u32) -> Duration {
    BACKOFF_BASE
        .saturating_mul(1 << (failures - 1).min(16))
        .min(BACKOFF_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `queue` with `workers`; each job notes its key and start, then takes its outcome from `outcome`.
    async fn record(
        queue: &Queue<&'static str>,
        workers: usize,
        for_time: Duration,
        outcome: impl Fn(&'static str, usize) -> (Duration, Outcome),
    ) -> Vec<(&'static str, u128)> {
        let log = Mutex::new(Vec::new());
        let start = Instant::now();
        let run = queue.run(workers, |key| {
            log.lock().push((key, start.elapsed().as_millis()));
            let nth = log.lock().iter().filter(|(k, _)| *k == key).count();
            let (took, outcome) = outcome(key, nth);
            async move {
                tokio::time::sleep(took).await;
                outcome
            }
        });
        let _ = tokio::time::timeout(for_time, run).await;
        log.into_inner()
    }

    #[tokio::test(start_paused = true)]
    async fn pushes_of_one_key_coalesce() {
        let queue = Queue::default();
        for _ in 0..3 {
            queue.push("a");
        }
        let log = record(&queue, 2, Duration::from_secs(1), |_, _| {
            (Duration::ZERO, Outcome::Done)
        })
        .await;
        assert_eq!(log, [("a", 0)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_pushed_while_it_runs_runs_once_more_and_never_twice_at_a_time() {
        let queue = Queue::default();
        queue.push("a");
        let pusher = queue.clone();
        let log = record(&queue, 4, Duration::from_secs(1), |_, nth| {
            if nth == 1 {
                pusher.push("a");
                pusher.push("a");
            }
            (Duration::from_millis(100), Outcome::Done)
        })
        .await;
        assert_eq!(log, [("a", 0), ("a", 100)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_key_backs_off_by_itself_and_never_gives_up() {
        let queue = Queue::default();
        queue.push("bad");
        let log = record(&queue, 1, Duration::from_secs(3600), |_, _| {
            (Duration::ZERO, Outcome::Retry)
        })
        .await;
        let starts: Vec<_> = log.iter().take(5).map(|(_, at)| *at).collect();
        assert_eq!(starts, [0, 250, 750, 1750, 3750]);
        let gap = log[log.len() - 1].1 - log[log.len() - 2].1;
        assert_eq!(gap, BACKOFF_MAX.as_millis());
    }

    #[tokio::test(start_paused = true)]
    async fn success_resets_the_backoff() {
        let queue = Queue::default();
        queue.push("a");
        let log = record(&queue, 1, Duration::from_secs(10), |_, nth| {
            let outcome = match nth {
                1 | 2 | 4 => Outcome::Retry,
                3 => Outcome::After(Duration::from_secs(1)),
                _ => Outcome::Done,
            };
            (Duration::ZERO, outcome)
        })
        .await;
        let starts: Vec<_> = log.iter().map(|(_, at)| *at).collect();
        assert_eq!(starts, [0, 250, 750, 1750, 2000]);
    }

    #[tokio::test(start_paused = true)]
    async fn fresh_keys_go_before_retries() {
        let queue = Queue::default();
        queue.push("bad");
        let pusher = queue.clone();
        let log = record(&queue, 1, Duration::from_millis(700), |key, nth| {
            match (key, nth) {
                ("bad", 1) => {
                    pusher.push("slow");
                    (Duration::ZERO, Outcome::Retry)
                }
                ("slow", _) => {
                    // While this one runs, `bad` becomes due and `new` arrives.
                    pusher.push("new");
                    (Duration::from_millis(500), Outcome::Done)
                }
                _ => (Duration::from_millis(1), Outcome::Done),
            }
        })
        .await;
        let keys: Vec<_> = log.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, ["bad", "slow", "new", "bad"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiting_key_runs_at_once_when_it_is_pushed() {
        let queue = Queue::default();
        queue.push_after("a", Duration::from_secs(60));
        assert_eq!(
            queue.depth(),
            Depth {
                fresh: 0,
                retry: 1,
                running: 0
            }
        );
        queue.push("a");
        let log = record(&queue, 1, Duration::from_secs(120), |_, _| {
            (Duration::ZERO, Outcome::Done)
        })
        .await;
        assert_eq!(log, [("a", 0)]);
        assert_eq!(queue.depth(), Depth::default());
    }

    #[tokio::test(start_paused = true)]
    async fn a_hurried_queue_retries_at_once_with_a_new_backoff_and_leaves_planned_times_alone() {
        let queue = Queue::default();
        queue.push("bad");
        queue.push_after("planned", Duration::from_secs(60));
        let log = record(&queue, 1, Duration::from_secs(7), |_, _| {
            (Duration::ZERO, Outcome::Retry)
        })
        .await;
        assert_eq!(log.len(), 5, "the next attempt is due after 7.75 s");
        queue.hurry();
        let log = record(&queue, 1, Duration::from_millis(300), |_, _| {
            (Duration::ZERO, Outcome::Retry)
        })
        .await;
        assert_eq!(log, [("bad", 0), ("bad", 250)]);
    }

    #[tokio::test(start_paused = true)]
    async fn all_workers_are_used() {
        let queue = Queue::default();
        for key in ["a", "b", "c"] {
            queue.push(key);
        }
        let log = record(&queue, 3, Duration::from_secs(5), |_, _| {
            (Duration::from_secs(1), Outcome::Done)
        })
        .await;
        assert_eq!(log, [("a", 0), ("b", 0), ("c", 0)]);
    }

    #[tokio::test(start_paused = true)]
    async fn the_place_of_a_key_tells_why_it_waits() {
        let queue = Queue::default();
        queue.push("fresh");
        assert_eq!(queue.place(&"fresh").map(|place| place.lane), Some(Lane::Fresh));
        let run = queue.run(1, |_| async { Outcome::Retry });
        let _ = tokio::time::timeout(Duration::from_millis(300), run).await;
        let place = queue.place(&"fresh").unwrap();
        assert_eq!((place.lane, place.failures), (Lane::Retry, 2));
        // The second attempt was after 250 ms, the third is 500 ms later.
        assert_eq!(place.due_in, Some(Duration::from_millis(450)));
        assert_eq!(queue.place(&"other"), None);
    }
}
