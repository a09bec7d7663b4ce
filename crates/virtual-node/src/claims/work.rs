//! Looks at a claim on both sides and carries out one step after another.

use serde_json::Value;

use tensile_core::names;
use tensile_core::translate::{TranslateError, claim, volume};

use super::{Situation, Step, decide};
use crate::api::{self, ApiError};
use crate::context::Context;
use crate::objects::{ObjectKey, Side};

/// Steps in a row; more means that something answers other than it acts, which the backoff then slows down.
const STEPS: usize = 4;
const VOLUMES: &str = "/api/v1/persistentvolumes";
const CLASSES: &str = "/apis/storage.k8s.io/v1/storageclasses";

/// Works on claims.
#[derive(Clone)]
pub struct Worker {
    context: Context,
}

// === impl Worker ===

impl Worker {
    /// A worker for one virtual node.
    #[must_use]
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    /// Brings the claim at `key` as far as it gets now.
    ///
    /// # Errors
    /// When one of the clusters refuses or does not answer, or the lower claim cannot be used.
    pub async fn work(&self, key: &ObjectKey) -> Result<(), ApiError> {
        for _ in 0..STEPS {
            let Some(situation) = self.look(key).await? else {
                return Ok(());
            };
            let step = decide(&situation);
            if step == Step::Wait {
                return Ok(());
            }
            self.carry_out(key, &situation, step).await?;
        }
        Err(ApiError::Transient(format!("{key} does not settle")))
    }

    fn claims_below(&self, key: &ObjectKey) -> String {
        api::collection(
            &self.context.settings.below(&key.key.namespace),
            key.kind.plural(),
        )
    }

    fn claims_above(key: &ObjectKey) -> String {
        api::collection(&key.key.namespace, key.kind.plural())
    }

    /// All that is there of the claim; `None` when it is no business of ours.
    async fn look(&self, key: &ObjectKey) -> Result<Option<Situation<'_>>, ApiError> {
        let settings = &self.context.settings;
        let (used, mut names) = {
            let state = self.context.shared.lock();
            let used = state.objects.is_needed(key);
            let is_copied = state
                .objects
                .get(key)
                .and_then(|object| object.lower.as_ref())
                .is_some_and(|lower| lower.ours);
            if !used && !is_copied && !state.claims.is_ours(&key.key) {
                return Ok(None);
            }
            (used, state.claims.volumes(&key.key))
        };
        let (upper, lower) = (&self.context.upper, &self.context.lower);
        let name = &key.key.name;
        let (above, below) = (Self::claims_above(key), self.claims_below(key));
        let upper_claim: Value = api::get(upper, &above, name).await?.unwrap_or_default();
        let lower_claim: Value = api::get(lower, &below, name).await?.unwrap_or_default();
        if !upper_claim.is_null() {
            // The watch may not have shown it yet.
            names.insert(volume::name(&upper_claim).into());
        }
        let mut volumes = Vec::new();
        for name in names {
            let found: Option<Value> = api::get(upper, VOLUMES, &name).await?;
            volumes.extend(found.filter(volume::is_ours));
        }
        Ok(Some(Situation {
            origin_cluster: &settings.origin_cluster,
            node_name: &settings.node_name,
            used,
            upper: upper_claim,
            lower: lower_claim,
            volumes,
        }))
    }

    async fn carry_out(
        &self,
        key: &ObjectKey,
        situation: &Situation<'_>,
        step: Step,
    ) -> Result<(), ApiError> {
        let (upper, lower) = (&self.context.upper, &self.context.lower);
        let name = &key.key.name;
        match step {
            Step::Wait => Ok(()),
            Step::Provide => self.provide(key, &situation.upper).await,
            Step::Create => self.create(key, &situation.upper).await,
            Step::Refuse(why) => Err(ApiError::Refused(format!(
                "{key} in the lower cluster is left alone: {why}"
            ))),
            Step::PatchLower(patch) => {
                let patched: Value = api::merge(lower, &self.claims_below(key), name, &patch).await?;
                self.made(key, &patched);
                Ok(())
            }
            Step::PatchVolume(name, patch) => {
                api::merge::<Value>(upper, VOLUMES, &name, &patch).await.map(drop)
            }
            Step::PatchStatus(patch) => {
                let path = format!("{name}/status");
                api::merge::<Value>(upper, &Self::claims_above(key), &path, &patch)
                    .await
                    .map(drop)
            }
            Step::DeleteLower(uid) => api::delete(lower, &self.claims_below(key), name, &uid, None).await,
            Step::DeleteVolume(name, uid) => api::delete(upper, VOLUMES, &name, &uid, None).await,
        }
    }

    /// The StorageClass of an upper claim; null if it has none.
    async fn class(&self, claim: &Value) -> Result<Value, ApiError> {
        match claim["spec"]["storageClassName"].as_str() {
            Some(name) if !name.is_empty() => Ok(api::get(&self.context.upper, CLASSES, name)
                .await?
                .unwrap_or_default()),
            _ => Ok(Value::Null),
        }
    }

    async fn provide(&self, key: &ObjectKey, claim: &Value) -> Result<(), ApiError> {
        let settings = &self.context.settings;
        let class = self.class(claim).await?;
        let below = settings.below(&key.key.namespace);
        let volume =
            volume::for_claim(claim, &class, &settings.node_name, &below).map_err(|error| refused(&error))?;
        match api::create::<Value>(&self.context.upper, VOLUMES, &volume).await {
            Err(ApiError::Conflict(_)) => Err(ApiError::Refused(format!(
                "volume {} of the upper cluster is not ours and is left alone; delete it",
                volume::name(claim)
            ))),
            made => made.map(drop),
        }
    }

    async fn create(&self, key: &ObjectKey, claim: &Value) -> Result<(), ApiError> {
        let settings = &self.context.settings;
        let class = self.class(claim).await?;
        let below = settings.below(&key.key.namespace);
        let class = claim::lower_class(claim, &class);
        let mut copy = claim::to_lower(claim, class, &settings.origin_cluster, &below)
            .map_err(|error| refused(&error))?;
        copy["metadata"]["labels"][names::ORIGIN_NODE] = settings.node_name.as_str().into();
        match api::create::<Value>(&self.context.lower, &self.claims_below(key), &copy).await {
            Ok(made) => {
                self.made(key, &made);
                Ok(())
            }
            // Whose it is is looked at next.
            Err(ApiError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The lower claim is there; the watch will show the same.
    fn made(&self, key: &ObjectKey, claim: &Value) {
        let text = |value: &Value| value.as_str().unwrap_or_default().into();
        let side = Side {
            uid: text(&claim["metadata"]["uid"]),
            version: text(&claim["metadata"]["labels"][names::ORIGIN_UID]),
            ours: true,
        };
        let mut state = self.context.shared.lock();
        self.context.shared.set_lower(&mut state, key, Some(side));
    }
}

fn refused(error: &TranslateError) -> ApiError {
    ApiError::Refused(error.to_string())
}
