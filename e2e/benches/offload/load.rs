//! Creates and deletes pods, cheaply: bodies are bytes, answers are not read.

use anyhow::Result;
use futures::{StreamExt, TryStreamExt, stream};
use kube::Client;
use kube::api::{DeleteParams, PostParams};
use serde::de::IgnoredAny;
use serde_json::json;

use crate::args::Workload;
use crate::ground::{Ground, Side};

/// Requests at a time.
pub(crate) const WRITERS: usize = 20;

/// Name of the ConfigMap and of the Secret that complete pods share.
pub(crate) const SHARED: &str = "bench";

/// Names of pods.
pub(crate) fn names(prefix: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{prefix}-{number}")).collect()
}

/// Creates pods, [`WRITERS`] at a time.
pub(crate) async fn create(ground: &Ground, side: Side, names: &[String]) -> Result<()> {
    stream::iter(names)
        .map(|name| create_one(ground.client(side).clone(), side, ground.workload, name.clone()))
        .buffer_unordered(WRITERS)
        .try_collect()
        .await
}

/// Creates one pod.
pub(crate) async fn create_one(client: Client, side: Side, workload: Workload, name: String) -> Result<()> {
    let complete = workload == Workload::Complete;
    let references = json!([{"configMapRef": {"name": SHARED}}, {"secretRef": {"name": SHARED}}]);
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "bench"}},
        "spec": {
            "automountServiceAccountToken": complete,
            "tolerations": [{"key": side.toleration(), "operator": "Exists"}],
            "containers": [{
                "name": "main", "image": "bench", "envFrom": if complete { references } else { json!([]) },
                "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
            }],
        },
    });
    let request = kube::core::Request::new(collection(side))
        .create(&PostParams::default(), serde_json::to_vec(&pod)?)?;
    client.request::<IgnoredAny>(request).await?;
    Ok(())
}

/// Deletes pods as users do, with their own grace period, [`WRITERS`] at a time.
pub(crate) async fn delete(client: &Client, side: Side, names: &[String]) -> Result<()> {
    let delete_one = |name: &String| {
        let request = kube::core::Request::new(collection(side)).delete(name, &DeleteParams::default());
        let client = client.clone();
        async move { Ok::<_, anyhow::Error>(client.request::<IgnoredAny>(request?).await.map(drop)?) }
    };
    stream::iter(names)
        .map(delete_one)
        .buffer_unordered(WRITERS)
        .try_collect()
        .await
}

fn collection(side: Side) -> String {
    format!("/api/v1/namespaces/{}/pods", side.namespace())
}
