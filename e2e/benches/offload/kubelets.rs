//! What kubelets ask their API server for when a pod with a token, ConfigMaps or Secrets arrives. kwok's nodes ask for
//! nothing of it, so that a cluster with them would be cheaper than it ever is.
//!
//! The same for every pod on a simulated node, in whichever run: one TokenRequest for each token that its volumes want,
//! bound to the pod; and, of each object that pods of a node refer to, the watch with which a kubelet's manager of
//! ConfigMaps and Secrets begins when the first of them arrives (`pkg/kubelet/util/manager`): since 1.35 one that shows
//! first what there is (`WatchListClient`). It is closed then, because one connection has no room for those of all nodes.

use std::collections::HashSet;
use std::fmt::Debug;
use std::future::ready;
use std::pin::pin;

use anyhow::{Result, bail};
use futures::future::try_join_all;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{PostParams, WatchEvent, WatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, Resource};
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_json::Value;
use tensile_core::refs::{RefKind, references};
use tensile_core::translate::service_account::tokens::{Token, Wanted};
use tensile_runtime::object::{Pods, Slim};

/// ConfigMap with the CA that comes with a token.
const ROOT_CA: &str = "kube-root-ca.crt";

/// Objects that kubelets watch already: node, kind and name.
type Known = HashSet<(String, RefKind, String)>;

/// A pod that was bound to a node.
struct Arrival {
    name: String,
    uid: String,
    account: String,
    tokens: Vec<Token>,
    /// What no pod of the node has referred to before.
    objects: Vec<(RefKind, String)>,
}

/// Serves this many pods of a namespace, as they are bound to nodes.
pub(crate) async fn serve(client: &Client, namespace: &str, pods: usize) -> Result<()> {
    let api: Api<Slim<Pods>> = Api::namespaced(client.clone(), namespace);
    let (mut seen, mut known) = (HashSet::new(), Known::default());
    watcher(api, watcher::Config::default())
        .default_backoff()
        .applied_objects()
        // The watcher goes on after an error, from where it was.
        .filter_map(|pod| ready(pod.ok().and_then(|pod| Arrival::new(pod, &mut known))))
        .filter(|pod| ready(seen.insert(pod.uid.clone())))
        .take(pods)
        .map(Ok)
        .try_for_each_concurrent(None, |pod| async move { pod.serve(client, namespace).await })
        .await
}

// === impl Arrival ===

impl Arrival {
    /// `None` while the pod has no node.
    fn new(pod: Slim<Pods>, known: &mut Known) -> Option<Self> {
        let spec: Value = serde_json::from_str(pod.spec?.get()).ok()?;
        let node = spec["nodeName"].as_str()?;
        let wanted = Wanted::of(&spec);
        let named = references(&spec).into_iter().map(|one| (one.kind, one.name));
        let ca = wanted.ca.then(|| (RefKind::ConfigMap, ROOT_CA.to_owned()));
        let objects = named.chain(ca);
        Some(Self {
            name: pod.metadata.name?,
            uid: pod.metadata.uid?,
            account: spec["serviceAccountName"].as_str()?.to_owned(),
            tokens: wanted.tokens,
            objects: objects
                .filter(|(kind, name)| known.insert((node.to_owned(), *kind, name.clone())))
                .collect(),
        })
    }

    /// Asks for all that a kubelet would; the pod's objects first, since a token is asked for with its volume.
    async fn serve(self, client: &Client, namespace: &str) -> Result<()> {
        try_join_all(self.objects.iter().map(|(kind, name)| async move {
            match kind {
                RefKind::ConfigMap => begin_watch::<ConfigMap>(client, namespace, name).await,
                RefKind::Secret => begin_watch::<Secret>(client, namespace, name).await,
                RefKind::PersistentVolumeClaim => Ok(()),
            }
        }))
        .await?;
        for token in &self.tokens {
            let path = format!(
                "/api/v1/namespaces/{namespace}/serviceaccounts/{}/token",
                self.account
            );
            let body = serde_json::to_vec(&token.request(&self.name, &self.uid))?;
            let request = kube::core::Request::new(path).create(&PostParams::default(), body)?;
            client.request::<IgnoredAny>(request).await?;
        }
        Ok(())
    }
}

/// Opens a watch on one object, which begins with what there is (a list of its own is needed for older API servers only).
async fn begin_watch<K>(client: &Client, namespace: &str, name: &str) -> Result<()>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + Debug + DeserializeOwned,
{
    let api: Api<K> = Api::namespaced(client.clone(), namespace);
    let field = format!("metadata.name={name}");
    let mut events = pin!(
        api.watch(&WatchParams::streaming_lists().fields(&field), "")
            .await?
    );
    while let Some(event) = events.try_next().await? {
        // The first bookmark says that this was all.
        if matches!(event, WatchEvent::Bookmark(_)) {
            return Ok(());
        }
    }
    bail!("the watch of {namespace}/{name} ended before all was shown")
}
