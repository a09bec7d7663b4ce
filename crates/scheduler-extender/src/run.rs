//! Sets the extender up and runs it until shutdown.

use std::net::SocketAddr;
use std::sync::Arc;

use kube::Client;
use tensile_runtime::admin::{Admin, AdminError};
use tensile_runtime::cluster::{Cluster, ClusterError};
use tensile_runtime::serve::{self, Server};
use tensile_runtime::shutdown::Shutdown;
use tensile_runtime::telemetry::TelemetryError;
use tensile_runtime::tls::{self, Alpn, ServingCert, Tls, TlsError};
use tensile_runtime::watch;
use tokio::net::TcpListener;

use crate::args::Args;
use crate::asked::Asked;
use crate::http::Service;
use crate::metrics::Metrics;
use crate::pages::Pages;
use tensile_world::Shared;
use tensile_world::World;
use tensile_world::directory::DirectoryError;
use tensile_world::lower::Companion;
use tensile_world::source::Sources;
use tensile_world::upper::Feed;

/// Why the extender cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A logging flag is wrong.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// The upper cluster cannot be used.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The folder of lower clusters cannot be read.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The admin server cannot run.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// A metric was registered twice.
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    /// The certificate files cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Anybody could bind pods.
    #[error(
        "--listen {0} is not a loopback address; give --tls-cert-file and --tls-private-key-file, or listen on loopback"
    )]
    Plain(SocketAddr),
    /// The address is taken or not ours.
    #[error("cannot listen on --listen {address}: {source}; choose a free address")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
}

/// Runs the extender until shutdown; requests that are under way are answered.
///
/// # Errors
/// When the set-up cannot work. Clusters that cannot be reached are waited for.
pub async fn run(args: Args, shutdown: Shutdown) -> Result<(), RunError> {
    args.common.init_process()?;
    let upper = Cluster::open_upper(args.common.kubeconfig.as_deref()).await?;
    let admin = Admin::default();
    let watches = watch::Metrics::new(&admin.registry)?;
    let shared = Shared::new(World::new(args.settings()));
    let clusters = Sources {
        upper: &upper.client,
        namespace: &args.common.system_namespace,
        shared: &shared,
        companion: Companion::default(),
        readiness: &admin.readiness,
        metrics: &watches,
    };
    let clusters = clusters.follow(&args.clusters, &shutdown)?;
    let feed = Feed {
        client: upper.client.clone(),
        shared: shared.clone(),
        readiness: admin.readiness.clone(),
        metrics: watches,
    };
    let server = serve(&args, &upper.client, &shared, &admin, &shutdown).await?;
    let pages = Pages {
        shared,
        upper: upper.client.clone(),
    };
    admin
        .serve(args.common.admin_listen, pages.router(), shutdown.clone())
        .await?;
    let tasks = async {
        tokio::join!(
            clusters,
            upper.follow(&shutdown),
            feed.clone().watch_nodes(),
            feed.clone().watch_pods(|_| {}),
            feed.watch_told(&args.common.system_namespace),
        )
    };
    tokio::select! { () = server => {}, _ = tasks => {} }
    Ok(())
}

/// Starts to listen; the future that it gives back serves until shutdown and ends with the last request.
async fn serve(
    args: &Args,
    upper: &Client,
    shared: &Shared,
    admin: &Admin,
    shutdown: &Shutdown,
) -> Result<impl Future<Output = ()> + use<>, RunError> {
    let tls = tls(args, shutdown).await?;
    if tls.is_none() && !args.listen.ip().is_loopback() {
        return Err(RunError::Plain(args.listen));
    }
    let metrics = serve::Metrics::register(&admin.registry, "extender")?;
    Metrics::register_hints(&admin.registry, shared.clone())?;
    let server = Server::new(tls.map(Arc::new), serve::Config::default(), metrics);
    let service = Service {
        shared: shared.clone(),
        asked: Asked::default(),
        upper: upper.clone(),
        metrics: Metrics::new(&admin.registry)?,
    };
    let address = args.listen;
    let listener = TcpListener::bind(address)
        .await
        .map_err(|source| RunError::Bind { address, source })?;
    tracing::info!(%address, "serving POST /scheduler/{{filter,prioritize,preempt,bind}}");
    Ok(server.run(listener, service.router(), shutdown.token()))
}

/// TLS from files that are followed as they change; `None` without files.
async fn tls(args: &Args, shutdown: &Shutdown) -> Result<Option<Tls>, RunError> {
    let (Some(cert), Some(key)) = (&args.tls_cert_file, &args.tls_private_key_file) else {
        return Ok(None);
    };
    let serving = Arc::new(ServingCert::default());
    let paths = vec![cert.clone(), key.clone()];
    let seen = tls::read_files(&paths).await?;
    serving.set_pem(&seen[0], &seen[1])?;
    let followed = Arc::clone(&serving);
    let apply = move |new: &[Vec<u8>]| followed.set_pem(&new[0], &new[1]);
    tokio::spawn(tls::follow_files(
        paths,
        seen,
        tls::POLL_INTERVAL,
        shutdown.token(),
        apply,
    ));
    Ok(Some(Tls::new(serving, None, Alpn::Http2AndHttp1)?))
}
