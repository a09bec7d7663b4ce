//! Upper objects to the lower objects that stand for them.
//!
//! An object is a [`serde_json::Value`] on its whole way: known paths are edited, every other field survives,
//! also one that a newer API server added. What a step changes and why is said in its module:
//!
//! | module | what it decides |
//! |---|---|
//! | [`pod`] | the order of the steps, the [`Context`](pod::Context) they share |
//! | `metadata` | identity, labels, annotations, the way back to the origin |
//! | `scheduling` | what places the pod below |
//! | [`service_account`] | the pod's identity towards an API server |
//! | `downward` | downward API in environment and volumes |
//! | `environment` | service environment variables |
//! | `volumes` | volume kinds that cannot cross clusters |
//! | `lower_only` | fields that the lower cluster computes itself |
//! | [`update`] | what a later change of the upper pod changes below |
//! | [`object`] | ConfigMaps, Secrets, Namespaces |
//! | [`namespace`] | what a namespace is called below |
//! | [`service`] | Services and EndpointSlices |
//! | [`service_env`] | what the environment says of services |
//! | [`claim`], [`volume`] | PersistentVolumeClaims, and the upper volumes that stand for lower ones |
//! | [`event`] | lower events on upper pods |

use serde_json::Value;

use crate::names;
use crate::stash::StashError;

pub mod claim;
mod downward;
mod environment;
pub mod event;
mod intent;
mod json;
mod lower_only;
mod metadata;
pub mod namespace;
pub mod object;
pub mod pod;
mod scheduling;
pub mod service;
pub mod service_account;
pub mod service_env;
pub mod update;
pub mod volume;
mod volumes;

pub use intent::fingerprint;
pub(crate) use service_account::tokens::ROOT_CA;

/// Why an upper pod has no lower pod. None of these passes by itself: the pod, or the configuration, must change.
#[derive(Debug, thiserror::Error)]
pub enum TranslateError {
    /// The object lacks what every pod of an API server has.
    #[error("{path} of the upper pod is missing or of the wrong type")]
    Malformed {
        /// Where in the object.
        path: &'static str,
    },
    /// The stash cannot be read.
    #[error("cannot read the scheduling constraints of the pod")]
    Stash(#[source] StashError),
    /// Nobody knows whose service account the pod should have.
    #[error(
        "annotation {} is {value}; it must be upper, lower or none",
        names::SERVICE_ACCOUNT
    )]
    ServiceAccount {
        /// What the annotation says.
        value: String,
    },
    /// The configuration of this lower cluster does not allow what the object asks for, or nothing could.
    #[error(
        "{field} is not allowed in this lower cluster; remove it, or allow it where the cluster is configured"
    )]
    Refused {
        /// The field, and the object unless it is the pod.
        field: String,
    },
}

/// Something that the user should learn once about the lower pod: it differs from what the upper pod asks for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Note {
    /// Dynamic resource allocation cannot cross clusters.
    #[error("resource claims are bound to nodes of one cluster and are left out of the lower pod: {}", names.join(", "))]
    ResourceClaims {
        /// The claims of the pod.
        names: Vec<String>,
    },
    /// A kind of projected volume source that has no meaning in another cluster.
    #[error("volume {volume}: source {source_kind} has no meaning in the lower cluster and is left out")]
    ProjectedSource {
        /// Name of the volume.
        volume: String,
        /// The member of the projected source, such as `clusterTrustBundle`.
        source_kind: &'static str,
    },
    /// A gang-scheduling or eviction member that refers to objects of the upper cluster.
    #[error("{field} refers to objects of the upper cluster and is left out of the lower pod")]
    Dropped {
        /// The field of the pod.
        field: &'static str,
    },
}

// === impl Note ===

impl Note {
    /// The reason of the event that tells the user.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ResourceClaims { .. } => "ResourceClaimsNotOffloaded",
            Self::ProjectedSource { .. } => "VolumeSourceNotOffloaded",
            Self::Dropped { .. } => "FieldNotOffloaded",
        }
    }
}

/// The object at `key`, which every object of an API server has.
fn member<'a>(object: &'a Value, key: &'static str) -> Result<&'a json::Object, TranslateError> {
    object
        .get(key)
        .and_then(Value::as_object)
        .ok_or(TranslateError::Malformed { path: key })
}
