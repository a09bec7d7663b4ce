//! The few requests that workers send, each with a deadline.

use std::future::Future;
use std::time::Duration;

use kube::Client;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use serde::de::DeserializeOwned;
use serde_json::Value;

use tensile_runtime::key::Key;

use crate::pods::{LowerPod, UpperPod};

/// Longest time for one request; kube-apiserver itself ends requests after 60 s (`--request-timeout`).
const DEADLINE: Duration = Duration::from_secs(30);

/// Why a request failed, as far as it matters for what comes next.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// The object does not exist, or its namespace does not.
    #[error("not found: {0}")]
    NotFound(String),
    /// The name is taken, or a precondition does not hold.
    #[error("conflict: {0}")]
    Conflict(String),
    /// The server understood and refuses; the same request will be refused again unless something changes.
    #[error("{0}")]
    Refused(String),
    /// No answer, or a failure of the server: worth trying again.
    #[error("{0}")]
    Transient(String),
}

// === impl ApiError ===

impl ApiError {
    /// All that [`Self::kind`] can be.
    pub const KINDS: [&str; 4] = ["not-found", "conflict", "refused", "unavailable"];

    /// The kind of failure, for metrics.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotFound(_) => Self::KINDS[0],
            Self::Conflict(_) => Self::KINDS[1],
            Self::Refused(_) => Self::KINDS[2],
            Self::Transient(_) => Self::KINDS[3],
        }
    }
}

impl From<kube::Error> for ApiError {
    fn from(error: kube::Error) -> Self {
        let kube::Error::Api(status) = &error else {
            return Self::Transient(error.to_string());
        };
        let message = status.message.clone();
        match status.code {
            404 => Self::NotFound(message),
            409 => Self::Conflict(message),
            400 | 401 | 403 | 405 | 410 | 413 | 422 => Self::Refused(message),
            _ => Self::Transient(message),
        }
    }
}

async fn within_deadline<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, ApiError> {
    match tokio::time::timeout(DEADLINE, request).await {
        Ok(answer) => answer.map_err(ApiError::from),
        Err(_) => Err(ApiError::Transient(format!(
            "no answer within {} s",
            DEADLINE.as_secs()
        ))),
    }
}

/// Creates any object; `collection` is the path of its collection.
///
/// # Errors
/// As the server answers.
pub async fn create<T: DeserializeOwned>(
    client: &Client,
    collection: &str,
    object: &Value,
) -> Result<T, ApiError> {
    let body = serde_json::to_vec(object).map_err(|error| ApiError::Refused(error.to_string()))?;
    let request = kube::core::Request::new(collection)
        .create(&PostParams::default(), body)
        .map_err(|error| ApiError::Refused(error.to_string()))?;
    within_deadline(client.request(request)).await
}

/// Replaces any object; `collection` is the path of its collection.
///
/// # Errors
/// As the server answers.
pub async fn replace<T: DeserializeOwned>(
    client: &Client,
    collection: &str,
    name: &str,
    object: &Value,
) -> Result<T, ApiError> {
    let body = serde_json::to_vec(object).map_err(|error| ApiError::Refused(error.to_string()))?;
    let request = kube::core::Request::new(collection)
        .replace(name, &PostParams::default(), body)
        .map_err(|error| ApiError::Refused(error.to_string()))?;
    within_deadline(client.request(request)).await
}

/// Merges a patch into any object; `collection` is the path of its collection. With a UID in the patch, another
/// object of that name is a conflict.
///
/// # Errors
/// As the server answers.
pub async fn merge<T: DeserializeOwned>(
    client: &Client,
    collection: &str,
    name: &str,
    patch: &Value,
) -> Result<T, ApiError> {
    let request = kube::core::Request::new(collection)
        .patch(name, &PatchParams::default(), &Patch::Merge(patch))
        .map_err(|error| ApiError::Refused(error.to_string()))?;
    within_deadline(client.request(request)).await
}

/// Reads any object, `None` if it does not exist.
///
/// # Errors
/// As the server answers.
pub async fn get<T: DeserializeOwned>(
    client: &Client,
    collection: &str,
    name: &str,
) -> Result<Option<T>, ApiError> {
    let request = kube::core::Request::new(collection)
        .get(name, &kube::api::GetParams::default())
        .map_err(|error| ApiError::Refused(error.to_string()))?;
    match within_deadline(client.request(request)).await {
        Err(ApiError::NotFound(_)) => Ok(None),
        answer => answer.map(Some),
    }
}

/// Deletes an object with this UID; it is no error if it is gone.
///
/// # Errors
/// As the server answers; a conflict means that another object has the name now.
pub async fn delete(
    client: &Client,
    collection: &str,
    name: &str,
    uid: &str,
    grace: Option<i64>,
) -> Result<(), ApiError> {
    let params = DeleteParams {
        grace_period_seconds: grace.and_then(|grace| u32::try_from(grace).ok()),
        preconditions: Some(Preconditions {
            uid: Some(uid.to_owned()),
            resource_version: None,
        }),
        ..DeleteParams::default()
    };
    let request = kube::core::Request::new(collection)
        .delete(name, &params)
        .map_err(|error| ApiError::Refused(error.to_string()))?;
    match within_deadline(client.request::<serde::de::IgnoredAny>(request)).await {
        Ok(_) | Err(ApiError::NotFound(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Writes a pod's status by strategic merge patch.
///
/// # Errors
/// As the server answers; a conflict means that another pod has the name now.
pub async fn patch_status(client: &Client, pod: &Key, patch: &Value) -> Result<UpperPod, ApiError> {
    let pods: Api<UpperPod> = Api::namespaced(client.clone(), &pod.namespace);
    within_deadline(pods.patch_status(&pod.name, &PatchParams::default(), &Patch::Strategic(patch))).await
}

/// Merges changes into a lower pod, or into a subresource of it (empty for the pod itself).
///
/// # Errors
/// As the server answers.
pub async fn patch_pod(
    client: &Client,
    pod: &Key,
    subresource: &str,
    patch: &Value,
) -> Result<LowerPod, ApiError> {
    let pods: Api<LowerPod> = Api::namespaced(client.clone(), &pod.namespace);
    let (params, patch) = (PatchParams::default(), Patch::Strategic(patch));
    match subresource {
        "" => within_deadline(pods.patch(&pod.name, &params, &patch)).await,
        _ => within_deadline(pods.patch_subresource(subresource, &pod.name, &params, &patch)).await,
    }
}

/// Path of the collection of a namespaced core kind.
#[must_use]
pub fn collection(namespace: &str, plural: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/{plural}")
}

/// Reads from a path, query included.
///
/// # Errors
/// As the server answers.
pub async fn read<T: DeserializeOwned>(client: &Client, path: &str) -> Result<T, ApiError> {
    read_as(client, path, "application/json").await
}

/// Reads from a path, query included, in the form that the header `accept` asks for.
///
/// # Errors
/// As the server answers.
pub async fn read_as<T: DeserializeOwned>(client: &Client, path: &str, accept: &str) -> Result<T, ApiError> {
    let request = http::Request::get(path)
        .header(http::header::ACCEPT, accept)
        .body(Vec::new())
        .map_err(|error| ApiError::Refused(error.to_string()))?;
    within_deadline(client.request(request)).await
}
