//! Binding a pod in the upper cluster.

use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status};
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::Value;
use tensile_core::names;
use tensile_runtime::object::{Pods, Viewed};

use crate::http::Service;
use crate::verbs;
use crate::wire::ExtenderBindingArgs;
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
pub async fn bind(service: &Service, args: &ExtenderBindingArgs) -> Result<(), BindingError> {
    let pod = match service.asked.take(&args.uid) {
        Some(pod) => pod,
        None => read(&service.upper, args).await?,
    };
    let hint = verbs::bind(&mut service.shared.world(), &pod, &args.node)?;
    let posted = post(&service.upper, args, hint).await;
    posted.map_err(|source| {
        service.shared.world().release(uid(&pod));
        BindingError::Post {
            namespace: args.namespace.clone(),
            name: args.name.clone(),
            source,
        }
    })
}

/// The pod, if it still is the one that is meant.
async fn read(upper: &Client, args: &ExtenderBindingArgs) -> Result<Value, BindingError> {
    let (namespace, name) = (args.namespace.clone(), args.name.clone());
    let pods: Api<Viewed<Pods, Value>> = Api::namespaced(upper.clone(), &namespace);
    let pod = match pods.get(&name).await {
        Ok(pod) => pod,
        Err(source) => {
            return Err(BindingError::Get {
                namespace,
                name,
                source,
            });
        }
    };
    if pod.metadata.uid.as_ref() != Some(&args.uid) {
        let uid = args.uid.clone();
        return Err(BindingError::Replaced { namespace, name, uid });
    }
    Ok(pod.view)
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
