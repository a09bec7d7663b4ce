//! One round: what is known becomes a plan, and the plan is carried out.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tensile_core::avoidance::Avoidance;
use tensile_placement::Uid;
use tensile_runtime::key::Key;
use tensile_runtime::recorder::{Note, Recorder};
use tokio::time::Instant;

use crate::avoid;
use crate::bare::Moving;
use crate::clock;
use crate::evict::{Evictor, Outcome};
use crate::feed::{ABOVE, Known};
use crate::metrics::Metrics;
use crate::notes::Notes;
use crate::plan::{self, Move, Plan, PodRef};
use crate::pod::Mark;
use crate::policy::Policy;
use crate::promises;
use crate::report::{Moved, Report};
use crate::scene::Scene;

/// Time for the webhook replicas to hear of the avoidance, and for the extender to hear of the promises, before the first
/// owner makes a new pod. A watch event takes
/// some milliseconds; this is a hundred times that.
const PROPAGATION: Duration = Duration::from_millis(500);
/// How long the place of an evicted pod's successor stays promised: owners, scheduler and watches take seconds, and
/// from then on the successor itself counts.
const PROMISE: Duration = Duration::from_secs(30);
/// How often and for how long pods on their way are looked at before a single run ends; they need their grace period.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
const FINISH: Duration = Duration::from_secs(120);
/// Longest text of an event (`eventsv1.Event.note` is limited to 1 kB by the API server).
const NOTE: usize = 1000;

/// Whether we may write now.
pub type MayWrite = Box<dyn Fn() -> bool + Send + Sync>;

/// Makes rounds.
pub struct Rounds {
    /// What is known.
    pub known: Known,
    /// What is allowed.
    pub policy: Policy,
    /// Carries evictions out; `None` to touch nothing.
    pub execution: Option<Execution>,
    /// Reads the avoidance.
    pub evictor: Evictor,
    /// Figures.
    pub metrics: Metrics,
    promises: Vec<(Instant, Uid)>,
    /// Pods that nobody else makes again, while they are moved.
    moving: Moving,
    /// What was told about pods that stay: their UID, the strategy, and the kind of reason.
    told: HashSet<(String, &'static str, &'static str)>,
}

/// What is needed to touch anything.
pub struct Execution {
    /// Tells users why their pods move or stay.
    pub recorder: Recorder,
    /// Whether the lease is held.
    pub may_write: MayWrite,
}

// === impl Rounds ===

impl Rounds {
    /// Nothing done yet.
    #[must_use]
    pub fn new(
        known: Known,
        policy: Policy,
        execution: Option<Execution>,
        evictor: Evictor,
        metrics: Metrics,
    ) -> Self {
        Self {
            known,
            policy,
            execution,
            evictor,
            metrics,
            promises: Vec::new(),
            moving: Moving::default(),
            told: HashSet::new(),
        }
    }

    /// Makes a round; says what came of it.
    pub async fn round(&mut self) -> Report {
        let moving = self.settle().await;
        let mut report = self.plan_and_execute().await;
        let bare = |moved: &&Moved| moved.planned.bare && moved.result == "Evicted";
        report.moving = moving + report.moves.iter().filter(bare).count();
        report
    }

    /// Waits until the pods that nobody else makes again are where they should be; those that take too long are left to
    /// whoever comes next.
    pub async fn finish(&mut self) {
        let settled = async {
            while self.settle().await > 0 {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        if tokio::time::timeout(FINISH, settled).await.is_err() {
            tracing::warn!("pods are still being moved; the next run goes on with them");
        }
    }

    /// Goes on with the moves of pods that nobody else makes again; says how many are still on their way.
    async fn settle(&mut self) -> usize {
        let allowed = !self.policy.protected.contains(&Mark::Bare);
        let Some(execution) = self.execution.as_ref().filter(|_| allowed) else {
            return 0;
        };
        if !(execution.may_write)() {
            return 0;
        }
        match self.evictor.settle(&mut self.moving).await {
            Ok((open, restored)) => {
                for pod in restored {
                    let message = "made again in place of the pod that was evicted".to_owned();
                    execution.recorder.note(note(&pod, false, "Moved", message));
                }
                open
            }
            Err(error) => {
                tracing::warn!(%error, "the records of moved pods cannot be listed");
                0
            }
        }
    }

    async fn plan_and_execute(&mut self) -> Report {
        let start = Instant::now();
        let now = clock::now();
        let dry_run = self.execution.is_none();
        let doubt = |doubt: String| Report {
            time: now,
            dry_run,
            doubt: Some(doubt),
            ..Report::default()
        };
        if let Some(unknown) = self.known.doubt() {
            return doubt(unknown);
        }
        let maps = self.evictor.config_maps();
        let notes = match Notes::load(&maps, self.policy.make_room.is_some()).await {
            Ok(notes) => notes,
            Err(error) => return doubt(error),
        };
        let (plan, promises) = self.plan(now, &notes.avoidance);
        let mut report = Report::of_plan(now, dry_run, plan.clone());
        let after = self.noted(&plan, &notes, now);
        if self.execution.is_some() {
            if let Err(error) = after.save(&maps, &notes).await {
                self.take_back(promises);
                return doubt(error);
            }
            self.execute(&mut report.moves, promises).await;
            self.tell_stays(&plan);
        }
        let seconds = start.elapsed().as_secs_f64();
        self.metrics.round(seconds, &plan, after.avoidance.len());
        report
    }

    /// Plans with everything that is known standing still; gives the promises that stay in the models.
    fn plan(&mut self, now: u64, avoidance: &Avoidance) -> (Plan, Vec<Uid>) {
        let expired: Vec<Uid> = self
            .promises
            .extract_if(.., |(until, _)| *until <= Instant::now())
            .map(|(_, uid)| uid)
            .collect();
        self.take_back(expired);
        let (mut world, mut above) = (self.known.world.world(), self.known.above.world());
        let (pods, refused) = (self.known.pods.lock(), self.known.refused.lock());
        let waiting = self.known.waiting.lock();
        let upper = &mut above.cluster_mut(ABOVE).model;
        let mut scene = Scene::new(now, &self.policy, &mut world, upper, avoidance);
        let plan = plan::plan(&mut scene, &pods, &refused, &waiting);
        let promises = match self.execution {
            Some(_) => scene.into_promises(),
            None => Vec::new(),
        };
        (plan, promises)
    }

    /// The notes once all planned moves are made, without what has ended.
    fn noted(&self, plan: &Plan, before: &Notes, now: u64) -> Notes {
        let mut avoidance = before.avoidance.clone();
        avoidance.expire(now);
        let pods = self.known.pods.lock();
        for PodRef { namespace, name, .. } in plan.moves.iter().map(|planned| &planned.pod) {
            if let Some(pod) = pods.get(&Key::new(namespace, name)) {
                avoid::note_move(&mut avoidance, pod, self.policy.avoid_for, now);
            }
        }
        Notes {
            avoidance,
            promises: promises::renewed(&before.promises, &plan.claims, now),
        }
    }

    fn take_back(&self, promises: impl IntoIterator<Item = Uid>) {
        let (mut world, mut above) = (self.known.world.world(), self.known.above.world());
        for uid in promises {
            world.release(uid);
            above.release(uid);
        }
    }

    /// Carries the moves out one by one. Avoidance and promises have been written.
    async fn execute(&mut self, moves: &mut [Moved], promises: Vec<Uid>) {
        if moves.is_empty() {
            self.take_back(promises);
            return;
        }
        tokio::time::sleep(PROPAGATION).await;
        let mut unused: HashSet<Uid> = promises.into_iter().collect();
        for moved in moves {
            let Some(outcome) = self.evict(&moved.planned).await else {
                moved.result = "NotLeading";
                continue;
            };
            moved.result = outcome.word();
            moved.message = outcome.message();
            self.metrics.evicted(moved.planned.strategy, outcome.word());
            if matches!(outcome, Outcome::Evicted) {
                self.keep(&moved.planned.promises, &mut unused);
            }
        }
        self.take_back(unused);
    }

    /// Lets promises stand for some time.
    fn keep(&mut self, promises: &[Uid], unused: &mut HashSet<Uid>) {
        let until = Instant::now() + PROMISE;
        self.promises.retain(|(_, uid)| !promises.contains(uid));
        self.promises.extend(promises.iter().map(|uid| (until, *uid)));
        for uid in promises {
            unused.remove(uid);
        }
    }

    /// Evicts a pod if we may still write, and tells its user.
    async fn evict(&self, planned: &Move) -> Option<Outcome> {
        let execution = self.execution.as_ref()?;
        let lower = self.lower(&planned.from);
        if !(execution.may_write)() {
            return None;
        }
        let outcome = self.evictor.evict(lower.as_ref(), planned).await;
        let Move { from, to, why, .. } = planned;
        tracing::info!(
            pod = %planned.pod, from, to, strategy = planned.strategy, why, result = outcome.word(), "eviction"
        );
        let message = match &outcome {
            Outcome::Evicted => format!("evicted from {from}, for example {to} fits it now: {why}"),
            Outcome::Budget(_) => format!("a PodDisruptionBudget keeps the pod on {from}: {why}"),
            Outcome::Failed(error) => format!("cannot be evicted from {from}: {error}"),
            Outcome::Gone | Outcome::Placed | Outcome::Changed => return Some(outcome),
        };
        let warning = !matches!(outcome, Outcome::Evicted);
        execution
            .recorder
            .note(note(&planned.pod, warning, planned.strategy, message));
        Some(outcome)
    }

    /// The cluster behind a virtual node.
    fn lower(&self, node: &str) -> Option<Client> {
        let cluster = self.known.world.world().virtual_node(node)?.cluster.clone();
        self.known.clients.lock().get(&cluster).cloned()
    }

    /// Tells users why their pods stay, once for each kind of reason.
    fn tell_stays(&mut self, plan: &Plan) {
        let Some(execution) = &self.execution else { return };
        let mut staying = HashSet::new();
        for stay in &plan.stays {
            let reason = (stay.pod.uid.clone(), stay.strategy, stay.kind);
            if !self.told.contains(&reason) {
                let message = format!("stays where it is: {}", stay.why);
                execution
                    .recorder
                    .note(note(&stay.pod, true, stay.strategy, message));
            }
            staying.insert(reason);
        }
        self.told = staying;
    }
}

fn note(pod: &PodRef, warning: bool, strategy: &'static str, message: String) -> Note {
    let mut message = message;
    if message.len() > NOTE {
        let end = (0..=NOTE).rev().find(|end| message.is_char_boundary(*end));
        message.truncate(end.unwrap_or(0));
    }
    Note {
        pod: Key::new(&pod.namespace, &pod.name),
        uid: pod.uid.clone(),
        warning,
        reason: strategy,
        action: "Descheduled",
        message,
    }
}

/// Sets the report, and says what is in it where somebody waits for that.
pub fn publish(last: &crate::report::Last, report: Report, print: bool) {
    let report = Arc::new(report);
    if let Some(doubt) = &report.doubt {
        tracing::warn!(doubt, "no plan in this round");
    }
    if print && let Ok(text) = serde_json::to_string(&*report) {
        println!("{text}");
    }
    last.set(report);
}
