//! Why an upper pod has no lower pod, as its status tells it.

use serde_json::{Value, json};

use crate::refs::RefKind;

/// Something that keeps a pod from running below. The pod stays Pending: every one of these can pass.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// A pod that is not ours has the name.
    #[error(
        "pod {namespace}/{name} in the lower cluster does not belong to this pod and is left alone; delete or rename one of them"
    )]
    ForeignNamesake {
        /// Namespace of the foreign pod.
        namespace: String,
        /// Its name.
        name: String,
    },
    /// The pod is of a kind that is not run below.
    #[error("{what} are not run by virtual nodes")]
    NotOffloaded {
        /// The kind, in the plural: `DaemonSet pods`, `pods of namespace kube-system`.
        what: String,
    },
    /// A mandatory object does not exist in the upper cluster. The text is a kubelet's, which people search for.
    #[error("{} {name:?} not found", kind.as_str().to_lowercase())]
    Missing {
        /// Its kind.
        kind: RefKind,
        /// Its name.
        name: String,
    },
    /// Something that the pod needs could not be made or read.
    #[error("{what}: {error}")]
    Dependency {
        /// Kind and name.
        what: String,
        /// What failed.
        error: String,
    },
    /// The pod must not run beside another of its owner, which is being deleted and may still run.
    #[error("pod {pod} is not known to be gone yet, and this one must not run beside it (never-duplicate)")]
    Predecessor {
        /// Name of the other pod.
        pod: String,
    },
    /// The pod cannot be translated, or the lower cluster refuses it.
    #[error("{error}")]
    Refused {
        /// The refusal, as the lower cluster or the translation words it.
        error: String,
    },
}

// === impl Problem ===

impl Problem {
    /// Reason for the status and for the event; for missing objects those of virtual-kubelet.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ForeignNamesake { .. } => "ForeignNamesake",
            Self::NotOffloaded { .. } => "NotOffloaded",
            Self::Missing {
                kind: RefKind::ConfigMap,
                ..
            } => "MandatoryConfigMapNotFound",
            Self::Missing {
                kind: RefKind::Secret,
                ..
            } => "MandatorySecretNotFound",
            Self::Missing {
                kind: RefKind::PersistentVolumeClaim,
                ..
            } => "PersistentVolumeClaimNotFound",
            Self::Dependency { .. } => "DependencyFailed",
            Self::Predecessor { .. } => "WaitingForPredecessor",
            Self::Refused { .. } => "ProviderFailed",
        }
    }

    /// What the upper status should say; an argument for [`patch`](super::patch).
    #[must_use]
    pub fn status(&self) -> Value {
        json!({"phase": "Pending", "reason": self.reason(), "message": self.to_string()})
    }
}
