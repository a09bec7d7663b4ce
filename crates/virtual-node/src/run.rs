//! Sets a virtual node up, refuses what cannot work, and runs it while its lease is held.

use std::sync::Arc;

use axum::Router;
use tokio::sync::watch;

use tensile_core::translate::pod::Policy;
use tensile_runtime::admin::{Admin, Condition};
use tensile_runtime::cluster::{self, Cluster, Source};
use tensile_runtime::lease::{ApiStore, Candidate, Leadership};
use tensile_runtime::recorder::Recorder;
use tensile_runtime::shutdown::Shutdown;
use tensile_runtime::watch::Metrics as WatchMetrics;

use crate::args::Args;
use crate::context::{Context, Settings};
use crate::engine::Engine;
use crate::kubelet::{Current, Kubelet};
use crate::metrics::Metrics;
use crate::node::{Identity, check_owner};
use crate::shared::Shared;
use crate::tokens::ApiAddress;

/// Both clusters and who they are.
struct Clusters {
    upper: Cluster,
    upper_id: cluster::Identity,
    lower: Cluster,
    lower_id: cluster::Identity,
}

/// Runs a virtual node until shutdown.
///
/// # Errors
/// When the set-up cannot work; what is only unreachable for now is waited for once it runs.
pub async fn run(args: Args, shutdown: Shutdown) -> anyhow::Result<()> {
    args.common.init_process()?;
    let node_ip = args.node_ip()?.to_string();
    let clusters = open(&args).await?;
    let identity = identity(&args, &node_ip, &clusters.lower_id);
    let admin = Admin::default();
    let metrics = Metrics::new(&admin.registry)?;
    let settings = settings(&args, &clusters, &identity, node_ip.clone());
    let recorder = Recorder::spawn(
        clusters.upper.client.clone(),
        "tensile-virtual-node",
        &args.nodename,
    );
    let engine = Engine {
        upper: clusters.upper.clone(),
        upper_minor: clusters.upper_id.minor,
        lower: clusters.lower.clone(),
        lower_minor: clusters.lower_id.minor,
        identity,
        grace: args.unreachable_grace,
        pod_workers: args.pod_workers.into(),
        readiness: admin.readiness.clone(),
        watch_metrics: WatchMetrics::new(&admin.registry)?,
    };
    check_owner(&engine.upper.client, &args.nodename).await?;
    let leading = admin.readiness.condition("lease");
    admin
        .serve(args.common.admin_listen, Router::new(), shutdown.clone())
        .await?;
    let lease = format!("tensile-{}", args.nodename);
    let store = ApiStore::new(
        clusters.upper.client.clone(),
        &args.common.system_namespace,
        &lease,
    );
    let (leadership, campaign) = Candidate::new(store, &lease, &process_identity()).spawn(shutdown.clone());
    let current = Current::default();
    let kubelet = Kubelet::new(
        &args,
        &node_ip,
        &clusters.upper.client,
        &clusters.lower,
        current.clone(),
        &admin.registry,
    )
    .await?;
    let fresh = || Context {
        upper: clusters.upper.client.clone(),
        lower: clusters.lower.client.clone(),
        shared: Shared::new(&args.nodename, settings.mapping.clone()),
        recorder: recorder.clone(),
        metrics: metrics.clone(),
        settings: settings.clone(),
    };
    let client_ca = admin.readiness.condition("client-ca");
    let serving = tokio::spawn(kubelet.run(shutdown.clone(), client_ca, engine.watch_metrics.clone()));
    tokio::select! {
        () = shutdown.wait() => {}
        () = clusters.upper.follow(&shutdown) => {}
        () = clusters.lower.follow(&shutdown) => {}
        () = lead(&engine, leadership, &leading, &current, fresh) => {}
    }
    shutdown.trigger();
    campaign.await?;
    serving.await?;
    Ok(())
}

async fn open(args: &Args) -> anyhow::Result<Clusters> {
    let upper = Cluster::open_upper(args.common.kubeconfig.as_deref()).await?;
    let lower = Cluster::open(Source::File(args.client_kubeconfig.clone())).await?;
    let (upper_id, lower_id) = tokio::try_join!(upper.identity(), lower.identity())?;
    anyhow::ensure!(
        upper_id.uid != lower_id.uid,
        "--client-kubeconfig opens the upper cluster itself (kube-system has uid {}); give that of another cluster",
        upper_id.uid
    );
    Ok(Clusters {
        upper,
        upper_id,
        lower,
        lower_id,
    })
}

fn identity(args: &Args, node_ip: &str, lower: &cluster::Identity) -> Identity {
    Identity {
        name: args.nodename.clone(),
        cluster_id: args.cluster_id.clone().unwrap_or_else(|| args.nodename.clone()),
        ip: node_ip.to_owned(),
        external_ip: args.external_ip.map(|ip| ip.to_string()),
        port: args.listen().port(),
        labels: args.labels(),
        taint: Some(args.taint()),
        version: lower.version.clone(),
    }
}

fn settings(args: &Args, clusters: &Clusters, identity: &Identity, node_ip: String) -> Arc<Settings> {
    Arc::new(Settings {
        node_name: args.nodename.clone(),
        origin_cluster: clusters.upper_id.uid.clone(),
        node_ip,
        node_labels: identity.labels(),
        ignored_keys: args.ignored_keys(),
        ignore_labels: args.ignored_labels(),
        policy: Policy::default(),
        mapping: args.mapping(),
        mirror_services: args.mirror_services,
        service_account: args.service_account(),
        upper_api: upper_api(args, &clusters.upper),
    })
}

/// Where lower pods reach the upper API server. In a pod, our own way to it is an address inside the upper cluster.
fn upper_api(args: &Args, upper: &Cluster) -> Option<ApiAddress> {
    let from_kubeconfig = args
        .common
        .kubeconfig
        .as_ref()
        .and_then(|_| ApiAddress::of(&upper.server));
    let address = args.upper_api_address.clone().or(from_kubeconfig);
    if address.is_none() {
        tracing::warn!(
            "--upper-api-address is missing: programs in lower pods get tokens, but look for the API server in the \
             lower cluster"
        );
    }
    address
}

/// Runs a fresh engine each time the lease is won, until it is lost or its deadline passes.
async fn lead(
    engine: &Engine,
    mut leadership: watch::Receiver<Leadership>,
    leading: &Condition,
    current: &Current,
    fresh: impl Fn() -> Context,
) {
    loop {
        if leadership.wait_for(Leadership::held).await.is_err() {
            return;
        }
        leading.set(true);
        let context = fresh();
        *current.lock() = Some(context.shared.clone());
        let mut lost = leadership.clone();
        tokio::select! { () = engine.run(&context) => {}, () = until_lost(&mut lost) => {} }
        *current.lock() = None;
        leading.set(false);
        tracing::warn!(node = engine.identity.name, "lease lost: everything stopped");
    }
}

/// Returns when the lease is not ours any more, at the latest at the deadline of the last renewal.
async fn until_lost(leadership: &mut watch::Receiver<Leadership>) {
    loop {
        let Leadership::Held { until } = *leadership.borrow_and_update() else {
            return;
        };
        tokio::select! {
            () = tokio::time::sleep_until(until) => return,
            changed = leadership.changed() => if changed.is_err() { return },
        }
    }
}

/// Differs between processes, also between two on one host.
fn process_identity() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "local".to_owned());
    format!(
        "{host}_{}_{}",
        std::process::id(),
        jiff::Timestamp::now().as_nanosecond()
    )
}
