//! Sets the process up, refuses what cannot work, and runs its lower clusters: one from flags, or many from Secrets.

use std::sync::Arc;

use tensile_runtime::admin::Admin;
use tensile_runtime::cluster::{Cluster, Source};
use tensile_runtime::clusters::{Clusters, NodeConfig, Reporter};
use tensile_runtime::shutdown::Shutdown;
use tensile_runtime::watch::Metrics as WatchMetrics;

use crate::args::{Args, ArgsError};
use crate::debug;
use crate::leaving::Leaving;
use crate::lower::LowerCluster;
use crate::process::Process;
use crate::supervisor::Supervisor;

/// Runs virtual nodes until shutdown.
///
/// # Errors
/// When the set-up cannot work; what is only unreachable for now is waited for once it runs.
pub async fn run(args: Args, shutdown: Shutdown) -> anyhow::Result<()> {
    args.common.init_process()?;
    args.check()?;
    let process = Arc::new(Process::open(args).await?);
    let admin = Admin::default();
    admin.registry.register(Box::new(process.registries.clone()))?;
    if process.args.clusters.clusters_from_secrets {
        from_secrets(process, &admin, shutdown).await
    } else {
        from_flags(process, &admin, shutdown).await
    }
}

async fn serve_admin(process: &Process, admin: &Admin, shutdown: &Shutdown) -> anyhow::Result<()> {
    let address = process.args.common.admin_listen;
    let debug = debug::router(process.registries.clone());
    Ok(admin.serve(address, debug, shutdown.clone()).await?)
}

/// One cluster with one virtual node, as in tensile-kube.
async fn from_flags(process: Arc<Process>, admin: &Admin, shutdown: Shutdown) -> anyhow::Result<()> {
    let args = &process.args;
    let name = args.nodename.clone();
    let kubeconfig = args.client_kubeconfig.clone().ok_or(ArgsError::NoCluster)?;
    let cluster = Cluster::open(Source::File(kubeconfig)).await?;
    let nodes = [(args.clone(), NodeConfig::new(&name))];
    let id = args.cluster_id.clone().unwrap_or_else(|| name.clone());
    let lower = LowerCluster::new(
        process.clone(),
        &id,
        &format!("tensile-{name}"),
        &cluster,
        &nodes,
        admin.readiness.clone(),
        shutdown.clone(),
    )
    .await?;
    lower.check().await?;
    serve_admin(&process, admin, &shutdown).await?;
    let upper = &process.upper;
    let stays = Leaving::new(
        upper.client.clone(),
        cluster.client.clone(),
        &process.upper_id.uid,
        vec![name],
        None,
    );
    tokio::join!(
        lower.run(stays),
        upper.follow(&shutdown),
        cluster.follow(&shutdown)
    );
    Ok(())
}

/// Any number of clusters, which come and go.
async fn from_secrets(process: Arc<Process>, admin: &Admin, shutdown: Shutdown) -> anyhow::Result<()> {
    let client = process.upper.client.clone();
    let clusters = Clusters {
        client: client.clone(),
        namespace: process.args.common.system_namespace.clone(),
        ready: admin.readiness.condition("cluster-secrets"),
        metrics: WatchMetrics::new(&admin.registry)?,
        reporter: Some(Reporter::new(client, "tensile-virtual-node")),
    };
    serve_admin(&process, admin, &shutdown).await?;
    let upper = process.upper.clone();
    let mut supervisor = Supervisor::new(process, shutdown.clone());
    tokio::select! {
        () = clusters.run(|change| supervisor.change(change)) => {}
        () = upper.follow(&shutdown) => {}
        () = shutdown.wait() => {}
    }
    supervisor.end().await;
    Ok(())
}
