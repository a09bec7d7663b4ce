//! What a round costs at scale: memory of all that is known, and the time to plan.
//!
//! `cargo bench -p tensile-descheduler --bench rounds [-- NODES PODS]` with nodes and pods of each of ten clusters; by
//! default 1 000 nodes with 10 000 pods each. Fifty pods of an owner; every twentieth owner shares its pods out by
//! `tensile.dev/split`, another one spreads them over clusters. Times are of this machine, on one core: compare the rows
//! of one run only.

#[path = "../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use support::{Fleet, START, mk_pod, node_of};
use tensile_core::names;
use tensile_descheduler::policy::{Limits, Policy};
use tensile_descheduler::strategies::{make_room, spread_violation};

const CLUSTERS: [&str; 10] = ["c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8", "c9"];
const CPUS: usize = 16;
/// Replicas of an owner.
const REPLICAS: usize = 50;
/// One owner in so many has a split, and one a spread.
const SHARED: usize = 20;
/// Pods that their lower cluster refuses, half of which fit nowhere; pods that wait above for room.
const STUCK: usize = 500;
const BIG: usize = 20;
/// Rounds of each kind; the median counts.
const ROUNDS: usize = 5;
/// When the round is, in seconds after the start: everybody has waited for long enough.
const NOW: u64 = 3600;

fn main() {
    let sizes: Vec<usize> = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .collect();
    let (nodes, pods) = match sizes[..] {
        [nodes, pods] => (nodes, pods),
        _ => (1_000, 10_000),
    };
    let before = resident_megabytes();
    let mut fleet = mk_fleet(nodes, pods);
    let all = CLUSTERS.len() * pods;
    println!(
        "{} clusters x {nodes} nodes, {all} pods: {} MB resident, {} MB of them known objects\n",
        CLUSTERS.len(),
        resident_megabytes(),
        resident_megabytes() - before
    );
    println!("| round | planned in | moves | stays |\n|---|---|---|---|");
    let base = Policy {
        limits: Limits {
            total: None,
            ..Limits::default()
        },
        ..Policy::default()
    };
    let make_room = Some(make_room::Args::default());
    let spread_violation = Some(spread_violation::Args::default());
    report(
        "nothing is stuck, all strategies",
        &mut fleet,
        &Policy {
            make_room: make_room.clone(),
            spread_violation: spread_violation.clone(),
            ..base.clone()
        },
    );
    stick(&mut fleet);
    report("UnschedulableBelow, 500 stuck", &mut fleet, &base);
    report(
        "and SpreadViolation",
        &mut fleet,
        &Policy {
            spread_violation: spread_violation.clone(),
            ..base.clone()
        },
    );
    wait(&mut fleet);
    report(
        "and MakeRoom, 20 wait",
        &mut fleet,
        &Policy {
            make_room,
            spread_violation,
            ..base
        },
    );
    println!("\n{} MB resident at the end", resident_megabytes());
}

fn report(what: &str, fleet: &mut Fleet, policy: &Policy) {
    let mut times: Vec<(Duration, usize, usize)> = (0..ROUNDS)
        .map(|_| {
            fleet.avoidance = tensile_core::avoidance::Avoidance::default();
            let start = Instant::now();
            let plan = fleet.plan(START + NOW, policy);
            (start.elapsed(), plan.moves.len(), plan.stays.len())
        })
        .collect();
    times.sort();
    let (time, moves, stays) = times[ROUNDS / 2];
    println!("| {what} | {} ms | {moves} | {stays} |", time.as_millis());
}

/// Ten pods of 0.4 to 1.2 CPUs on each node of 16.
fn mk_fleet(nodes: usize, pods: usize) -> Fleet {
    let mut fleet = Fleet::new(&CLUSTERS, nodes, CPUS);
    for index in 0..CLUSTERS.len() * pods {
        // Replicas of an owner are in all clusters, as their spread wants it.
        let (cluster, number) = (index % CLUSTERS.len(), index / CLUSTERS.len());
        let pod = mk_running(index, CLUSTERS[cluster]);
        fleet.tell(&pod);
        fleet.put(
            CLUSTERS[cluster],
            &pod,
            &format!("{}{}", CLUSTERS[cluster], number % nodes),
        );
    }
    fleet
}

fn mk_running(index: usize, cluster: &str) -> Value {
    let owner = index / REPLICAS;
    let milli_cpu = 400 + 100 * (owner % 9) as u64;
    let mut pod = mk_pod(&format!("pod-{index}"), &format!("owner-{owner}"), milli_cpu, 0);
    pod["metadata"]["labels"] = json!({"app": format!("app-{owner}"), "virtual-pod": "true"});
    pod["spec"]["nodeName"] = json!(node_of(cluster));
    pod["status"]["phase"] = json!("Running");
    match owner % SHARED {
        0 => {
            let shares: serde_json::Map<String, Value> = CLUSTERS
                .iter()
                .map(|cluster| {
                    (
                        (*cluster).to_owned(),
                        json!({"replicas": REPLICAS / CLUSTERS.len()}),
                    )
                })
                .collect();
            let split = json!({"key": names::CLUSTER_ID, "strategy": "Balance", "shares": shares});
            pod["metadata"]["annotations"] = json!({names::SPLIT: split.to_string()});
        }
        1 => {
            pod["spec"]["topologySpreadConstraints"] = json!([{
                "maxSkew": 1, "topologyKey": names::CLUSTER_ID, "whenUnsatisfiable": "DoNotSchedule",
                "labelSelector": {"matchLabels": {"app": format!("app-{owner}")}}
            }]);
        }
        _ => {}
    }
    pod
}

/// Pods that their lower cluster refuses: half of them would fit another one, the other half fits nowhere.
fn stick(fleet: &mut Fleet) {
    for index in 0..STUCK {
        let cluster = CLUSTERS[index % CLUSTERS.len()];
        let milli_cpu = if index < STUCK / 2 {
            1500
        } else {
            1000 * CPUS as u64 + 500
        };
        let mut pod = mk_pod(
            &format!("stuck-{index}"),
            &format!("stuck-owner-{}", index / 5),
            milli_cpu,
            0,
        );
        pod["spec"]["nodeName"] = json!(node_of(cluster));
        fleet.tell(&pod);
        fleet.refuse(cluster, &pod, index as u64);
    }
}

/// Pods that need more room than any node has, but would have if three of its largest pods went.
fn wait(fleet: &mut Fleet) {
    for index in 0..BIG {
        let pod = mk_pod(&format!("big-{index}"), &format!("big-owner-{index}"), 10_500, 0);
        fleet.wait(&pod, 0);
    }
}

/// Resident memory of this process (`/proc/self/statm` counts pages of 4 KiB on the machines we build for).
fn resident_megabytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse::<usize>().ok());
    (pages.unwrap_or_default() * 4096) >> 20
}
