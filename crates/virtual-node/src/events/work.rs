//! Shows one event after another.

use std::time::Instant;

use serde_json::Value;

use tensile_core::translate::event::{self, Subject};
use tensile_runtime::key::Key;
use tensile_runtime::queue::Outcome;

use crate::api::{self, ApiError};
use crate::context::Context;

/// Works on events.
#[derive(Clone)]
pub struct Worker {
    context: Context,
    since: Instant,
}

// === impl Worker ===

impl Worker {
    /// A worker for one virtual node.
    #[must_use]
    pub fn new(context: Context) -> Self {
        Self {
            context,
            since: Instant::now(),
        }
    }

    /// Shows the lower event at `key`, if it is about a pod of ours that may cost a write.
    pub async fn work(&self, key: Key) -> Outcome {
        let Some(lower) = self.context.shared.lock().events.get(&key).cloned() else {
            return Outcome::Done;
        };
        if let Some((pod, uid)) = self.subject(&key.namespace, &lower) {
            match self.show(&lower, &pod, &uid).await {
                Err(ApiError::Transient(error)) => {
                    tracing::debug!(event = %key, error, "will be tried again");
                    return Outcome::Retry;
                }
                Err(error) => tracing::debug!(event = %key, %error, "event not shown"),
                Ok(()) => {}
            }
        }
        self.context.shared.lock().events.done(&key, &lower);
        Outcome::Done
    }

    /// The upper pod whose lower pod the event is about, and its UID; `None` if there is none or it had its share.
    fn subject(&self, namespace: &str, lower: &Value) -> Option<(Key, Box<str>)> {
        let mut state = self.context.shared.lock();
        let namespace = state.namespaces.above(namespace)?;
        let object = &lower["involvedObject"];
        let key = Key::new(namespace, object["name"].as_str()?);
        let entry = state.pods.get(&key).filter(|entry| entry.belongs())?;
        let about = entry.lower.as_ref().is_some_and(|pod| object["uid"] == *pod.uid);
        let uid = entry.upper.as_ref().filter(|_| about)?.uid.clone();
        state
            .events
            .may_cost(&uid, self.since.elapsed())
            .then_some((key, uid))
    }

    /// A repeat is most likely there already, a first one is not.
    async fn show(&self, lower: &Value, pod: &Key, uid: &str) -> Result<(), ApiError> {
        let events = api::collection(&pod.namespace, "events");
        let name = lower["metadata"]["name"].as_str().unwrap_or_default();
        let (upper, repeat) = (&self.context.upper, event::repeat(lower));
        if event::is_repeat(lower) {
            match api::merge::<Value>(upper, &events, name, &repeat).await {
                Err(ApiError::NotFound(_)) => {}
                sent => return sent.map(drop),
            }
        }
        let subject = Subject {
            namespace: &pod.namespace,
            name: &pod.name,
            uid,
            node_name: &self.context.settings.node_name,
        };
        let copy = event::to_upper(lower, &subject).map_err(|error| ApiError::Refused(error.to_string()))?;
        match api::create::<Value>(upper, &events, &copy).await {
            // Shown before we started.
            Err(ApiError::Conflict(_)) => Ok(()),
            sent => sent.map(drop),
        }
    }
}
