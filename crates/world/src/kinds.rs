//! Kinds of the lower clusters that only placement looks at.

use kube::core::{ClusterResourceScope, NamespaceResourceScope};
use tensile_runtime::object::Kind;

macro_rules! kind {
    ($name:ident, $kind:literal, $plural:literal, $group:literal, $scope:ty) => {
        #[doc = concat!("The kind ", $kind, ".")]
        #[derive(Clone, Debug)]
        pub(crate) struct $name;
        impl Kind for $name {
            type Scope = $scope;
            const KIND: &'static str = $kind;
            const PLURAL: &'static str = $plural;
            const GROUP: &'static str = $group;
        }
    };
}

kind!(
    Volumes,
    "PersistentVolume",
    "persistentvolumes",
    "",
    ClusterResourceScope
);
kind!(
    Claims,
    "PersistentVolumeClaim",
    "persistentvolumeclaims",
    "",
    NamespaceResourceScope
);
kind!(
    Classes,
    "StorageClass",
    "storageclasses",
    "storage.k8s.io",
    ClusterResourceScope
);
kind!(
    CsiNodes,
    "CSINode",
    "csinodes",
    "storage.k8s.io",
    ClusterResourceScope
);
kind!(
    Drivers,
    "CSIDriver",
    "csidrivers",
    "storage.k8s.io",
    ClusterResourceScope
);
