//! Sets the webhook up and runs it until shutdown.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::runtime::watcher;
use kube::{Api, Client};
use tensile_core::avoidance;
use tensile_runtime::admin::{Admin, AdminError};
use tensile_runtime::cluster::{Cluster, ClusterError};
use tensile_runtime::lease::{ApiStore, Candidate, process_identity};
use tensile_runtime::object::{Meta, Namespaces};
use tensile_runtime::serve::{self, Server};
use tensile_runtime::shutdown::Shutdown;
use tensile_runtime::telemetry::TelemetryError;
use tensile_runtime::tls::{self, Alpn, ServingCert, Tls, TlsError};
use tensile_runtime::watch::{self, Watch};
use tokio::net::TcpListener;

use crate::args::Args;
use crate::certs::bundle::SECRET;
use crate::certs::keeper::{Keeper, Settings};
use crate::http::Service;
use crate::known::Known;
use crate::memo::Memo;
use crate::metrics::{CertificateEnd, Metrics};

/// Lease of the replica that keeps the self-signed certificates.
const LEASE: &str = "tensile-webhook";

/// How long an idle connection is kept. API servers drop theirs after 90 s (Go's `IdleConnTimeout` in client-go);
/// if we were first, a review sent at that moment would be lost, and with it a pod.
const IDLE: Duration = Duration::from_secs(120);

/// Why the webhook cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A logging flag is wrong.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// The upper cluster cannot be used.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The admin server cannot run.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// A metric was registered twice.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The certificate files cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address is taken or not ours.
    #[error("cannot listen on --listen {address}: {source}; choose a free address")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// What the tasks share.
struct Webhook {
    args: Args,
    client: Client,
    admin: Admin,
    watches: watch::Metrics,
    shutdown: Shutdown,
}

/// Runs the webhook until shutdown; requests that are under way are answered.
///
/// # Errors
/// When the set-up cannot work. A cluster that cannot be reached is waited for.
pub async fn run(args: Args, shutdown: Shutdown) -> Result<(), RunError> {
    args.common.init_process()?;
    let cluster = Cluster::open_upper(args.common.kubeconfig.as_deref()).await?;
    let admin = Admin::default();
    let webhook = Webhook {
        client: cluster.client.clone(),
        watches: watch::Metrics::new(&admin.registry)?,
        admin,
        shutdown: shutdown.clone(),
        args,
    };
    let serving = Arc::new(ServingCert::default());
    let known = Arc::new(Known::default());
    webhook.watch_namespaces(&known);
    webhook.watch_avoidance(&known);
    let kept = webhook.certificates(&serving).await?;
    let server = webhook.serve(Arc::clone(&serving), known).await?;
    webhook
        .admin
        .serve(webhook.args.common.admin_listen, Router::new(), shutdown.clone())
        .await?;
    tokio::spawn(async move { cluster.follow(&shutdown).await });
    server.await;
    // The lease is given back, so that the next replica need not wait.
    if let Some(campaign) = kept {
        let _ended = campaign.await;
    }
    Ok(())
}

// === impl Webhook ===

impl Webhook {
    fn watch<K: Clone>(&self, api: Api<K>, config: watcher::Config, name: &'static str) -> Watch<K> {
        let ready = self.admin.readiness.condition(name);
        Watch {
            api,
            config,
            name,
            ready,
            metrics: self.watches.clone(),
        }
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let shutdown = self.shutdown.clone();
        tokio::spawn(async move {
            tokio::select! { () = task => {}, () = shutdown.wait() => {} }
        });
    }

    fn watch_namespaces(&self, known: &Arc<Known>) {
        let api: Api<Meta<Namespaces>> = Api::all(self.client.clone());
        let known = Arc::clone(known);
        let watch = self.watch(api, watcher::Config::default(), "namespaces");
        self.spawn(watch.run(move |change| known.namespace_changed(change)));
    }

    fn watch_avoidance(&self, known: &Arc<Known>) {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.args.common.system_namespace);
        let known = Arc::clone(known);
        let watch = self.watch(api, one(avoidance::CONFIG_MAP), "avoidance");
        self.spawn(watch.run(move |change| known.avoidance_changed(change)));
    }

    /// Fills `serving` from files or with certificates of our own; gives back the campaign for the lease.
    async fn certificates(
        &self,
        serving: &Arc<ServingCert>,
    ) -> Result<Option<tokio::task::JoinHandle<()>>, RunError> {
        let flags = &self.args.certificate;
        if let (Some(cert), Some(key)) = (&flags.tls_cert_file, &flags.tls_private_key_file) {
            self.follow_files(vec![cert.clone(), key.clone()], serving)
                .await?;
            return Ok(None);
        }
        let settings = Settings {
            namespace: self.args.common.system_namespace.clone(),
            configuration: flags.webhook_configuration.clone().unwrap_or_default(),
            life: flags.certificate_lifetime,
        };
        Ok(Some(self.keep(settings, serving)))
    }

    async fn follow_files(&self, paths: Vec<PathBuf>, serving: &Arc<ServingCert>) -> Result<(), RunError> {
        let seen = tls::read_files(&paths).await?;
        serving.set_pem(&seen[0], &seen[1])?;
        let serving = Arc::clone(serving);
        let stop = self.shutdown.token();
        tokio::spawn(tls::follow_files(
            paths,
            seen,
            tls::POLL_INTERVAL,
            stop,
            move |new| serving.set_pem(&new[0], &new[1]),
        ));
        Ok(())
    }

    fn keep(&self, settings: Settings, serving: &Arc<ServingCert>) -> tokio::task::JoinHandle<()> {
        let namespace = settings.namespace.clone();
        let configuration = settings.configuration.clone();
        let ready = self.admin.readiness.condition("certificate");
        let keeper = Arc::new(Keeper::new(
            self.client.clone(),
            settings,
            Arc::clone(serving),
            ready,
        ));

        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &namespace);
        let watch = self.watch(secrets, one(SECRET), "certificate-secret");
        let seen = Arc::clone(&keeper);
        self.spawn(watch.run(move |change| seen.secret_changed(change)));

        let configurations: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let watch = self.watch(configurations, one(&configuration), "webhook-configuration");
        let seen = Arc::clone(&keeper);
        self.spawn(watch.run(move |change| seen.configuration_changed(change)));

        let store = ApiStore::new(self.client.clone(), &namespace, LEASE);
        let (leadership, campaign) =
            Candidate::new(store, LEASE, &process_identity()).spawn(self.shutdown.clone());
        self.spawn(async move { keeper.keep(leadership).await });
        campaign
    }

    /// Starts to listen; the future that it gives back serves until shutdown and ends with the last request.
    async fn serve(
        &self,
        serving: Arc<ServingCert>,
        known: Arc<Known>,
    ) -> Result<impl Future<Output = ()> + use<>, RunError> {
        let registry = &self.admin.registry;
        let service = Service {
            memo: Arc::new(Memo::new(self.args.rules())),
            known,
            metrics: Metrics::new(registry)?,
            upper: Some(self.client.clone()),
        };
        registry.register(Box::new(CertificateEnd::new(Arc::clone(&serving))?))?;
        let tls = Tls::new(serving, None, Alpn::Http2AndHttp1)?;
        let config = serve::Config {
            head_timeout: IDLE,
            ..serve::Config::default()
        };
        let server = Server::new(
            Some(Arc::new(tls)),
            config,
            serve::Metrics::register(registry, "webhook")?,
        );
        let address = self.args.listen;
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| RunError::Bind { address, source })?;
        tracing::info!(%address, "serving POST /mutate");
        Ok(server.run(listener, service.router(), self.shutdown.token()))
    }
}

/// A watch of one object.
fn one(name: &str) -> watcher::Config {
    watcher::Config::default().fields(&format!("metadata.name={name}"))
}
