//! Sets the descheduler up and runs it until shutdown.

use std::time::Duration;

use kube::Client;
use tensile_runtime::admin::{Admin, AdminError, Readiness};
use tensile_runtime::cluster::{Cluster, ClusterError, Source};
use tensile_runtime::lease::{ApiStore, Candidate, Leadership, process_identity};
use tensile_runtime::recorder::Recorder;
use tensile_runtime::shutdown::Shutdown;
use tensile_runtime::telemetry::TelemetryError;
use tensile_runtime::watch;
use tensile_world::directory::DirectoryError;
use tensile_world::lower::{Companion, Credentials, Feed as ModelFeed};
use tensile_world::source::Sources;
use tensile_world::upper::Feed;
use tokio::sync::watch::Receiver;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::args::Args;
use crate::clock;
use crate::evict::Evictor;
use crate::feed::{ABOVE, Known};
use crate::metrics::Metrics;
use crate::policy::{Policy, PolicyError};
use crate::report::Last;
use crate::round::{Execution, Rounds, publish};

/// Lease of the replica that makes rounds.
const LEASE: &str = "tensile-descheduler";
/// How we sign events.
const CONTROLLER: &str = "tensile-descheduler";
/// Least time between two rounds, so that a storm of refusals does not become a storm of rounds.
const MIN_PAUSE: Duration = Duration::from_secs(1);
/// Time to the next round where this one has begun to make room: an evicted pod needs some time to go.
const SOON: Duration = Duration::from_secs(3);
/// How often it is looked whether everything is known before the first round.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// How long the first round waits for clusters that cannot be judged yet; it then goes on without them.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why the descheduler cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A logging flag is wrong.
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    /// The policy cannot be used.
    #[error(transparent)]
    Policy(#[from] PolicyError),
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
}

/// The campaign for the lease, where there is one, and the events that only its winner sends.
struct Campaign {
    leadership: Receiver<Leadership>,
    recorder: Recorder,
    task: JoinHandle<()>,
}

/// Runs the descheduler until shutdown, or one round if the interval is 0.
///
/// # Errors
/// When the set-up cannot work. Lower clusters that cannot be reached are waited for.
pub async fn run(args: Args, shutdown: Shutdown) -> Result<(), RunError> {
    args.common.init_process()?;
    let policy = match &args.policy_config_file {
        Some(path) => Policy::load(path)?,
        None => Policy::default(),
    };
    let upper = Cluster::open_upper(args.common.kubeconfig.as_deref()).await?;
    let identity = upper.identity().await?;
    let admin = Admin::default();
    let metrics = Metrics::new(&admin.registry)?;
    let watches = watch::Metrics::new(&admin.registry)?;
    let known = Known::new(args.settings());
    let last = Last::default();
    let clusters = Sources {
        upper: &upper.client,
        namespace: &args.common.system_namespace,
        shared: &known.world,
        companion: known.companion(&identity.uid, watches.clone()),
        readiness: &admin.readiness,
        metrics: &watches,
    };
    let clusters = clusters.follow(&args.clusters, &shutdown)?;
    admin
        .serve(args.common.admin_listen, last.clone().router(), shutdown.clone())
        .await?;
    let campaign = (!args.dry_run).then(|| campaign(&upper.client, &args, &shutdown));
    let feed = Feed {
        client: upper.client.clone(),
        shared: known.world.clone(),
        readiness: admin.readiness.clone(),
        metrics: watches.clone(),
    };
    let seen = known.clone();
    let feeds = async {
        tokio::join!(
            clusters,
            upper.follow(&shutdown),
            feed.clone().watch_nodes(),
            feed.clone().watch_pods(|change| seen.pod_changed(change)),
            model_of_upper(&args, &known, &watches).run(),
            known.watch_waiting(upper.client.clone(), &admin.readiness, watches.clone()),
        )
    };
    let rounds = rounds(
        &args,
        &upper.client,
        known.clone(),
        policy,
        campaign.as_ref(),
        metrics,
    );
    tokio::select! {
        _ = feeds => {},
        () = repeat(&args, rounds, &last, campaign.as_ref(), &admin.readiness) => {},
        () = shutdown.wait() => {},
    }
    shutdown.trigger();
    // The lease is given back, so that the next replica need not wait.
    if let Some(campaign) = campaign {
        campaign.recorder.flush().await;
        let _ended = campaign.task.await;
    }
    Ok(())
}

/// Takes part in the election.
fn campaign(upper: &Client, args: &Args, shutdown: &Shutdown) -> Campaign {
    let store = ApiStore::new(upper.clone(), &args.common.system_namespace, LEASE);
    let (leadership, task) = Candidate::new(store, LEASE, &process_identity()).spawn(shutdown.clone());
    Campaign {
        leadership,
        recorder: Recorder::spawn(upper.clone(), CONTROLLER, &process_identity()),
        task,
    }
}

/// The upper cluster is modelled by the same watches as lower ones.
fn model_of_upper(args: &Args, known: &Known, metrics: &watch::Metrics) -> ModelFeed {
    let kubeconfig = args.common.kubeconfig.clone();
    ModelFeed {
        id: ABOVE.to_owned(),
        credentials: Credentials::Source(kubeconfig.map_or(Source::InCluster, Source::File)),
        shared: known.above.clone(),
        metrics: metrics.clone(),
        companion: Companion::default(),
    }
}

fn rounds(
    args: &Args,
    upper: &Client,
    known: Known,
    policy: Policy,
    campaign: Option<&Campaign>,
    metrics: Metrics,
) -> Rounds {
    let evictor = Evictor {
        upper: upper.clone(),
        system_namespace: args.common.system_namespace.clone(),
        grace_period: policy.grace_period,
        profile: policy.profile.clone(),
    };
    let execution = campaign.map(|campaign| {
        let leadership = campaign.leadership.clone();
        Execution {
            recorder: campaign.recorder.clone(),
            may_write: Box::new(move || leadership.borrow().held()),
        }
    });
    Rounds::new(known, policy, execution, evictor, metrics)
}

/// Makes one round after the other while we lead, or a single one.
async fn repeat(
    args: &Args,
    mut rounds: Rounds,
    last: &Last,
    campaign: Option<&Campaign>,
    readiness: &Readiness,
) {
    complete(&rounds.known, readiness).await;
    loop {
        if let Some(campaign) = campaign {
            lead(campaign.leadership.clone()).await;
        }
        let once = args.descheduling_interval.is_zero();
        let report = rounds.round().await;
        let unfinished = report.is_unfinished();
        publish(last, report, once || args.dry_run);
        if once {
            rounds.finish().await;
            return;
        }
        let interval = args.descheduling_interval;
        let interval = if unfinished { interval.min(SOON) } else { interval };
        pause(interval, &rounds).await;
    }
}

/// Waits until everything is known, or for as long as it is worth it.
async fn complete(known: &Known, readiness: &Readiness) {
    let all_known = async {
        while !readiness.unmet().is_empty() || known.doubt().is_some() || !known.is_complete() {
            sleep(LOOK_AGAIN).await;
        }
    };
    if tokio::time::timeout(PATIENCE, all_known).await.is_err() {
        tracing::warn!("not all clusters can be judged; going on with the others");
    }
}

/// Waits until the lease is ours.
async fn lead(mut leadership: Receiver<Leadership>) {
    // The sender lives as long as the campaign.
    let _closed = leadership.wait_for(Leadership::held).await;
}

/// Waits for the interval, or until a pod has been refused for long enough.
async fn pause(interval: Duration, rounds: &Rounds) {
    let start = Instant::now();
    let threshold = rounds
        .policy
        .unschedulable_below
        .as_ref()
        .map(|args| args.threshold_seconds);
    loop {
        let now = clock::now();
        let due = threshold.and_then(|threshold| rounds.known.refused.lock().next_due(threshold, now));
        let early = due.map(|due| Instant::now() + Duration::from_secs(due - now).max(MIN_PAUSE));
        let until = early.map_or(start + interval, |early| early.min(start + interval));
        tokio::select! {
            () = sleep_until(until) => return,
            () = rounds.known.news.notified() => {}
        }
    }
}
