//! Makes Secrets with tokens and keeps them fresh.

use jiff::Timestamp;
use serde_json::Value;

use tensile_core::names;
use tensile_core::translate::service_account::tokens::{self, Content, Owner};
use tensile_runtime::key::Key;
use tensile_runtime::object::{Meta, Secrets};

use super::{Issued, Issuer, Step, Token, decide};
use crate::api::{self, ApiError};
use crate::context::Context;
use crate::pods::Entry;
use crate::shared::State;

/// Keeps the Secrets of one virtual node.
#[derive(Clone)]
pub struct Keeper {
    context: Context,
    /// Asks for tokens.
    pub issuer: Issuer,
}

// === impl Keeper ===

impl Keeper {
    /// For one virtual node.
    #[must_use]
    pub fn new(context: Context) -> Self {
        let issuer = Issuer::new(context.clone());
        Self { context, issuer }
    }

    /// What the Secret of a pod needs.
    #[must_use]
    pub fn decide(&self, state: &State, entry: &Entry) -> Step {
        let token = entry
            .upper
            .as_ref()
            .and_then(|upper| state.tokens.get(&upper.uid));
        decide(entry, token, Timestamp::now())
    }

    /// Does what the Secret of the pod at `key` needs.
    ///
    /// # Errors
    /// When one of the clusters refuses or does not answer.
    pub async fn keep(&self, key: &Key, step: Step) -> Result<(), ApiError> {
        let secret_uid = match step {
            Step::Nothing => return Ok(()),
            Step::Make => None,
            Step::Renew(uid) => Some(uid),
        };
        let pods = api::collection(&key.namespace, "pods");
        let upper: Option<Value> = api::get(&self.context.upper, &pods, &key.name).await?;
        let lower_uid = {
            let state = self.context.shared.lock();
            let entry = state.pods.get(key).filter(|entry| entry.belongs());
            entry.and_then(|entry| {
                Some((
                    entry.lower.as_ref()?.uid.clone(),
                    entry.upper.as_ref()?.uid.clone(),
                ))
            })
        };
        // Otherwise it was replaced meanwhile, and the watch tells.
        if let (Some(upper), Some((lower_uid, upper_uid))) = (upper, lower_uid)
            && upper["metadata"]["uid"] == *upper_uid
            && let Some(issued) = self.issuer.issue(&upper).await?
        {
            self.write(key, &upper, &lower_uid, secret_uid.as_deref(), &issued)
                .await?;
        }
        Ok(())
    }

    /// Makes the Secret for the upper pod and its lower pod, or renews the one with `secret_uid`.
    ///
    /// # Errors
    /// When the lower cluster refuses or does not answer.
    pub async fn write(
        &self,
        key: &Key,
        upper: &Value,
        lower_uid: &str,
        secret_uid: Option<&str>,
        issued: &Issued,
    ) -> Result<(), ApiError> {
        let (settings, lower) = (&self.context.settings, &self.context.lower);
        let namespace = settings.below(&key.namespace);
        let refresh_at = issued.refresh_at.to_string();
        let content = Content {
            tokens: &issued.tokens,
            ca: issued.ca.as_deref(),
            refresh_at: &refresh_at,
        };
        let owner = Owner {
            origin_cluster: &settings.origin_cluster,
            node_name: &settings.node_name,
            lower_namespace: &namespace,
            lower_uid,
        };
        let pod_uid = upper["metadata"]["uid"].as_str().unwrap_or_default();
        let (secrets, name) = (
            api::collection(&namespace, "secrets"),
            tokens::secret_name(pod_uid),
        );
        let written: Meta<Secrets> = if let Some(uid) = secret_uid {
            api::merge(lower, &secrets, &name, &content.refresh(uid)).await?
        } else {
            let secret = tokens::secret(upper, &owner, &content)
                .map_err(|error| ApiError::Refused(error.to_string()))?;
            match api::create(lower, &secrets, &secret).await {
                // The watch has not shown it yet.
                Err(ApiError::Conflict(_)) => {
                    let uid = self.known(&secrets, &name).await?;
                    api::merge(lower, &secrets, &name, &content.refresh(&uid)).await?
                }
                made => made?,
            }
        };
        let uid = written.metadata.uid.as_deref().unwrap_or_default().into();
        let refresh_at = issued.refresh_at;
        let mut state = self.context.shared.lock();
        state.tokens.insert(pod_uid, Token { uid, refresh_at });
        Ok(())
    }

    /// UID of the Secret that has the name already, if it is ours.
    async fn known(&self, secrets: &str, name: &str) -> Result<String, ApiError> {
        let found: Option<Meta<Secrets>> = api::get(&self.context.lower, secrets, name).await?;
        let found =
            found.ok_or_else(|| ApiError::Transient(format!("secret {name} was there and is gone")))?;
        let origin = found.metadata.labels.as_ref();
        let origin = origin.and_then(|labels| labels.get(names::ORIGIN_CLUSTER));
        if origin != Some(&self.context.settings.origin_cluster) {
            return Err(ApiError::Refused(format!(
                "secret {name} in the lower cluster is not ours and is left alone; delete it"
            )));
        }
        Ok(found.metadata.uid.unwrap_or_default())
    }
}
