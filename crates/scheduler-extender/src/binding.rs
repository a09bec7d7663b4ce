//! Binding a pod in the upper cluster.

use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::Value;
use tensile_core::names;
use tensile_runtime::object::{Pods, Viewed};

use crate::verbs;
use crate::wire::ExtenderBindingArgs;
use tensile_world::Shared;
use tensile_world::uid;

/// Why a pod is not bound.
#[derive(Debug, thiserror::Error)]
pub enum BindingError {
    /// The API server does not give the pod out.
    #[error("pod {namespace}/{name}: {source}")]
    Get {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What the API server said.
        #[source]
        source: kube::Error,
    },
    /// Another pod has the name by now.
    #[error("pod {namespace}/{name} is not the one with UID {uid} any more")]
    Replaced {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// The UID that was asked for.
        uid: String,
    },
    /// There is no place for it.
    #[error(transparent)]
    Refused(#[from] verbs::BindError),
    /// The API server refuses the binding.
    #[error("binding {namespace}/{name}: {source}")]
    Post {
        /// Its namespace.
        namespace: String,
        /// Its name.
        name: String,
        /// What the API server said.
        #[source]
        source: kube::Error,
    },
}

/// Promises the pod a place and binds it to the virtual node; takes the promise back when the API server refuses.
///
/// # Errors
/// When the pod is not bound; the scheduler tries again.
pub async fn bind(upper: &Client, shared: &Shared, args: &ExtenderBindingArgs) -> Result<(), BindingError> {
    let ExtenderBindingArgs {
        name,
        namespace,
        uid: wanted,
        node,
    } = args;
    let pods: Api<Viewed<Pods, Value>> = Api::namespaced(upper.clone(), namespace);
    let pod = pods.get(name).await.map_err(|source| BindingError::Get {
        namespace: namespace.clone(),
        name: name.clone(),
        source,
    })?;
    if pod.metadata.uid.as_ref() != Some(wanted) {
        let (namespace, name, uid) = (namespace.clone(), name.clone(), wanted.clone());
        return Err(BindingError::Replaced { namespace, name, uid });
    }
    let hint = verbs::bind(&mut shared.world(), &pod.view, node)?;
    let posted = post(upper, args, hint).await;
    posted.map_err(|source| {
        shared.world().release(uid(&pod.view));
        BindingError::Post {
            namespace: namespace.clone(),
            name: name.clone(),
            source,
        }
    })
}

/// The binding's annotations become the pod's; its UID is a precondition.
async fn post(upper: &Client, args: &ExtenderBindingArgs, hint: Option<String>) -> Result<(), kube::Error> {
    let binding = Binding {
        metadata: ObjectMeta {
            name: Some(args.name.clone()),
            namespace: Some(args.namespace.clone()),
            uid: Some(args.uid.clone()),
            annotations: hint.map(|hint| [(names::PLACEMENT_HINT.to_owned(), hint)].into()),
            ..ObjectMeta::default()
        },
        target: ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Node".to_owned()),
            name: Some(args.node.clone()),
            ..ObjectReference::default()
        },
    };
    let pods: Api<Pod> = Api::namespaced(upper.clone(), &args.namespace);
    pods.create_subresource::<_, Status>("binding", &args.name, &PostParams::default(), &binding)
        .await?;
    Ok(())
}
