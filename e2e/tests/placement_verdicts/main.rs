//! Our fit beside the verdicts of a real kube-scheduler: random lower clusters, random pods, every predicate.
//!
//! In each state of the cluster many pods are tried one after the other; the scheduler's verdict on every node must be
//! ours. Then some pods are really placed: each is bound if, and only if, we say that it fits.

mod objects;
#[path = "../../../crates/webhook/tests/support/random.rs"]
mod random;
mod scheduler;
mod state;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use e2e::{TestResult, support};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;
use kube::api::{DeleteParams, ListParams};
use random::Random;
use scheduler::{PLACE, Scheduler};
use serde_json::{Value, json};
use tensile_core::labels::Selector;
use tensile_placement::{Candidate, Cluster as Model, Fit, Pod as ModelPod};

/// Any; another one gives other clusters and pods.
const FIXED_SEED: u64 = 20_261_123;
/// States of the cluster with each seed.
const STATES: usize = 6;
/// Pods that are tried in each state, of which the API server refuses some, and pods that are then placed.
const TRIED: usize = 200;
const PLACED: usize = 10;
/// Longest time for the scheduler to try some pods.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long the scheduler may see an older state than the API server shows: pods on which it says something else are
/// asked about again until then.
const LAG: Duration = Duration::from_secs(10);
/// Requests at a time.
const PARALLEL: usize = 8;

/// What was asked, and how the answers were.
#[derive(Debug, Default)]
struct Score {
    cases: usize,
    fitting: usize,
    nodes_yes: usize,
    nodes_no: usize,
    placed: usize,
}

/// A pod with what we say and what the scheduler said: the nodes on which it may run.
#[derive(Debug)]
struct Case {
    pod: Value,
    ours: BTreeSet<String>,
    theirs: BTreeSet<String>,
    said: String,
}

// === what both say ===

/// The nodes on which the pod fits, by our filters, and why it does not elsewhere.
fn ours(model: &Model, candidate: &Candidate) -> Result<(BTreeSet<String>, BTreeMap<String, String>)> {
    let (mut yes, mut no) = (BTreeSet::new(), BTreeMap::new());
    for node in model.nodes() {
        let name = node.name.to_string();
        let pool: Selector =
            serde_json::from_value(json!({"matchLabels": {"kubernetes.io/hostname": name}}))?;
        let fit = Fit::of(model, candidate, Some(&pool));
        if fit.fitting == 1 {
            yes.insert(name);
        } else {
            no.insert(name, fit.summary());
        }
    }
    let whole = Fit::of(model, candidate, None);
    ensure!(
        whole.fitting as usize == yes.len(),
        "the sum over the nodes is {whole:?}, of {yes:?}"
    );
    ensure!(
        whole.unknown.is_empty(),
        "the pods of this test have nothing unknown: {:?}",
        whole.unknown
    );
    Ok((yes, no))
}

/// Creates pods, waits until the scheduler has tried them, and deletes them.
async fn try_pods(
    scheduler: &Scheduler,
    client: &Client,
    model: &Model,
    pods: Vec<Value>,
) -> Result<Vec<Case>> {
    let create = |pod: Value| async { state::create_if_valid(&state::pods(client, &pod), pod).await };
    let made: Vec<Option<Pod>> = stream::iter(pods)
        .map(create)
        .buffer_unordered(PARALLEL)
        .try_collect()
        .await?;
    let names: BTreeSet<String> = made
        .iter()
        .flatten()
        .filter_map(|pod| pod.metadata.name.clone())
        .collect();
    let api = kube::Api::<Pod>::all(client.clone());
    let tried = support::await_condition("the pods to have been tried", DEADLINE, || async {
        let pods = api.list(&ListParams::default()).await?.items;
        let tried: Vec<Pod> = pods
            .into_iter()
            .filter(|pod| names.contains(pod.metadata.name.as_deref().unwrap_or_default()))
            .filter(|pod| said(pod).is_some())
            .collect();
        ensure!(
            tried.len() == names.len(),
            "{} of {} were",
            tried.len(),
            names.len()
        );
        Ok(Some(tried))
    })
    .await?;
    let mut cases = Vec::with_capacity(tried.len());
    for pod in &tried {
        let json = serde_json::to_value(pod)?;
        let name = pod.metadata.name.as_deref().unwrap_or_default();
        state::pods(client, &json)
            .delete(name, &DeleteParams::default().grace_period(0))
            .await?;
        let (ours, why) = ours(model, &Candidate::new(&json)?)?;
        cases.push(Case {
            theirs: scheduler.take_verdict(name),
            said: format!("{}\nwe say: {why:#?}", said(pod).unwrap_or_default()),
            pod: json,
            ours,
        });
    }
    Ok(cases)
}

/// What the scheduler said of a pod that it did not place.
fn said(pod: &Pod) -> Option<String> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions
        .iter()
        .find(|condition| condition.type_ == "PodScheduled" && condition.status == "False")?;
    Some(condition.message.clone().unwrap_or_default())
}

/// As it was before it was created, under another name.
fn renamed(pod: &Value, name: &str) -> Value {
    let metadata = &pod["metadata"];
    json!({
        "metadata": {"name": name, "namespace": metadata["namespace"], "labels": metadata["labels"]},
        "spec": pod["spec"],
    })
}

// === one state ===

/// Tries pods until the verdicts agree; what still differs once the scheduler must have seen everything is a bug.
async fn agree(
    scheduler: &Scheduler,
    client: &Client,
    model: &Model,
    random: &mut Random,
    score: &mut Score,
) -> Result<()> {
    let until = Instant::now() + LAG;
    let mut pods: Vec<Value> = (0..TRIED)
        .map(|index| objects::pod(random, &format!("try-{index}")))
        .collect();
    for round in 0.. {
        let cases = try_pods(scheduler, client, model, pods).await?;
        let (agreed, disputed): (Vec<Case>, Vec<Case>) =
            cases.into_iter().partition(|case| case.ours == case.theirs);
        for case in &agreed {
            score.cases += 1;
            score.fitting += usize::from(!case.ours.is_empty());
            score.nodes_yes += case.ours.len();
            score.nodes_no += model.nodes().count() - case.ours.len();
        }
        let Some(case) = disputed.first() else { break };
        ensure!(
            Instant::now() < until,
            "{} disagree, such as:\nwe say {:?}\nthe scheduler says {:?}: {}\n{}",
            disputed.len(),
            case.ours,
            case.theirs,
            case.said,
            renamed(&case.pod, "pod"),
        );
        let again = disputed.iter().enumerate();
        pods = again
            .map(|(index, case)| renamed(&case.pod, &format!("again-{round}-{index}")))
            .collect();
    }
    Ok(())
}

/// Lets the scheduler place pods, one after the other, and takes each that is bound into the model.
async fn place(client: &Client, model: &mut Model, random: &mut Random, score: &mut Score) -> Result<()> {
    let mut done = 0;
    for index in 0.. {
        if done == PLACED {
            break;
        }
        let name = format!("place-{index}");
        let mut pod = objects::pod(random, &name);
        // Nobody provisions volumes here, so that pods with claims would wait for ever.
        pod["spec"]["volumes"] = json!(null);
        pod["metadata"]["annotations"] = json!({PLACE: "yes"});
        let api = state::pods(client, &pod);
        let Some(made) = state::create_if_valid(&api, pod).await? else {
            continue;
        };
        let candidate = Candidate::new(&serde_json::to_value(&made)?)?;
        let (fits, why) = ours(model, &candidate)?;
        let decided = support::await_condition("a pod to be placed or refused", DEADLINE, || async {
            let pod = api.get(&name).await?;
            Ok((node_of(&pod).is_some() || said(&pod).is_some()).then_some(pod))
        })
        .await?;
        match node_of(&decided) {
            Some(node) => ensure!(
                fits.contains(node),
                "placed on {node}, we say {fits:?}: {why:#?}\n{made:#?}"
            ),
            None => ensure!(
                fits.is_empty(),
                "refused ({:?}), we say {fits:?}\n{made:#?}",
                said(&decided)
            ),
        }
        score.cases += 1;
        score.fitting += usize::from(!fits.is_empty());
        score.placed += usize::from(node_of(&decided).is_some());
        model.apply_pod(&serde_json::from_value::<ModelPod>(serde_json::to_value(
            decided,
        )?)?);
        done += 1;
    }
    Ok(())
}

fn node_of(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref()
}

async fn run(scheduler: &Scheduler, seed: u64, score: &mut Score) -> Result<()> {
    let client = scheduler.cluster.client().await?;
    let mut random = Random(seed);
    for _ in 0..STATES {
        state::make(&client, &mut random).await?;
        let mut model = state::model(&client).await?;
        agree(scheduler, &client, &model, &mut random, score).await?;
        place(&client, &mut model, &mut random, score).await?;
        state::remove(&client).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_scheduler_places_a_pod_if_and_only_if_we_say_that_it_fits() -> TestResult {
    let fresh =
        u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos() % u128::from(u64::MAX))?;
    let seeds = match std::env::var("TENSILE_VERDICT_SEED") {
        Ok(seed) => vec![seed.parse()?],
        Err(_) => vec![FIXED_SEED, fresh],
    };
    let scheduler = Scheduler::start().await?;
    state::make_frame(&scheduler.cluster.client().await?).await?;
    let mut score = Score::default();
    for seed in &seeds {
        println!("TENSILE_VERDICT_SEED={seed}");
        run(&scheduler, *seed, &mut score).await?;
    }
    println!("{score:?}");
    let per_seed = score.cases / seeds.len();
    assert!(per_seed >= 1_000, "too few cases: {score:?}");
    let share = |part: usize, whole: usize| 100 * part / whole.max(1);
    assert!(
        (20..=80).contains(&share(score.fitting, score.cases)),
        "both answers are common: {score:?}"
    );
    assert!(
        (5..=95).contains(&share(score.nodes_yes, score.nodes_yes + score.nodes_no)),
        "{score:?}"
    );
    assert!(score.placed > 0, "some were placed: {score:?}");
    Ok(())
}
