//! A node with one pod that runs as `default/web` in the cluster of the current kubeconfig, on `127.0.0.1:10250`
//! with a self-signed certificate. That cluster also reviews tokens and access:
//!
//! ```text
//! cargo run -p tensile-kubelet-api --example trivial
//! curl -k -H "Authorization: Bearer $(kubectl create token default)" https://127.0.0.1:10250/pods
//! ```

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tensile_kubelet_api::auth::ApiReviews;
use tensile_kubelet_api::backend::{PodRef, ResolveError, Target, Unavailable};
use tensile_kubelet_api::usage::NodeUsage;
use tensile_kubelet_api::{Auth, Backend, Metrics, StreamConfig, Streams, router};
use tensile_runtime::serve::{self, Server};
use tensile_runtime::tls::{Alpn, ServingCert, Tls, self_signed};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// The certificate's life; nobody renews it here.
const LIFE: Duration = Duration::from_secs(24 * 3600);

struct Trivial {
    client: kube::Client,
}

impl Backend for Trivial {
    fn node_name(&self) -> &str {
        "trivial"
    }

    async fn pods(&self) -> Result<Vec<Value>, Unavailable> {
        Ok(vec![json!({"metadata": {"namespace": "default", "name": "web"}})])
    }

    async fn running_pods(&self) -> Result<Vec<Value>, Unavailable> {
        self.pods().await
    }

    async fn resolve(&self, pod: &PodRef, _container: Option<&str>) -> Result<Target, ResolveError> {
        if (pod.namespace.as_str(), pod.name.as_str()) != ("default", "web") {
            return Err(ResolveError::NoPod);
        }
        Ok(Target {
            client: self.client.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
        })
    }

    async fn usage(&self) -> Result<NodeUsage, Unavailable> {
        Ok(NodeUsage::default())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let client = kube::Client::try_default().await?;
    let registry = prometheus::Registry::new();
    let metrics = Metrics::register(&registry)?;
    let auth = Arc::new(Auth::new(
        Arc::new(ApiReviews::new(client.clone())),
        metrics.clone(),
    ));
    let streams = Streams::new(StreamConfig::default(), metrics.clone());

    let cert = Arc::new(ServingCert::default());
    let pair = self_signed("trivial", &["127.0.0.1".to_owned()], LIFE)?;
    cert.set_pem(pair.cert.as_bytes(), pair.key.as_bytes())?;
    let tls = Arc::new(Tls::new(cert, None, Alpn::Http1)?);

    let listener = TcpListener::bind("127.0.0.1:10250").await?;
    let server = Server::new(
        Some(tls),
        serve::Config::default(),
        serve::Metrics::register(&registry, "kubelet")?,
    );
    let stop = CancellationToken::new();
    let ended = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            ended.cancel();
        }
    });
    server
        .run(
            listener,
            router(Arc::new(Trivial { client }), auth, streams, metrics),
            stop,
        )
        .await;
    Ok(())
}
