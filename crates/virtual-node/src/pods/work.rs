//! Carries out one step after another for a pod.

use std::time::Instant;

use jiff::Timestamp;
use serde_json::Value;

use tensile_core::status::{Patch, Problem};
use tensile_core::translate::pod::Lower;
use tensile_core::translate::service_account::ServiceAccount;
use tensile_core::translate::update;
use tensile_core::{names, status};
use tensile_runtime::key::Key;
use tensile_runtime::queue::Outcome;
use tensile_runtime::recorder::Note;

use super::again::{Before, follow_upon};
use super::side::version;
use super::translation::Translated;
use super::{Body, Ending, LowerPod, LowerSide, Step, UpperPod, decide, ending, predecessor};
use crate::api::{self, ApiError};
use crate::context::Context;
use crate::objects::Need;
use crate::origin::lower_key;
use crate::tokens::{self, Issued, Keeper};

/// Requests for one pod in a row; more means that two sides disagree, which the backoff then slows down.
const STEPS: usize = 8;

/// Works on pods.
#[derive(Clone)]
pub struct Worker {
    pub(super) context: Context,
    tokens: Keeper,
}

/// Whether to look at the entry again at once.
pub(super) enum Next {
    Again,
    Done,
    Finish(Outcome),
}

/// Identity of the upper pod that a step is for.
pub(super) struct Target<'a> {
    pub key: &'a Key,
    pub uid: &'a str,
}

// === impl Worker ===

impl Worker {
    /// A worker for one virtual node.
    #[must_use]
    pub fn new(context: Context) -> Self {
        let tokens = Keeper::new(context.clone());
        Self { context, tokens }
    }

    /// Brings the pod at `key` as far as it gets now.
    pub async fn work(&self, key: Key) -> Outcome {
        for _ in 0..STEPS {
            let (step, token) = self.decide(&key);
            let done = match step {
                Step::Wait => self.wait(&key, token).await,
                step => self.carry_out(&key, step).await,
            };
            let outcome = match done {
                Ok(Next::Again) => continue,
                Ok(Next::Done) => Ok(Outcome::Done),
                Ok(Next::Finish(outcome)) => Ok(outcome),
                Err(error) => Err(error),
            };
            return self.attempted(&key, outcome);
        }
        Outcome::Retry
    }

    /// Remembers how the attempt ended, for those who ask.
    fn attempted(&self, key: &Key, outcome: Result<Outcome, ApiError>) -> Outcome {
        let failure = outcome.as_ref().err().map(ToString::to_string);
        self.context.shared.lock().pods.attempted(key, failure);
        outcome.unwrap_or_else(|error| {
            let retries = &self.context.metrics.pod_retries;
            retries.with_label_values(&[error.kind()]).inc();
            tracing::debug!(pod = %key, %error, "will be tried again");
            Outcome::Retry
        })
    }

    /// Nothing is to be done for the pod itself: sees to its tokens, or to its end on a dead node.
    async fn wait(&self, key: &Key, token: tokens::Step) -> Result<Next, ApiError> {
        match self.ending(key) {
            (Ending::Wait, _) => self.tokens.keep(key, token).await.map(|()| Next::Done),
            (Ending::After(delay), _) => Ok(Next::Finish(Outcome::After(delay))),
            (Ending::Force, uid) => {
                tracing::warn!(pod = %key, "the lower node is dead: the lower pod is removed without its kubelet");
                let collection = self.pods_below(key);
                api::delete(&self.context.lower, &collection, &key.name, &uid, Some(0)).await?;
                Ok(Next::Done)
            }
        }
    }

    /// What becomes of a lower pod that is ending, and its UID.
    fn ending(&self, key: &Key) -> (Ending, Box<str>) {
        let patience = self.context.settings.force_delete_after;
        let state = self.context.shared.lock();
        let lower = state.pods.get(key).and_then(|entry| entry.lower.as_ref());
        let Some(lower) = lower.filter(|_| patience.is_some()) else {
            return (Ending::Wait, Box::default());
        };
        let capacity = self.context.shared.capacity.lock();
        let is_dead = lower.node.as_deref().is_some_and(|node| capacity.is_dead(node));
        (
            ending(lower, is_dead, patience, Timestamp::now()),
            lower.uid.clone(),
        )
    }

    /// Path of the collection of the lower pod.
    fn pods_below(&self, key: &Key) -> String {
        api::collection(&self.context.settings.below(&key.namespace), "pods")
    }

    /// The next step, and what the pod's tokens need when there is none.
    fn decide(&self, key: &Key) -> (Step, tokens::Step) {
        let mut state = self.context.shared.lock();
        let Some(entry) = state.pods.get(key) else {
            return (Step::Wait, tokens::Step::Nothing);
        };
        let token = self.tokens.decide(&state, entry);
        let step = decide(entry, &self.context.settings.node_ip);
        if entry.changed_at.is_some() && !matches!(step, Step::PatchStatus { .. }) {
            state.pods.carried_up(key);
        }
        (step, token)
    }

    async fn carry_out(&self, key: &Key, step: Step) -> Result<Next, ApiError> {
        match step {
            Step::Wait => Ok(Next::Done),
            Step::Refuse(problem) => self.refuse(key, &problem).await.map(|()| Next::Done),
            Step::Create {
                uid,
                body,
                body_hash,
                references,
                again,
            } => {
                let target = Target { key, uid: &uid };
                let before = match again {
                    true => self.before(&target).await?,
                    false => Before::GoesOn(Value::Null),
                };
                let Before::GoesOn(before) = before else {
                    return Ok(Next::Done);
                };
                match self.need(key, &references) {
                    Need::Met => self.create_in_turn(&target, &body, body_hash, &before).await,
                    // Whoever makes the objects wakes this pod.
                    Need::Pending(objects) => {
                        objects
                            .into_iter()
                            .for_each(|object| self.context.shared.objects.push(object));
                        Ok(Next::Done)
                    }
                    Need::Unmet(problem) => self.refuse(key, &problem).await.map(|()| Next::Done),
                }
            }
            Step::Update {
                uid,
                body,
                body_hash,
                intent,
                lower_uid,
            } => {
                self.update(&Target { key, uid: &uid }, &body, body_hash, &intent, &lower_uid)
                    .await
            }
            Step::PatchStatus { uid, patch } => self.patch_status(&Target { key, uid: &uid }, patch).await,
            Step::DeleteLower {
                uid,
                grace,
                unless_upper,
            } => self.delete_lower(key, &uid, grace, unless_upper.as_deref()).await,
            Step::DeleteUpper { uid, grace, confirm } => self.delete_upper(key, &uid, grace, confirm).await,
        }
    }

    fn need(&self, key: &Key, references: &[tensile_core::refs::Reference]) -> Need {
        self.context.shared.lock().objects.need(key, references)
    }

    /// Makes the lower pod, unless another one must be gone first.
    async fn create_in_turn(
        &self,
        target: &Target<'_>,
        body: &Body,
        body_hash: u64,
        before: &Value,
    ) -> Result<Next, ApiError> {
        match predecessor::of(&self.context, target.key, target.uid, body).await? {
            None => self.create(target, body, body_hash, before).await,
            Some(pod) => {
                self.refuse(target.key, &Problem::Predecessor { pod }).await?;
                Ok(Next::Finish(Outcome::After(predecessor::INTERVAL)))
            }
        }
    }

    /// Makes the lower pod; `before` is the status that the upper pod had if it ran already, else null.
    async fn create(
        &self,
        target: &Target<'_>,
        body: &Body,
        body_hash: u64,
        before: &Value,
    ) -> Result<Next, ApiError> {
        let mut pod = match Translated::new(&self.context, target.key, body) {
            Ok(pod) => pod,
            Err(problem) => return self.refuse(target.key, &problem).await.map(|()| Next::Done),
        };
        let issued = self.issue(target, &pod).await?;
        if issued.is_some() {
            pod.reads_token();
        }
        follow_upon(&mut pod.lower.pod, before);
        let lower = &pod.lower;
        let collection = self.pods_below(target.key);
        match api::create::<LowerPod>(&self.context.lower, &collection, &lower.pod).await {
            Ok(created) => {
                if let (Some(issued), Some(uid)) = (issued, &created.metadata.uid) {
                    self.follow_with_token(target.key, &pod.upper, uid, &issued).await;
                }
                // Ephemeral containers follow as an update, so the body is still needed for them.
                let carried_out = lower.ephemeral_containers.is_empty().then_some(body_hash);
                self.adopt(target, created, carried_out);
                for note in &lower.notes {
                    self.note(target, false, note.reason(), note.to_string());
                }
                Ok(Next::Again)
            }
            Err(ApiError::Conflict(_)) => self.name_taken(target).await,
            Err(ApiError::Refused(error)) => {
                // Also quota and admission, which may let it in later: hence the retry.
                self.refuse(target.key, &Problem::Refused { error: error.clone() })
                    .await?;
                Err(ApiError::Refused(error))
            }
            Err(error) => Err(error),
        }
    }

    /// Asks for the tokens of a pod that is about to be made. A refusal is told, and may pass.
    async fn issue(&self, target: &Target<'_>, pod: &Translated) -> Result<Option<Issued>, ApiError> {
        if pod.service_account != ServiceAccount::Upper {
            return Ok(None);
        }
        let issued = self.tokens.issuer.issue(&pod.upper).await;
        if let Err(ApiError::Refused(error) | ApiError::NotFound(error)) = &issued {
            let account = pod.upper["spec"]["serviceAccountName"].as_str();
            let problem = Problem::Dependency {
                what: format!("token of service account {}", account.unwrap_or_default()),
                error: error.clone(),
            };
            self.refuse(target.key, &problem).await?;
        }
        issued
    }

    /// The kubelet waits for the Secret of a pod that was just made. If it cannot be written now, it is made later.
    async fn follow_with_token(&self, key: &Key, upper: &Value, lower_uid: &str, issued: &Issued) {
        if let Err(error) = self.tokens.write(key, upper, lower_uid, None, issued).await {
            tracing::debug!(pod = %key, %error, "tokens will be tried again");
        }
    }

    /// The lower pod is there; what the watch will show of it is already known.
    fn adopt(&self, target: &Target<'_>, lower: LowerPod, carried_out: Option<u64>) {
        let version = version(lower.metadata.resource_version.as_deref());
        let mut state = self.context.shared.lock();
        let is_shown = state.pods.adopt(target.key, target.uid, LowerSide::new(lower));
        if !is_shown {
            state.lower_lag.written(target.key, version, Instant::now());
        }
        if let Some(body_hash) = carried_out {
            state.pods.carried_out(target.key, target.uid, body_hash);
        }
    }

    /// A pod with this name is in the lower cluster already: ours from before, or somebody else's.
    async fn name_taken(&self, target: &Target<'_>) -> Result<Next, ApiError> {
        let collection = self.pods_below(target.key);
        let Some(found) = api::get::<LowerPod>(&self.context.lower, &collection, &target.key.name).await?
        else {
            return Ok(Next::Again);
        };
        let label = |key: &str| found.metadata.labels.as_ref().and_then(|labels| labels.get(key));
        let ours = label(names::ORIGIN_CLUSTER) == Some(&self.context.settings.origin_cluster);
        if ours && label(names::ORIGIN_UID).is_some_and(|uid| uid == target.uid) {
            self.adopt(target, found, None);
            return Ok(Next::Again);
        }
        if ours {
            // One of an earlier pod of this name: it is on its way out.
            return Err(ApiError::Conflict(format!(
                "pod {} of an earlier pod is still there",
                target.key
            )));
        }
        let problem = Problem::ForeignNamesake {
            namespace: self.context.settings.below(&target.key.namespace).into_owned(),
            name: target.key.name.to_string(),
        };
        self.refuse(target.key, &problem).await?;
        Err(ApiError::Conflict(problem.to_string()))
    }

    async fn update(
        &self,
        target: &Target<'_>,
        body: &Body,
        body_hash: u64,
        intent: &str,
        lower_uid: &str,
    ) -> Result<Next, ApiError> {
        let lower = match Translated::new(&self.context, target.key, body) {
            Ok(pod) => pod.lower,
            Err(problem) => return self.refuse(target.key, &problem).await.map(|()| Next::Done),
        };
        if lower.intent != intent {
            self.carry_down(target, &lower, lower_uid).await?;
        }
        self.context
            .shared
            .lock()
            .pods
            .carried_out(target.key, target.uid, body_hash);
        Ok(Next::Again)
    }

    /// Sends what the user changed to the lower pod, as it is now. What the lower cluster refuses is told, and does
    /// not keep the rest from arriving.
    async fn carry_down(&self, target: &Target<'_>, lower: &Lower, lower_uid: &str) -> Result<(), ApiError> {
        let key = target.key;
        let collection = self.pods_below(key);
        let below: Option<Value> = api::get(&self.context.lower, &collection, &key.name).await?;
        let Some(below) = below.filter(|below| below["metadata"]["uid"] == lower_uid) else {
            return Ok(());
        };
        let below_key = lower_key(key, &self.context.settings.mapping);
        let update = update::update(lower, &below);
        let patches = [
            ("ephemeralcontainers", update.ephemeral_containers),
            ("resize", update.resize),
            ("", update.pod),
        ];
        for (subresource, patch) in patches {
            let Some(patch) = patch else { continue };
            match api::patch_pod(&self.context.lower, &below_key, subresource, &patch).await {
                Err(ApiError::Refused(error)) if !subresource.is_empty() => {
                    let message = format!("the lower cluster refuses the change of {subresource}: {error}");
                    self.note(target, true, "UpdateRefused", message);
                }
                sent => drop(sent?),
            }
        }
        Ok(())
    }

    pub(super) async fn patch_status(&self, target: &Target<'_>, patch: Patch) -> Result<Next, ApiError> {
        match api::patch_status(&self.context.upper, target.key, &patch.body).await {
            Ok(pod) => {
                self.context.metrics.status_writes.inc();
                self.status_sent(target, patch, &pod);
                Ok(Next::Again)
            }
            // Gone or replaced: the watch will tell.
            Err(ApiError::NotFound(_) | ApiError::Conflict(_)) => Ok(Next::Done),
            Err(error) => {
                if let ApiError::Refused(reason) = &error {
                    tracing::warn!(pod = %target.key, reason, "the upper cluster refuses the status");
                }
                Err(error)
            }
        }
    }

    fn status_sent(&self, target: &Target<'_>, patch: Patch, pod: &UpperPod) {
        let returned: Value = pod
            .status
            .as_deref()
            .and_then(|raw| serde_json::from_str(raw.get()).ok())
            .unwrap_or_default();
        let version = version(pod.metadata.resource_version.as_deref());
        let now = Instant::now();
        let mut state = self.context.shared.lock();
        let sent = patch.sent(&returned);
        if !state.pods.status_sent(target.key, target.uid, sent, version) {
            state.upper_lag.written(target.key, version, now);
        }
        if let Some(seen) = state.pods.carried_up(target.key) {
            let latency = now.saturating_duration_since(seen);
            self.context.metrics.status_latency.observe(latency.as_secs_f64());
        }
    }

    async fn delete_lower(
        &self,
        key: &Key,
        uid: &str,
        grace: Option<i64>,
        unless_upper: Option<&str>,
    ) -> Result<Next, ApiError> {
        let collection = self.pods_below(key);
        if let Some(origin_uid) = unless_upper {
            let above = api::collection(&key.namespace, "pods");
            let upper = api::get::<UpperPod>(&self.context.upper, &above, &key.name).await?;
            let wanted = upper.is_some_and(|upper| {
                upper.metadata.uid.as_deref() == Some(origin_uid)
                    && upper.metadata.deletion_timestamp.is_none()
            });
            if wanted {
                return Err(ApiError::Conflict("the upper pod exists after all".to_owned()));
            }
        }
        match api::delete(&self.context.lower, &collection, &key.name, uid, grace).await {
            // The watch tells when it is on its way; until then there is nothing to do.
            Ok(()) => {
                self.context
                    .shared
                    .lock()
                    .pods
                    .lower_deleting(key, uid, grace.unwrap_or_default());
                Ok(Next::Done)
            }
            Err(ApiError::Conflict(_)) => Ok(Next::Done),
            Err(error) => Err(error),
        }
    }

    async fn delete_upper(&self, key: &Key, uid: &str, grace: i64, confirm: bool) -> Result<Next, ApiError> {
        let collection = api::collection(&key.namespace, "pods");
        if confirm {
            let lower = api::get::<LowerPod>(&self.context.lower, &self.pods_below(key), &key.name).await?;
            let side = lower.map(LowerSide::new).filter(|side| *side.origin_uid == *uid);
            if side.is_some() {
                // Its watch will show it. To believe this answer instead could undo what the watch has shown meanwhile,
                // and nothing would come after that.
                return Err(ApiError::Conflict("the lower pod exists after all".to_owned()));
            }
            tracing::info!(pod = %key, "the lower pod was deleted in the lower cluster; deleting the upper pod");
        }
        match api::delete(&self.context.upper, &collection, &key.name, uid, Some(grace)).await {
            Ok(()) => {
                self.context.shared.lock().pods.upper_deleting(key, uid, grace);
                // With a grace period there may be a status to write.
                Ok(if grace == 0 { Next::Done } else { Next::Again })
            }
            Err(ApiError::Conflict(_)) => Ok(Next::Done),
            Err(error) => Err(error),
        }
    }

    /// Says on the upper pod why it does not run.
    async fn refuse(&self, key: &Key, problem: &Problem) -> Result<(), ApiError> {
        let found = {
            let state = self.context.shared.lock();
            let upper = state.pods.get(key).and_then(|entry| entry.upper.as_ref());
            upper.map(|upper| {
                let patch = status::patch(&upper.uid, &problem.status(), upper.sent.as_ref(), &upper.shown);
                (upper.uid.clone(), patch)
            })
        };
        let Some((uid, patch)) = found else { return Ok(()) };
        let target = Target { key, uid: &uid };
        self.note(&target, true, problem.reason(), problem.to_string());
        if let Some(patch) = patch {
            self.patch_status(&target, patch).await?;
        }
        Ok(())
    }

    fn note(&self, target: &Target<'_>, warning: bool, reason: &'static str, message: String) {
        self.context.recorder.note(Note {
            pod: target.key.clone(),
            uid: target.uid.to_owned(),
            warning,
            reason,
            action: "Offload",
            message,
        });
    }
}
