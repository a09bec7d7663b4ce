//! What the model costs at scale: memory per pod, and the time to answer one pod over all clusters.
//!
//! `cargo bench -p tensile-placement --bench scale [-- CLUSTERS NODES PODS]` with nodes and pods per cluster; by
//! default 100 clusters of 1 000 nodes with 10 000 pods each. Every question scans all nodes. Times are of this
//! machine: compare the columns of one run only.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tensile_placement::scale::{mk_cluster, mk_pod, resident_bytes};
use tensile_placement::{Candidate, Cluster, Fit, Pod};

/// Questions of each kind; the 99th percentile needs at least a hundred.
const QUESTIONS: usize = 200;

fn main() {
    let sizes: Vec<usize> = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .collect();
    let [clusters, nodes, pods] = sizes[..] else {
        return run(100, 1_000, 10_000);
    };
    run(clusters, nodes, pods);
}

fn run(clusters: usize, nodes: usize, pods: usize) {
    let before = resident_bytes();
    let start = Instant::now();
    let mut model: Vec<Cluster> = (0..clusters)
        .map(|index| mk_cluster(index, nodes, pods))
        .collect();
    let filled = start.elapsed();
    let bytes = resident_bytes() - before;
    println!("{clusters} clusters x {nodes} nodes, {} pods", clusters * pods);
    println!(
        "filled in {filled:.1?}, {} MB, {} bytes per pod",
        bytes >> 20,
        bytes / (clusters * pods)
    );
    for (name, spec) in questions() {
        let candidate = mk_candidate(&spec);
        let ask = |_| {
            let start = Instant::now();
            let fitting: u32 = model
                .iter()
                .map(|cluster| Fit::of(cluster, &candidate, None).fitting)
                .sum();
            (start.elapsed(), fitting)
        };
        let answers: Vec<(Duration, u32)> = (0..QUESTIONS).map(ask).collect();
        report(name, answers);
    }
    let moved: Pod = serde_json::from_value(mk_pod(0, 0, nodes)).unwrap_or_default();
    let start = Instant::now();
    for _ in 0..QUESTIONS {
        model[0].delete_pod(moved.key);
        model[0].apply_pod(&moved);
    }
    println!(
        "{:>24}: {:.1?} each",
        "a pod goes and comes",
        start.elapsed() / QUESTIONS as u32
    );
}

fn report(name: &str, mut answers: Vec<(Duration, u32)>) {
    answers.sort();
    let (p50, p99) = (answers[answers.len() / 2], answers[answers.len() * 99 / 100]);
    println!(
        "{name:>24}: p50 {:.1?}, p99 {:.1?}, {} nodes fit",
        p50.0, p99.0, p50.1
    );
}

/// The constraints that a pod asks with.
fn questions() -> Vec<(&'static str, Value)> {
    let requests =
        |cpu: &str| json!([{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}}]);
    let term = json!({"labelSelector": {"matchLabels": {"app": "app-3"}}, "topologyKey": "topology.kubernetes.io/zone"});
    let spread = json!([{
        "maxSkew": 5, "topologyKey": "topology.kubernetes.io/zone", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "app-3"}}
    }]);
    vec![
        ("fits", json!({"containers": requests("1")})),
        ("too large", json!({"containers": requests("20")})),
        (
            "node selector",
            json!({"containers": requests("1"), "nodeSelector": {"topology.kubernetes.io/zone": "z1"}}),
        ),
        (
            "topology spread",
            json!({"containers": requests("1"), "topologySpreadConstraints": spread}),
        ),
        (
            "pod affinity",
            json!({
                "containers": requests("1"),
                "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}
            }),
        ),
    ]
}

fn mk_candidate(spec: &Value) -> Candidate {
    let pod =
        json!({"metadata": {"name": "p", "namespace": "ns-3", "labels": {"app": "app-3"}}, "spec": spec});
    Candidate::new(&pod).expect("the bench's own pod is well-formed")
}
