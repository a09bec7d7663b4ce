//! A connection to one cluster: an HTTP/2 client for the API and watches, an HTTP/1.1 client for upgrades.
//!
//! Both are plain [`kube::Client`]s whose transport can be swapped underneath them, so that rotated
//! credentials are taken over without anyone noticing: running watches go on, new requests use the new ones.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::Request;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use k8s_openapi::api::core::v1::Namespace;
use kube::client::{Body, ConfigExt};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use tower::{BoxError, ServiceBuilder, ServiceExt};

use tensile_core::names;

use crate::requests::{self, Requests};
use crate::shutdown::Shutdown;

/// Time to connect, TLS included: what accepts connections and is silent must not hold up all that follows, since
/// HTTP/2 opens one connection at a time. kube's own default of 30 s is longer than the grace that a cluster gets.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// HTTP/2 ping interval and the time for its answer: a dead peer is noticed within 25 s.
const PING_INTERVAL: Duration = Duration::from_secs(15);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How often a kubeconfig file is looked at; kube re-reads token files at most every 60 s.
const RELOAD_INTERVAL: Duration = Duration::from_secs(10);

/// Where the credentials of a cluster come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A kubeconfig file; followed as it changes.
    File(PathBuf),
    /// The service account of the pod that we run in.
    InCluster,
    /// A kubeconfig that somebody else follows and hands over, for the cluster with this id.
    Given(Arc<str>),
}

/// Clients for one cluster. Clones share connections.
#[derive(Clone)]
pub struct Cluster {
    /// For requests and watches, over HTTP/2.
    pub client: Client,
    /// For requests that upgrade the connection, over HTTP/1.1.
    pub upgrade: Client,
    /// Where its API server is, as the credentials said when they were read first.
    pub server: http::Uri,
    /// The namespace of its kubeconfig, which a client must have.
    namespace: String,
    transports: Arc<Transports>,
    source: Source,
}

/// What a cluster says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// UID of the kube-system namespace: what makes a cluster that cluster.
    pub uid: String,
    /// `gitVersion`, such as `v1.36.3`.
    pub version: String,
    /// Minor version, 0 when it cannot be read.
    pub minor: u32,
}

/// Why a cluster cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The kubeconfig cannot be read or used.
    #[error("kubeconfig {path}: {reason}; give the path of a readable kubeconfig with a current context", path = path.display())]
    Kubeconfig {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The kubeconfig out of a Secret cannot be used.
    #[error("kubeconfig of cluster {id}: {reason}; correct it in the Secret of the cluster")]
    Given {
        /// The cluster.
        id: Arc<str>,
        /// What is wrong with it.
        reason: String,
    },
    /// We do not run in a pod.
    #[error("no --kubeconfig was given and this is not a pod with a service account: {0}")]
    InCluster(#[source] kube::config::InClusterError),
    /// The TLS or authentication settings cannot be used.
    #[error("credentials cannot be used: {0}")]
    Credentials(#[source] kube::Error),
    /// The cluster does not answer as a cluster does.
    #[error("cannot ask the cluster who it is: {0}")]
    Identity(#[source] kube::Error),
    /// kube-system has no UID, so that this is no Kubernetes API server.
    #[error("namespace kube-system has no uid: is this a Kubernetes API server?")]
    NoUid,
}

/// The current transports and what they were made from.
struct Transports(ArcSwap<Transport>);

struct Transport {
    api: Client,
    upgrade: Client,
    config: Config,
    content: Vec<u8>,
}

/// An HTTP/2 connection beside the shared one, made with the credentials that are current.
struct OwnConnection {
    shared: Arc<Transports>,
    /// The client, and the transport whose credentials it has.
    made: ArcSwap<(Arc<Transport>, Client)>,
}

// === impl Transport ===

impl Transport {
    fn new(config: Config, content: Vec<u8>) -> Result<Self, ClusterError> {
        Ok(Self {
            api: http2(&config)?,
            upgrade: http1(&config)?,
            config,
            content,
        })
    }
}

// === impl OwnConnection ===

impl OwnConnection {
    fn new(shared: Arc<Transports>) -> Result<Self, ClusterError> {
        let now = shared.0.load_full();
        let client = http2(&now.config)?;
        let made = ArcSwap::from_pointee((now, client));
        Ok(Self { shared, made })
    }

    /// The client with the credentials of now. They have been used by now, so that they can be used once more.
    fn client(&self) -> Client {
        let (made, now) = (self.made.load_full(), self.shared.0.load_full());
        if Arc::ptr_eq(&made.0, &now) {
            return made.1.clone();
        }
        let client = http2(&now.config).unwrap_or_else(|_| now.api.clone());
        self.made.store(Arc::new((now, client.clone())));
        client
    }
}

// === impl Cluster ===

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster")
            .field("source", &self.source)
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// Reads the credentials; no request is sent yet.
    ///
    /// # Errors
    /// When the credentials are missing or malformed. There is no fall-back to any other source.
    pub async fn open(source: Source) -> Result<Self, ClusterError> {
        let content = read(&source).await?;
        Self::with(source, content).await
    }

    /// Opens a cluster with a kubeconfig that [`Cluster::take_over`] replaces when it changes.
    ///
    /// # Errors
    /// When the kubeconfig cannot be used.
    pub async fn given(id: &str, kubeconfig: &str) -> Result<Self, ClusterError> {
        Self::with(Source::Given(id.into()), kubeconfig.as_bytes().to_vec()).await
    }

    async fn with(source: Source, content: Vec<u8>) -> Result<Self, ClusterError> {
        let config = config(&source, &content).await?;
        let (server, namespace) = (config.cluster_url.clone(), config.default_namespace.clone());
        let transport = Transport::new(config, content)?;
        let transports = Arc::new(Transports(ArcSwap::from_pointee(transport)));
        let (api, upgrade) = (transports.clone(), transports.clone());
        Ok(Self {
            client: delegate(&namespace, None, move || api.0.load().api.clone()),
            upgrade: delegate(&namespace, None, move || upgrade.0.load().upgrade.clone()),
            server,
            namespace,
            transports,
            source,
        })
    }

    /// The same cluster over an HTTP/2 connection of its own, for a user whose requests are counted.
    ///
    /// An API server lets 100 streams share a connection (`--http2-max-streams-per-connection`), and each watch is one
    /// for as long as it lasts: what starts many watches would keep everything else waiting.
    ///
    /// # Errors
    /// When the credentials cannot be used.
    pub fn separate(&self, requests: Requests) -> Result<Self, ClusterError> {
        let own = OwnConnection::new(self.transports.clone())?;
        let client = delegate(&self.namespace, Some(requests), move || own.client());
        Ok(Self {
            client,
            ..self.clone()
        })
    }

    /// Opens the upper cluster: the kubeconfig if one is given, else the pod's service account.
    ///
    /// # Errors
    /// As [`Cluster::open`].
    pub async fn open_upper(kubeconfig: Option<&Path>) -> Result<Self, ClusterError> {
        Self::open(kubeconfig.map_or(Source::InCluster, |path| Source::File(path.to_owned()))).await
    }

    /// Takes over a changed kubeconfig file until shutdown. A file that cannot be used is reported once and
    /// the last good one stays in use.
    pub async fn follow(&self, shutdown: &Shutdown) {
        let Source::File(path) = &self.source else {
            return shutdown.wait().await;
        };
        let mut tick = tokio::time::interval(RELOAD_INTERVAL);
        let mut reported = None;
        loop {
            tokio::select! { () = shutdown.wait() => return, _ = tick.tick() => {} }
            match self.reload().await {
                Ok(true) => {
                    tracing::info!(path = %path.display(), "kubeconfig changed, new credentials in use");
                }
                Ok(false) => {}
                Err(error) => {
                    let text = error.to_string();
                    if reported.as_ref() != Some(&text) {
                        tracing::warn!(%error, "changed kubeconfig not taken over");
                    }
                    reported = Some(text);
                    continue;
                }
            }
            reported = None;
        }
    }

    /// Returns whether new credentials are in use.
    async fn reload(&self) -> Result<bool, ClusterError> {
        self.swap(read(&self.source).await?).await
    }

    /// Takes over another kubeconfig; requests and watches that run go on as they are. Returns whether it is
    /// another one.
    ///
    /// # Errors
    /// When it cannot be used; the one before stays in use.
    pub async fn take_over(&self, kubeconfig: &str) -> Result<bool, ClusterError> {
        self.swap(kubeconfig.as_bytes().to_vec()).await
    }

    async fn swap(&self, content: Vec<u8>) -> Result<bool, ClusterError> {
        if self.transports.0.load().content == content {
            return Ok(false);
        }
        let config = config(&self.source, &content).await?;
        let transport = Transport::new(config, content)?;
        self.transports.0.store(Arc::new(transport));
        Ok(true)
    }

    /// Asks the cluster who it is.
    ///
    /// # Errors
    /// When it does not answer, or not as a cluster does.
    pub async fn identity(&self) -> Result<Identity, ClusterError> {
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let system = namespaces
            .get(names::KUBE_SYSTEM)
            .await
            .map_err(ClusterError::Identity)?;
        let version = self
            .client
            .apiserver_version()
            .await
            .map_err(ClusterError::Identity)?;
        let minor = version
            .minor
            .trim_end_matches(|c: char| !c.is_ascii_digit())
            .parse()
            .unwrap_or(0);
        let uid = system.metadata.uid.ok_or(ClusterError::NoUid)?;
        Ok(Identity {
            uid,
            version: version.git_version,
            minor,
        })
    }
}

async fn read(source: &Source) -> Result<Vec<u8>, ClusterError> {
    match source {
        // kube follows the files of a service account itself.
        Source::InCluster | Source::Given(_) => Ok(Vec::new()),
        Source::File(path) => tokio::fs::read(path)
            .await
            .map_err(|error| ClusterError::Kubeconfig {
                path: path.clone(),
                reason: error.to_string(),
            }),
    }
}

async fn config(source: &Source, content: &[u8]) -> Result<Config, ClusterError> {
    let mut config = match source {
        Source::InCluster => Config::incluster().map_err(ClusterError::InCluster)?,
        Source::File(path) => parse(content).await.map_err(|reason| ClusterError::Kubeconfig {
            path: path.clone(),
            reason,
        })?,
        Source::Given(id) => parse(content).await.map_err(|reason| ClusterError::Given {
            id: id.clone(),
            reason,
        })?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    Ok(config)
}

async fn parse(content: &[u8]) -> Result<Config, String> {
    let text = std::str::from_utf8(content).map_err(|error| error.to_string())?;
    let kubeconfig = Kubeconfig::from_yaml(text).map_err(|error| error.to_string())?;
    Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default())
        .await
        .map_err(|error| error.to_string())
}

/// A client whose every request goes to the transport that is current then.
fn delegate(
    namespace: &str,
    requests: Option<Requests>,
    current: impl Fn() -> Client + Send + 'static,
) -> Client {
    let service = tower::service_fn(move |request: Request<Body>| {
        let client = current();
        let counted = requests
            .clone()
            .map(|requests| (requests, requests::verb(&request)));
        async move {
            let answer = client.send(request).await;
            if let Some((requests, verb)) = counted {
                let status = answer.as_ref().ok().map(|answer| answer.status().as_u16());
                requests.count(verb, status);
            }
            answer
        }
    });
    Client::new(service, namespace)
}

/// One connection for everything: watches and requests are streams of it, and pings find a dead peer.
fn http2(config: &Config) -> Result<Client, ClusterError> {
    let mut connector = hyper_util::client::legacy::connect::HttpConnector::new();
    connector.enforce_http(false);
    connector.set_connect_timeout(Some(CONNECT_TIMEOUT));
    connector.set_nodelay(true);
    let tls = config.rustls_client_config().map_err(ClusterError::Credentials)?;
    let https = hyper_rustls::HttpsConnectorBuilder::new()
        .with_tls_config(tls)
        .https_or_http()
        .enable_http1()
        .enable_http2()
        .wrap_connector(connector);
    let connector = tower::service_fn(move |server: http::Uri| {
        let connecting = https.clone().oneshot(server);
        Box::pin(async move {
            let connected = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await;
            connected.unwrap_or_else(|_| Err(BoxError::from("no connection in time")))
        })
    });
    let http: HttpClient<_, Body> = HttpClient::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .http2_keep_alive_interval(PING_INTERVAL)
        .http2_keep_alive_timeout(PING_TIMEOUT)
        .http2_keep_alive_while_idle(true)
        .build(connector);
    let auth = config.auth_layer().map_err(ClusterError::Credentials)?;
    let headers = config.extra_headers_layer().map_err(ClusterError::Credentials)?;
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(auth)
        .map_err(BoxError::from)
        .layer(headers)
        .service(http);
    Ok(Client::new(service, config.default_namespace.clone()))
}

/// kube's own stack is HTTP/1.1, which is what upgrades need. Nothing is retried behind our back: kube would
/// send even a POST again.
fn http1(config: &Config) -> Result<Client, ClusterError> {
    let mut config = config.clone();
    config.default_retry = false;
    Client::try_from(config).map_err(ClusterError::Credentials)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_kubeconfig(server: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{{name: a, context: {{cluster: a, user: a}}}}]\n\
             clusters: [{{name: a, cluster: {{server: '{server}'}}}}]\nusers: [{{name: a, user: {{token: t}}}}]\n"
        )
    }

    #[tokio::test]
    async fn a_missing_or_broken_kubeconfig_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        let broken = dir.path().join("broken");
        std::fs::write(&broken, "apiVersion: v1\nkind: Config\n").unwrap();
        for path in [missing, broken] {
            let error = Cluster::open(Source::File(path.clone()))
                .await
                .unwrap_err()
                .to_string();
            assert!(error.contains(path.to_str().unwrap()), "{error}");
        }
    }

    #[tokio::test]
    async fn a_changed_kubeconfig_is_taken_over_and_a_broken_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        std::fs::write(&path, mk_kubeconfig("http://127.0.0.1:1")).unwrap();
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let cluster = Cluster::open(Source::File(path.clone())).await.unwrap();
        assert!(!cluster.reload().await.unwrap());
        std::fs::write(&path, mk_kubeconfig("http://127.0.0.1:2")).unwrap();
        assert!(cluster.reload().await.unwrap());
        std::fs::write(&path, "nonsense: [").unwrap();
        assert!(cluster.reload().await.is_err());
        assert!(
            cluster.transports.0.load().content.ends_with(b"}]\n"),
            "the last good content stays"
        );
    }

    #[tokio::test]
    async fn a_connection_of_its_own_follows_the_credentials() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let cluster = Cluster::given("a", &mk_kubeconfig("http://127.0.0.1:1"))
            .await
            .unwrap();
        let own = OwnConnection::new(cluster.transports.clone()).unwrap();
        let before = own.made.load_full();
        own.client();
        assert!(Arc::ptr_eq(&before, &own.made.load_full()), "nothing has changed");
        assert!(
            cluster
                .take_over(&mk_kubeconfig("http://127.0.0.1:2"))
                .await
                .unwrap()
        );
        own.client();
        let after = own.made.load_full();
        assert!(Arc::ptr_eq(&after.0, &cluster.transports.0.load_full()));
        assert_eq!(after.0.config.cluster_url.port_u16(), Some(2));
    }
}
