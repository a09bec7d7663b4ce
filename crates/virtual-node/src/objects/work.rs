//! Makes, renews and removes copies.

use serde::Deserialize;
use serde_json::Value;

use tensile_core::refs::{self, RefKind};
use tensile_core::{names, translate};
use tensile_runtime::object::{Meta, Namespaces};
use tensile_runtime::queue::Outcome;

use super::{Kind, ObjectKey, Side, Step, decide};
use crate::api::{self, ApiError};
use crate::context::Context;

/// Works on objects that pods need.
#[derive(Clone)]
pub struct Worker {
    context: Context,
}

/// Pods of a namespace, as far as their references go.
#[derive(Deserialize)]
struct PodSpecs {
    items: Vec<PodSpec>,
}

#[derive(Deserialize)]
struct PodSpec {
    #[serde(default)]
    spec: Value,
}

// === impl Worker ===

impl Worker {
    /// A worker for one virtual node.
    #[must_use]
    pub fn new(context: Context) -> Self {
        Self { context }
    }

    /// Brings the object at `key` as far as it gets now.
    pub async fn work(&self, key: ObjectKey) -> Outcome {
        let step = {
            let state = self.context.shared.lock();
            state
                .objects
                .get(&key)
                .map_or(Step::Wait, |object| decide(&key, object))
        };
        let done = match step {
            Step::Wait => Ok(()),
            Step::Create => self.create(&key).await,
            Step::Renew(uid) => self.renew(&key, &uid).await,
            Step::Remove(uid) => self.remove(&key, &uid).await,
        };
        let Err(error) = done else { return Outcome::Done };
        self.context.metrics.object_retries.inc();
        tracing::debug!(object = %key, %error, "will be tried again");
        if !matches!(error, ApiError::Transient(_)) {
            let woken = self
                .context
                .shared
                .lock()
                .objects
                .set_problem(&key, &error.to_string());
            self.context.shared.wake(woken);
        }
        Outcome::Retry
    }

    async fn create(&self, key: &ObjectKey) -> Result<(), ApiError> {
        let Some(copy) = self.copy(key).await? else {
            return Ok(());
        };
        match api::create::<Meta<Namespaces>>(&self.context.lower, &collection(key), &copy).await {
            Ok(created) => {
                self.made(key, &created, &copy);
                Ok(())
            }
            Err(ApiError::Conflict(_)) => self.name_taken(key, &copy).await,
            Err(error) => Err(error),
        }
    }

    /// What the original says now, translated; `None` when it is gone.
    async fn copy(&self, key: &ObjectKey) -> Result<Option<Value>, ApiError> {
        let settings = &self.context.settings;
        let upper = api::get::<Value>(&self.context.upper, &collection(key), &key.key.name).await?;
        let Some(upper) = upper else { return Ok(None) };
        let kind = match key.kind {
            Kind::Namespace => {
                let uid = upper["metadata"]["uid"].as_str().unwrap_or_default();
                let name = &key.key.name;
                return Ok(Some(translate::object::namespace(
                    name,
                    name,
                    uid,
                    &settings.origin_cluster,
                )));
            }
            Kind::ConfigMap => RefKind::ConfigMap,
            Kind::Secret => RefKind::Secret,
        };
        let mut copy =
            translate::object::to_lower(&upper, kind, &settings.origin_cluster, &key.key.namespace)
                .map_err(|error| ApiError::Refused(error.to_string()))?;
        copy["metadata"]["labels"][names::ORIGIN_NODE] = settings.node_name.as_str().into();
        Ok(Some(copy))
    }

    /// The copy is there; the watch will show the same.
    fn made(&self, key: &ObjectKey, made: &Meta<Namespaces>, copy: &Value) {
        let uid = made.metadata.uid.as_deref().unwrap_or_default().into();
        let version = copy["metadata"]["annotations"][names::INTENT]
            .as_str()
            .unwrap_or_default()
            .into();
        let side = Side {
            uid,
            version,
            ours: true,
        };
        let woken = self.context.shared.lock().objects.set_lower(key, Some(side));
        self.context.shared.wake(woken);
    }

    /// An object with this name is there already: ours from before, or somebody else's.
    async fn name_taken(&self, key: &ObjectKey, copy: &Value) -> Result<(), ApiError> {
        let found =
            api::get::<Meta<Namespaces>>(&self.context.lower, &collection(key), &key.key.name).await?;
        let Some(found) = found else {
            return Err(ApiError::Transient("it was there and is gone".to_owned()));
        };
        if key.kind == Kind::Namespace {
            self.made(key, &found, copy);
            return Ok(());
        }
        if !self.is_ours(&found) {
            return Err(ApiError::Conflict(format!(
                "{key} in the lower cluster is not ours and is left alone; delete or rename one of them"
            )));
        }
        let uid = found.metadata.uid.as_deref().unwrap_or_default();
        self.renew(key, uid).await
    }

    fn is_ours(&self, found: &Meta<Namespaces>) -> bool {
        let labels = found.metadata.labels.as_ref();
        labels.and_then(|labels| labels.get(names::ORIGIN_CLUSTER))
            == Some(&self.context.settings.origin_cluster)
    }

    async fn renew(&self, key: &ObjectKey, uid: &str) -> Result<(), ApiError> {
        let Some(mut copy) = self.copy(key).await? else {
            return Ok(());
        };
        // The server refuses a replacement whose UID is not the one it has.
        copy["metadata"]["uid"] = uid.into();
        match api::replace::<Meta<Namespaces>>(&self.context.lower, &collection(key), &key.key.name, &copy)
            .await
        {
            Ok(made) => {
                self.made(key, &made, &copy);
                Ok(())
            }
            // Gone meanwhile: the watch tells, and it is made anew.
            Err(ApiError::NotFound(_)) => Ok(()),
            // Immutable, or of another type: the original was replaced, so the copy is too.
            Err(ApiError::Refused(_)) => {
                api::delete(&self.context.lower, &collection(key), &key.key.name, uid, None).await?;
                let woken = self.context.shared.lock().objects.set_lower(key, None);
                self.context.shared.wake(woken);
                self.context.shared.objects.push(key.clone());
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Removes a copy, if a live look agrees that its original is gone or that no lower pod of ours needs it.
    async fn remove(&self, key: &ObjectKey, uid: &str) -> Result<(), ApiError> {
        let original =
            api::get::<Meta<Namespaces>>(&self.context.upper, &collection(key), &key.key.name).await?;
        if original.is_some() && self.needed_below(key).await? {
            return Err(ApiError::Transient("a lower pod still needs it".to_owned()));
        }
        match api::delete(&self.context.lower, &collection(key), &key.key.name, uid, None).await {
            Ok(()) | Err(ApiError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Pods of other virtual nodes of this upper cluster count as well.
    async fn needed_below(&self, key: &ObjectKey) -> Result<bool, ApiError> {
        let selector = format!(
            "{}={}",
            names::ORIGIN_CLUSTER,
            self.context.settings.origin_cluster
        );
        let path = format!(
            "{}?labelSelector={selector}",
            api::collection(&key.key.namespace, "pods")
        );
        let pods: PodSpecs = api::read(&self.context.lower, &path).await?;
        let needs = |pod: &PodSpec| {
            let references = refs::references(&pod.spec);
            references
                .iter()
                .any(|reference| ObjectKey::of(&key.key.namespace, reference).as_ref() == Some(key))
        };
        Ok(pods.items.iter().any(needs))
    }
}

fn collection(key: &ObjectKey) -> String {
    match key.kind {
        Kind::Namespace => "/api/v1/namespaces".to_owned(),
        kind => api::collection(&key.key.namespace, kind.plural()),
    }
}
