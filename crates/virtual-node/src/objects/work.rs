//! Makes, renews and removes copies.

use std::time::Instant;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use tensile_core::names;
use tensile_core::refs::{self, RefKind};
use tensile_core::translate::{TranslateError, object, service};
use tensile_runtime::key::Key;
use tensile_runtime::object::{Meta, Namespaces, Slim};
use tensile_runtime::queue::Outcome;
use tensile_runtime::recorder::Note;

use super::empty::Emptiness;
use super::{Kind, ObjectKey, Side, Step, decide};
use crate::api::{self, ApiError};
use crate::claims;
use crate::context::Context;
use crate::shared::State;

/// A copy as the lower cluster returns it; of a Service the spec has the address that the cluster gave it.
type Made = Slim<Namespaces, Value, IgnoredAny>;

/// Works on objects that pods need.
#[derive(Clone)]
pub struct Worker {
    context: Context,
    claims: claims::Worker,
    emptiness: Emptiness,
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
        let claims = claims::Worker::new(context.clone());
        Self {
            context,
            claims,
            emptiness: Emptiness::default(),
        }
    }

    /// Brings the object at `key` as far as it gets now.
    pub async fn work(&self, key: ObjectKey) -> Outcome {
        if key.kind == Kind::PersistentVolumeClaim {
            let done = self.claims.work(&key).await;
            return self.told(&key, done);
        }
        let step = {
            let state = self.context.shared.lock();
            let objects = &state.objects;
            let object = objects.get(&key);
            object.map_or(Step::Wait, |object| decide(&key, object, objects.is_needed(&key)))
        };
        if key.kind == Kind::Namespace
            && matches!(step, Step::Remove(_))
            && let Some(rest) = self.context.shared.lock().objects.rest(&key, Instant::now())
        {
            return Outcome::After(rest);
        }
        let done = match step {
            Step::Wait => Ok(()),
            Step::Create => self.create(&key).await,
            Step::Renew(uid) => self.renew(&key, &uid).await,
            Step::Remove(uid) => self.remove(&key, &uid).await,
        };
        self.told(&key, done)
    }

    /// Tells the pods that wait for the object when it cannot be made.
    fn told(&self, key: &ObjectKey, done: Result<(), ApiError>) -> Outcome {
        let Err(error) = done else { return Outcome::Done };
        let retries = &self.context.metrics.object_retries;
        retries.with_label_values(&[error.kind()]).inc();
        tracing::debug!(object = %key, %error, "will be tried again");
        if !matches!(error, ApiError::Transient(_)) {
            let mut state = self.context.shared.lock();
            let woken = state.objects.set_problem(key, &error.to_string());
            if key.kind == Kind::Service {
                woken
                    .iter()
                    .for_each(|pod| self.note_unmirrored(&state, pod, &error));
            }
            self.context.shared.wake(woken);
        }
        Outcome::Retry
    }

    /// A pod runs also without a Service of its namespace, and says so.
    fn note_unmirrored(&self, state: &State, pod: &Key, error: &ApiError) {
        let upper = state.pods.get(pod).and_then(|entry| entry.upper.as_ref());
        if let Some(upper) = upper {
            self.context.recorder.note(Note {
                pod: pod.clone(),
                uid: upper.uid.to_string(),
                warning: true,
                reason: "ServiceNotMirrored",
                action: "Offload",
                message: error.to_string(),
            });
        }
    }

    /// Path of the collection that holds the copy, and the copy's name.
    fn below(&self, key: &ObjectKey) -> (String, String) {
        let settings = &self.context.settings;
        match key.kind {
            Kind::Namespace => (
                collection(key.kind, ""),
                settings.below(&key.key.name).into_owned(),
            ),
            kind => (
                collection(kind, &settings.below(&key.key.namespace)),
                key.key.name.to_string(),
            ),
        }
    }

    async fn create(&self, key: &ObjectKey) -> Result<(), ApiError> {
        let Some(copy) = self.copy(key).await? else {
            return Ok(());
        };
        match api::create::<Made>(&self.context.lower, &self.below(key).0, &copy).await {
            Ok(created) => {
                self.made(key, &created, &copy);
                Ok(())
            }
            Err(ApiError::Conflict(_)) => self.name_taken(key, &copy).await,
            Err(error) => Err(error),
        }
    }

    /// The original, `None` when it is gone.
    async fn original(&self, key: &ObjectKey) -> Result<Option<Value>, ApiError> {
        let path = collection(key.kind, &key.key.namespace);
        api::get(&self.context.upper, &path, &key.key.name).await
    }

    /// What the original says now, translated; `None` when it is gone.
    async fn copy(&self, key: &ObjectKey) -> Result<Option<Value>, ApiError> {
        let Some(upper) = self.original(key).await? else {
            return Ok(None);
        };
        let settings = &self.context.settings;
        let origin = &settings.origin_cluster;
        let namespace = settings.below(&key.key.namespace);
        let copy = match key.kind {
            Kind::Namespace => {
                let uid = upper["metadata"]["uid"].as_str().unwrap_or_default();
                let name = &key.key.name;
                Ok(object::namespace(&settings.below(name), name, uid, origin))
            }
            Kind::ConfigMap => object::to_lower(&upper, RefKind::ConfigMap, origin, &namespace),
            Kind::Secret => object::to_lower(&upper, RefKind::Secret, origin, &namespace),
            Kind::PersistentVolumeClaim => return Ok(None),
            Kind::Service => service::to_lower(&upper, origin, &namespace),
            Kind::EndpointSlice => service::slice_to_lower(&upper, origin, &namespace),
        };
        let mut copy = copy.map_err(|error: TranslateError| ApiError::Refused(error.to_string()))?;
        if key.kind != Kind::Namespace {
            copy["metadata"]["labels"][names::ORIGIN_NODE] = settings.node_name.as_str().into();
        }
        Ok(Some(copy))
    }

    /// The copy is there; the watch will show the same.
    fn made(&self, key: &ObjectKey, made: &Made, copy: &Value) {
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
        let mut state = self.context.shared.lock();
        if key.kind == Kind::Service {
            let copy = json!({"metadata": copy["metadata"], "spec": made.spec});
            state.objects.services.set(&key.key, Some(&copy));
        }
        self.context.shared.set_lower(&mut state, key, Some(side));
    }

    /// An object with this name is there already: ours from before, or somebody else's.
    async fn name_taken(&self, key: &ObjectKey, copy: &Value) -> Result<(), ApiError> {
        let (collection, name) = self.below(key);
        let found = api::get::<Made>(&self.context.lower, &collection, &name).await?;
        let Some(found) = found else {
            return Err(ApiError::Transient("it was there and is gone".to_owned()));
        };
        if key.kind == Kind::Namespace {
            self.made(key, &found, copy);
            return Ok(());
        }
        if !self.is_ours(found.metadata.labels.as_ref()) {
            return Err(ApiError::Conflict(format!(
                "{key} in the lower cluster is not ours and is left alone; delete or rename one of them"
            )));
        }
        let uid = found.metadata.uid.as_deref().unwrap_or_default();
        self.renew(key, uid).await
    }

    fn is_ours(&self, labels: Option<&std::collections::BTreeMap<String, String>>) -> bool {
        labels.and_then(|labels| labels.get(names::ORIGIN_CLUSTER))
            == Some(&self.context.settings.origin_cluster)
    }

    async fn renew(&self, key: &ObjectKey, uid: &str) -> Result<(), ApiError> {
        let Some(mut copy) = self.copy(key).await? else {
            return Ok(());
        };
        // The server refuses a replacement whose UID is not the one it has.
        copy["metadata"]["uid"] = uid.into();
        let (collection, name) = self.below(key);
        match api::replace::<Made>(&self.context.lower, &collection, &name, &copy).await {
            Ok(made) => {
                self.made(key, &made, &copy);
                Ok(())
            }
            // Gone meanwhile: the watch tells, and it is made anew.
            Err(ApiError::NotFound(_)) => Ok(()),
            // Immutable, or of another type: the original was replaced, so the copy is too.
            Err(ApiError::Refused(_)) => {
                api::delete(&self.context.lower, &collection, &name, uid, None).await?;
                let mut state = self.context.shared.lock();
                self.context.shared.set_lower(&mut state, key, None);
                self.context.shared.objects.push(key.clone());
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Removes a copy, if a live look agrees that its original is gone or that no lower pod of ours needs it.
    async fn remove(&self, key: &ObjectKey, uid: &str) -> Result<(), ApiError> {
        if key.kind == Kind::Namespace {
            if !self.may_go(key).await? {
                // Whatever leaves the namespace has it looked at again.
                return Ok(());
            }
        } else if self.original(key).await?.is_some() && self.needed_below(key).await? {
            return Err(ApiError::Transient("a lower pod still needs it".to_owned()));
        }
        let (collection, name) = self.below(key);
        match api::delete(&self.context.lower, &collection, &name, uid, None).await {
            Ok(()) | Err(ApiError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether a lower namespace was made by us and has nothing in it.
    async fn may_go(&self, key: &ObjectKey) -> Result<bool, ApiError> {
        let (collection, name) = self.below(key);
        let found = api::get::<Meta<Namespaces>>(&self.context.lower, &collection, &name).await?;
        let ours = found.is_some_and(|found| {
            self.is_ours(found.metadata.labels.as_ref()) && found.metadata.deletion_timestamp.is_none()
        });
        Ok(ours && self.emptiness.is_empty(&self.context, &name).await?)
    }

    /// Pods of other virtual nodes of this upper cluster count as well.
    async fn needed_below(&self, key: &ObjectKey) -> Result<bool, ApiError> {
        let settings = &self.context.settings;
        if key.kind.is_of_namespace() && !settings.mirror_services {
            return Ok(false);
        }
        if key.kind == Kind::EndpointSlice && !self.service_is_ours(key).await? {
            return Ok(false);
        }
        let selector = format!("{}={}", names::ORIGIN_CLUSTER, settings.origin_cluster);
        let pods = api::collection(&settings.below(&key.key.namespace), "pods");
        let pods: PodSpecs =
            api::read(&self.context.lower, &format!("{pods}?labelSelector={selector}")).await?;
        if key.kind.is_of_namespace() {
            return Ok(!pods.items.is_empty());
        }
        let needs = |pod: &PodSpec| {
            let references = refs::references(&pod.spec);
            references
                .iter()
                .any(|reference| ObjectKey::of(&key.key.namespace, reference) == *key)
        };
        Ok(pods.items.iter().any(needs))
    }

    /// Whether the Service of an EndpointSlice has a copy below.
    async fn service_is_ours(&self, slice: &ObjectKey) -> Result<bool, ApiError> {
        let service = {
            let state = self.context.shared.lock();
            state.objects.get(slice).and_then(|slice| slice.service.clone())
        };
        let Some(service) = service else { return Ok(false) };
        let (collection, name) = self.below(&ObjectKey {
            kind: Kind::Service,
            key: Key::new(&slice.key.namespace, &service),
        });
        let found = api::get::<Meta<Namespaces>>(&self.context.lower, &collection, &name).await?;
        Ok(found.is_some_and(|found| self.is_ours(found.metadata.labels.as_ref())))
    }
}

fn collection(kind: Kind, namespace: &str) -> String {
    match kind {
        Kind::Namespace => "/api/v1/namespaces".to_owned(),
        Kind::EndpointSlice => format!("/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices"),
        kind => api::collection(namespace, kind.plural()),
    }
}
