//! What pods need beside themselves: namespaces, ConfigMaps and Secrets in the lower cluster, and the Services of
//! their namespaces with their EndpointSlices.
//!
//! Both sides are watched as metadata only; of our Services below, what the environment of pods says of them. A copy
//! is made when the first pod refers to it (or, of a Service, when the first pod is in its namespace), renewed when
//! the original changes, and removed with its last user. An object below that is not ours is left alone, and the pods
//! that would need its name say so. A namespace that we made goes when nothing is in it any more. Slices follow the copy of their Service, so that a foreign Service of that name
//! never gets endpoints of ours.

mod decide;
mod empty;
mod index;
mod kinds;
mod services;
mod work;

pub use decide::{Step, decide};
pub use index::{Index, Need, Object, Side};
pub use services::Services;
pub use work::Worker;

use std::fmt;

use tensile_core::refs::{RefKind, Reference};
use tensile_runtime::key::Key;

/// Kinds of objects that pods need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// The namespace of the lower pod; its key has only a name.
    Namespace,
    /// A ConfigMap.
    ConfigMap,
    /// A Secret.
    Secret,
    /// A claim; [`claims`](crate::claims) works on it.
    PersistentVolumeClaim,
    /// A Service.
    Service,
    /// Endpoints of a Service.
    EndpointSlice,
}

/// One such object.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: Kind,
    /// Its name, the same on both sides.
    pub key: Key,
}

// === impl Kind ===

impl Kind {
    /// As the API writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Namespace => "Namespace",
            Self::ConfigMap => "ConfigMap",
            Self::Secret => "Secret",
            Self::PersistentVolumeClaim => "PersistentVolumeClaim",
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
        }
    }

    /// Path segment of the API.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Namespace => "namespaces",
            Self::ConfigMap => "configmaps",
            Self::Secret => "secrets",
            Self::PersistentVolumeClaim => "persistentvolumeclaims",
            Self::Service => "services",
            Self::EndpointSlice => "endpointslices",
        }
    }

    /// Whether objects of this kind go with the pods of their namespace, without being named by them.
    #[must_use]
    pub fn is_of_namespace(self) -> bool {
        matches!(self, Self::Service | Self::EndpointSlice)
    }
}

// === impl ObjectKey ===

impl ObjectKey {
    /// The namespace of a pod's key.
    #[must_use]
    pub fn namespace(name: &str) -> Self {
        Self {
            kind: Kind::Namespace,
            key: Key::new("", name),
        }
    }

    /// What a pod in `namespace` refers to.
    #[must_use]
    pub fn of(namespace: &str, reference: &Reference) -> Self {
        let kind = match reference.kind {
            RefKind::ConfigMap => Kind::ConfigMap,
            RefKind::Secret => Kind::Secret,
            RefKind::PersistentVolumeClaim => Kind::PersistentVolumeClaim,
        };
        Self {
            kind,
            key: Key::new(namespace, &reference.name),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.key)
    }
}
