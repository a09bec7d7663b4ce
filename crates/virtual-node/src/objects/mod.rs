//! What pods need beside themselves: namespaces, ConfigMaps and Secrets in the lower cluster.
//!
//! Both sides are watched as metadata only. A copy is made when the first pod refers to it, renewed when the
//! original changes, and removed with its last user; an object below that is not ours is left alone, and the
//! pods that would need its name say so.

mod decide;
mod index;
mod work;

pub use decide::{Step, decide};
pub use index::{Index, Need, Object, Side};
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
        }
    }

    /// Path segment of the API.
    #[must_use]
    pub fn plural(self) -> &'static str {
        match self {
            Self::Namespace => "namespaces",
            Self::ConfigMap => "configmaps",
            Self::Secret => "secrets",
        }
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

    /// What a pod in `namespace` refers to; `None` for kinds that are not copied.
    #[must_use]
    pub fn of(namespace: &str, reference: &Reference) -> Option<Self> {
        let kind = match reference.kind {
            RefKind::ConfigMap => Kind::ConfigMap,
            RefKind::Secret => Kind::Secret,
            RefKind::PersistentVolumeClaim => return None,
        };
        Some(Self {
            kind,
            key: Key::new(namespace, &reference.name),
        })
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.key)
    }
}
