//! How many pods are parked Pending below, where much is free in fragments that are too small.

use anyhow::{Result, ensure};
use e2e::measure::{Line, Report, Table};
use e2e::support;
use e2e::virtual_node::VirtualNodeSpec;
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use serde_json::Value;

use crate::ground::{DEADLINE, Ground, LOWER, NODES, Place, Upper, clear, create, mk_pod, pods};

/// Nodes of each lower cluster of which half is in use; on them is no room for a pod.
const FRAGMENTED: usize = 20;
const FRAGMENT: usize = 1_000;
/// Pods, and what they ask for: by the sums there is room for 78, by the nodes for 30.
const PODS: usize = 60;
const REQUEST: usize = 1_500;
const ROOM: usize = LOWER.len() * (NODES - FRAGMENTED);

/// What became of the pods.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    bound: usize,
    running: usize,
    parked: usize,
}

pub(crate) async fn measure(ground: &Ground, report: &mut Report) -> Result<()> {
    for (id, cluster) in LOWER.into_iter().zip(&ground.lower) {
        let fillers: Result<Vec<Value>> = (0..FRAGMENTED).map(|index| mk_filler(id, index)).collect();
        create(&cluster.client().await?, fillers?).await?;
    }
    let mut rows = Vec::new();
    for upper in ground.uppers() {
        eprintln!("{PODS} pods {}", upper.what);
        let Outcome {
            bound,
            running,
            parked,
        } = place(ground, upper).await?;
        rows.push(
            [
                upper.what.to_owned(),
                bound.to_string(),
                running.to_string(),
                parked.to_string(),
            ]
            .to_vec(),
        );
        let line = Line::new(
            format!("pods parked Pending below, {}", upper.what),
            parked as f64,
            "",
            format!("{bound} of {PODS} bound, {running} run"),
        );
        let goal = std::ptr::eq(upper, &ground.with);
        report.lines.push(if goal { line.at_most(0.0) } else { line });
    }
    report.tables.push(Table {
        title: format!("{PODS} pods, room for {ROOM}, the rest free in fragments"),
        header: ["scheduler", "bound above", "run below", "parked below"]
            .map(str::to_owned)
            .to_vec(),
        rows,
    });
    Ok(())
}

fn mk_filler(id: &str, index: usize) -> Result<Value> {
    let mut pod = mk_pod(&format!("filler-{index}"), FRAGMENT, Place::Virtual)?;
    pod["metadata"]["labels"]["app"] = "filler".into();
    pod["spec"]["schedulerName"] = Value::Null;
    pod["spec"]["nodeName"] = format!("lower-{id}-{index}").into();
    Ok(pod)
}

/// Lets the scheduler place the pods on virtual nodes of its own.
async fn place(ground: &Ground, upper: &Upper) -> Result<Outcome> {
    let client = upper.cluster.client().await?;
    let mut nodes = Vec::new();
    for (id, cluster) in LOWER.into_iter().zip(&ground.lower) {
        let spec = VirtualNodeSpec::new(&format!("virtual-{id}")).args([format!("--cluster-id={id}")]);
        nodes.push(spec.start(&upper.cluster, cluster).await?);
    }
    let all: Result<Vec<Value>> = (0..PODS)
        .map(|index| mk_pod(&format!("pod-{index}"), REQUEST, Place::Virtual))
        .collect();
    create(&client, all?).await?;
    let ours = ListParams::default().labels("app=bench");
    let outcome = support::await_condition("every pod to be decided on both levels", DEADLINE, || async {
        let above = pods(&client).list(&ListParams::default()).await?.items;
        let mut outcome = Outcome {
            bound: above.iter().filter(|pod| is_bound(pod)).count(),
            ..Outcome::default()
        };
        let refused = above
            .iter()
            .filter(|pod| !is_bound(pod) && is_refused(pod))
            .count();
        for cluster in &ground.lower {
            let below = pods(&cluster.client().await?).list(&ours).await?.items;
            outcome.running += below.iter().filter(|pod| is_bound(pod)).count();
            outcome.parked += below
                .iter()
                .filter(|pod| !is_bound(pod) && is_refused(pod))
                .count();
        }
        let decided = outcome.bound + refused == PODS && outcome.running + outcome.parked == outcome.bound;
        // By sums, a cluster may get fewer pods than it has room for, and then others more.
        let full = outcome.running == ROOM || std::ptr::eq(upper, &ground.without);
        ensure!(decided && full, "{outcome:?}, {refused} refused");
        Ok(Some(outcome))
    })
    .await?;
    clear(&client).await?;
    // Else the virtual nodes of the next scheduler find them there.
    for cluster in &ground.lower {
        support::pods_gone(&pods(&cluster.client().await?), &ours, DEADLINE).await?;
    }
    drop(nodes);
    Ok(outcome)
}

fn is_bound(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|spec| spec.node_name.is_some())
}

fn is_refused(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let mut refusals =
        conditions.filter(|condition| condition.type_ == "PodScheduled" && condition.status == "False");
    refusals.next().is_some()
}
