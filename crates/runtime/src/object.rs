//! Slim objects as watches deliver them.
//!
//! A full typed pod takes some 40 KB of memory, most of it for fields that nobody asks for; these types keep
//! what decisions need and leave the rest as the bytes that arrived.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::marker::PhantomData;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::core::{ClusterResourceScope, NamespaceResourceScope};
use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// Names a kind of the API for [`Slim`] and [`Meta`].
pub trait Kind: Clone + Debug + Send + Sync + 'static {
    /// The scope, as kube names it.
    type Scope;
    /// `Pod`
    const KIND: &'static str;
    /// `pods`
    const PLURAL: &'static str;
    /// API group, empty for the core group.
    const GROUP: &'static str = "";
    /// Version within the group.
    const VERSION: &'static str = "v1";
}

macro_rules! kind {
    ($name:ident, $kind:literal, $plural:literal, $scope:ty $(, $group:literal)?) => {
        #[doc = concat!("The kind ", $kind, ".")]
        #[derive(Clone, Debug)]
        pub struct $name;
        impl Kind for $name {
            type Scope = $scope;
            const KIND: &'static str = $kind;
            const PLURAL: &'static str = $plural;
            $(const GROUP: &'static str = $group;)?
        }
    };
}

kind!(Pods, "Pod", "pods", NamespaceResourceScope);
kind!(ConfigMaps, "ConfigMap", "configmaps", NamespaceResourceScope);
kind!(Secrets, "Secret", "secrets", NamespaceResourceScope);
kind!(Services, "Service", "services", NamespaceResourceScope);
kind!(
    EndpointSlices,
    "EndpointSlice",
    "endpointslices",
    NamespaceResourceScope,
    "discovery.k8s.io"
);
kind!(
    PersistentVolumeClaims,
    "PersistentVolumeClaim",
    "persistentvolumeclaims",
    NamespaceResourceScope
);
kind!(
    PersistentVolumes,
    "PersistentVolume",
    "persistentvolumes",
    ClusterResourceScope
);
kind!(Events, "Event", "events", NamespaceResourceScope);
kind!(Nodes, "Node", "nodes", ClusterResourceScope);
kind!(Namespaces, "Namespace", "namespaces", ClusterResourceScope);

/// An object with metadata (less managedFields), spec and status, each of a type of the caller's choice.
///
/// `Box<RawValue>` keeps a part as the bytes that came over the wire.
#[derive(Clone, Debug, Deserialize)]
#[serde(bound(deserialize = "Spec: Deserialize<'de>, Status: Deserialize<'de>"))]
pub struct Slim<K, Spec = Box<RawValue>, Status = Box<RawValue>> {
    /// Metadata without managedFields.
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    /// The spec, absent where the object has none.
    #[serde(default = "none")]
    pub spec: Option<Spec>,
    /// The status, absent where the object has none.
    #[serde(default = "none")]
    pub status: Option<Status>,
    #[serde(skip)]
    kind: PhantomData<K>,
}

/// Metadata only: the API server is asked for nothing else.
#[derive(Clone, Debug, Deserialize)]
#[serde(bound(deserialize = ""))]
pub struct Meta<K> {
    /// Metadata without managedFields.
    #[serde(deserialize_with = "metadata")]
    pub metadata: ObjectMeta,
    #[serde(skip)]
    kind: PhantomData<K>,
}

/// An object seen through a view of the caller's choice, which reads the whole object.
#[derive(Clone, Debug)]
pub struct Viewed<K, View> {
    /// Metadata without managedFields.
    pub metadata: ObjectMeta,
    /// What the caller looks at.
    pub view: View,
    kind: PhantomData<K>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct SlimMetadata {
    name: Option<String>,
    namespace: Option<String>,
    uid: Option<String>,
    resource_version: Option<String>,
    generation: Option<i64>,
    creation_timestamp: Option<Time>,
    deletion_timestamp: Option<Time>,
    deletion_grace_period_seconds: Option<i64>,
    labels: Option<BTreeMap<String, String>>,
    annotations: Option<BTreeMap<String, String>>,
    finalizers: Option<Vec<String>>,
    owner_references: Option<Vec<k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference>>,
}

// === impl Slim, Meta ===

macro_rules! resource {
    ([$($generics:tt)*], $type:ty, $metadata_api:literal) => {
        impl<K: Kind, $($generics)*> kube::Resource for $type {
            type DynamicType = ();
            type Scope = K::Scope;
            fn kind((): &()) -> Cow<'_, str> {
                K::KIND.into()
            }
            fn group((): &()) -> Cow<'_, str> {
                K::GROUP.into()
            }
            fn version((): &()) -> Cow<'_, str> {
                K::VERSION.into()
            }
            fn plural((): &()) -> Cow<'_, str> {
                K::PLURAL.into()
            }
            fn metadata_api() -> bool {
                $metadata_api
            }
            fn meta(&self) -> &ObjectMeta {
                &self.metadata
            }
            fn meta_mut(&mut self) -> &mut ObjectMeta {
                &mut self.metadata
            }
        }
    };
}

resource!([Spec, Status], Slim<K, Spec, Status>, false);
resource!([], Meta<K>, true);
resource!([View], Viewed<K, View>, false);

impl<'de, K: Kind, View: DeserializeOwned> Deserialize<'de> for Viewed<K, View> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = Box::<RawValue>::deserialize(deserializer)?;
        let meta: Meta<K> = serde_json::from_str(raw.get()).map_err(D::Error::custom)?;
        let view = serde_json::from_str(raw.get()).map_err(D::Error::custom)?;
        Ok(Self {
            metadata: meta.metadata,
            view,
            kind: PhantomData,
        })
    }
}

/// `None` for any type; `Option`'s own default would ask the type parameter for one.
fn none<T>() -> Option<T> {
    None
}

fn metadata<'de, D: Deserializer<'de>>(deserializer: D) -> Result<ObjectMeta, D::Error> {
    let slim = SlimMetadata::deserialize(deserializer)?;
    Ok(ObjectMeta {
        name: slim.name,
        namespace: slim.namespace,
        uid: slim.uid,
        resource_version: slim.resource_version,
        generation: slim.generation,
        creation_timestamp: slim.creation_timestamp,
        deletion_timestamp: slim.deletion_timestamp,
        deletion_grace_period_seconds: slim.deletion_grace_period_seconds,
        labels: slim.labels,
        annotations: slim.annotations,
        finalizers: slim.finalizers,
        owner_references: slim.owner_references,
        ..ObjectMeta::default()
    })
}

#[cfg(test)]
mod tests {
    use kube::api::WatchEvent;

    use super::*;

    const EVENT: &str = r#"{"type":"ADDED","object":{"kind":"Pod","apiVersion":"v1","metadata":{"name":"a",
        "namespace":"n","uid":"u","managedFields":[{"manager":"m"}]},"spec":{"new":[1,  2]},"status":{"phase":"Running"}}}"#;

    #[test]
    fn a_watch_event_keeps_spec_and_status_as_they_came() {
        let Ok(WatchEvent::Added(pod)) = serde_json::from_str::<WatchEvent<Slim<Pods>>>(EVENT) else {
            panic!()
        };
        assert_eq!(pod.metadata.name.as_deref(), Some("a"));
        assert!(pod.metadata.managed_fields.is_none());
        assert_eq!(pod.spec.as_deref().map(RawValue::get), Some(r#"{"new":[1,  2]}"#));
        assert_eq!(
            pod.status.as_deref().map(RawValue::get),
            Some(r#"{"phase":"Running"}"#)
        );
    }

    #[test]
    fn a_view_reads_the_whole_object_also_in_a_watch_event() {
        #[derive(Clone, Debug, Deserialize)]
        struct View {
            status: std::collections::BTreeMap<String, String>,
        }
        let event = serde_json::from_str::<WatchEvent<Viewed<Pods, View>>>(EVENT);
        let Ok(WatchEvent::Added(pod)) = event else {
            panic!()
        };
        assert_eq!(
            (pod.metadata.uid.as_deref(), &*pod.view.status["phase"]),
            (Some("u"), "Running")
        );
    }

    #[test]
    fn a_list_decodes_and_missing_parts_are_none() {
        let list = r#"{"kind":"PodList","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":[{"metadata":{"name":"a"}}]}"#;
        let list: kube::core::ObjectList<Slim<Pods>> = serde_json::from_str(list).unwrap();
        assert!(list.items[0].spec.is_none() && list.items[0].status.is_none());
    }
}
