//! The kubelet API of a virtual node: which pod is where below, and the server's certificates.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use tensile_core::translate::namespace::Mapping;
use tensile_kubelet_api::auth::ApiReviews;
use tensile_kubelet_api::backend::{PodRef, ResolveError, Target, Unavailable};
use tensile_kubelet_api::usage::NodeUsage;
use tensile_kubelet_api::{Auth, Backend, Metrics, StreamConfig, Streams, client_ca, router};
use tensile_runtime::admin::Condition;
use tensile_runtime::key::Key;
use tensile_runtime::serve::{Config, Metrics as ServeMetrics, Server};
use tensile_runtime::shutdown::Shutdown;
use tensile_runtime::tls::{
    Alpn, ClientCas, POLL_INTERVAL, ServingCert, Tls, follow_files, read_files, self_signed,
};
use tensile_runtime::watch::Metrics as WatchMetrics;

use crate::api;
use crate::args::Args;
use crate::shared::Shared;

/// Life of a self-made certificate: that of a kubelet's, one year. A restart makes a new one.
const SELF_SIGNED_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// The pods of the engine that runs now; none while another process leads.
pub type Current = Arc<Mutex<Option<Arc<Shared>>>>;

/// Answers for one virtual node.
struct NodeBackend {
    name: String,
    upper: Client,
    lower: Client,
    mapping: Mapping,
    current: Current,
}

/// A server that is ready to run: everything that can be wrong with its set-up was found.
pub struct Kubelet {
    listener: TcpListener,
    server: Server,
    backend: Arc<NodeBackend>,
    auth: Arc<Auth>,
    streams: Streams,
    metrics: Metrics,
    cert: Arc<ServingCert>,
    cert_files: Option<(Vec<PathBuf>, Vec<Vec<u8>>)>,
    client_cas: Arc<ClientCas>,
    upper: Client,
    ca_file: Option<(Vec<PathBuf>, Vec<Vec<u8>>)>,
}

#[derive(Deserialize)]
struct PodList {
    items: Vec<Value>,
}

// === impl NodeBackend ===

impl NodeBackend {
    async fn list(&self) -> Result<Vec<Value>, Unavailable> {
        let path = format!("/api/v1/pods?fieldSelector=spec.nodeName%3D{}", self.name);
        let list: PodList = api::read(&self.upper, &path)
            .await
            .map_err(|error| Unavailable(error.to_string()))?;
        Ok(list.items.into_iter().map(typed).collect())
    }

    fn find(&self, pod: &PodRef, container: &str) -> Result<Target, ResolveError> {
        let current = self.current.lock().clone();
        let shared =
            current.ok_or_else(|| ResolveError::Unavailable("another replica runs this node".to_owned()))?;
        let key = Key::new(&pod.namespace, &pod.name);
        let state = shared.lock();
        let entry = state.pods.get(&key).ok_or(ResolveError::NoPod)?;
        let upper = entry.upper.as_ref().ok_or(ResolveError::NoPod)?;
        if pod.uid.as_deref().is_some_and(|uid| *uid != *upper.uid) {
            return Err(ResolveError::WrongUid);
        }
        if !entry.belongs() {
            return Err(ResolveError::NotStarted(format!(
                "container \"{container}\" in pod \"{}\" is waiting to start: ContainerCreating",
                pod.name
            )));
        }
        Ok(Target {
            client: self.lower.clone(),
            namespace: self.mapping.lower(&pod.namespace).into_owned(),
            name: pod.name.clone(),
        })
    }
}

impl Backend for NodeBackend {
    fn node_name(&self) -> &str {
        &self.name
    }

    async fn pods(&self) -> Result<Vec<Value>, Unavailable> {
        self.list().await
    }

    async fn running_pods(&self) -> Result<Vec<Value>, Unavailable> {
        let mut pods = self.list().await?;
        pods.retain(|pod| pod["status"]["phase"] == "Running");
        Ok(pods)
    }

    async fn resolve(&self, pod: &PodRef, container: Option<&str>) -> Result<Target, ResolveError> {
        self.find(pod, container.unwrap_or_default())
    }

    /// Not known: the lower cluster's metrics are not read yet.
    async fn usage(&self) -> Result<NodeUsage, Unavailable> {
        Err(Unavailable(
            "figures of the lower cluster are not available".to_owned(),
        ))
    }
}

/// Items of a list lack their type, which `/pods` shows as a kubelet does.
fn typed(mut pod: Value) -> Value {
    pod["apiVersion"] = json!("v1");
    pod["kind"] = json!("Pod");
    pod
}

// === impl Kubelet ===

impl Kubelet {
    /// Binds the port and reads the certificates.
    ///
    /// # Errors
    /// When the port is taken, a file cannot be used, or the upper cluster does not tell its client CA.
    pub async fn new(
        args: &Args,
        node_ip: &str,
        upper: &Client,
        lower_upgrade: &Client,
        current: Current,
        registry: &prometheus::Registry,
    ) -> anyhow::Result<Self> {
        let address = args.listen();
        let listener = bind(address).await?;
        let cert = Arc::new(ServingCert::default());
        let cert_files = load_certificate(args, node_ip, &cert).await?;
        let client_cas = Arc::new(ClientCas::default());
        let ca_file = load_client_ca(args, &client_cas).await?;
        let tls = Tls::new(cert.clone(), Some(client_cas.clone()), Alpn::Http1)?;
        let metrics = Metrics::register(registry)?;
        let server = Server::new(
            Some(Arc::new(tls)),
            Config::default(),
            ServeMetrics::register(registry, "kubelet")?,
        );
        Ok(Self {
            listener,
            server,
            backend: Arc::new(NodeBackend {
                name: args.nodename.clone(),
                upper: upper.clone(),
                lower: lower_upgrade.clone(),
                mapping: args.mapping(),
                current,
            }),
            auth: Arc::new(Auth::new(
                Arc::new(ApiReviews::new(upper.clone())),
                metrics.clone(),
            )),
            streams: Streams::new(StreamConfig::default(), metrics.clone()),
            metrics,
            cert,
            cert_files,
            client_cas,
            upper: upper.clone(),
            ca_file,
        })
    }

    /// Serves until shutdown, then lets streams finish. `ready` is met once client certificates can be checked.
    pub async fn run(self, shutdown: Shutdown, ready: Condition, watch_metrics: WatchMetrics) {
        let router = router(self.backend, self.auth, self.streams, self.metrics);
        if let Some((paths, seen)) = self.cert_files {
            let cert = self.cert;
            tokio::spawn(follow_files(
                paths,
                seen,
                POLL_INTERVAL,
                shutdown.token(),
                move |files| cert.set_pem(&files[0], &files[1]),
            ));
        }
        let cas = self.client_cas;
        let followed = async move {
            let Some((paths, seen)) = self.ca_file else {
                return client_ca::follow(self.upper, cas, ready, watch_metrics).await;
            };
            ready.set(true);
            follow_files(paths, seen, POLL_INTERVAL, CancellationToken::new(), |files| {
                cas.set_pem(&files[0])
            })
            .await;
        };
        let stop = shutdown.token();
        tokio::spawn(async move { stop.run_until_cancelled(followed).await });
        self.server.run(self.listener, router, shutdown.token()).await;
    }
}

async fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| {
        anyhow::anyhow!("cannot listen on --listen {address}: {error}; choose a free address")
    })
}

/// The files of the flags, else a certificate made here for the published address.
async fn load_certificate(
    args: &Args,
    node_ip: &str,
    cert: &ServingCert,
) -> anyhow::Result<Option<(Vec<PathBuf>, Vec<Vec<u8>>)>> {
    let (Some(cert_file), Some(key_file)) = (&args.tls_cert_file, &args.tls_private_key_file) else {
        let names = [node_ip.to_owned(), args.nodename.clone()];
        let pair = self_signed(
            &format!("system:node:{}", args.nodename),
            &names,
            SELF_SIGNED_LIFE,
        )?;
        cert.set_pem(pair.cert.as_bytes(), pair.key.as_bytes())?;
        return Ok(None);
    };
    let paths = vec![cert_file.clone(), key_file.clone()];
    let files = read_files(&paths).await?;
    cert.set_pem(&files[0], &files[1])?;
    Ok(Some((paths, files)))
}

/// The file of the flag; without it, what the upper API server publishes is followed.
async fn load_client_ca(
    args: &Args,
    cas: &ClientCas,
) -> anyhow::Result<Option<(Vec<PathBuf>, Vec<Vec<u8>>)>> {
    let Some(file) = &args.client_ca_file else {
        return Ok(None);
    };
    let paths = vec![file.clone()];
    let files = read_files(&paths).await?;
    cas.set_pem(&files[0])?;
    Ok(Some((paths, files)))
}
