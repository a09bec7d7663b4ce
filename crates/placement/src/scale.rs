//! Made-up clusters of any size, for benchmarks: half of the pods are replicas, one in ten has labels that no other pod
//! has.

use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::pod::Pod;

/// Cluster number `index` with so many nodes of 16 CPUs and so many pods of half a CPU, evenly on them.
pub fn mk_cluster(index: usize, nodes: usize, pods: usize) -> Cluster {
    let mut cluster = Cluster::default();
    for node in 0..nodes {
        let name = format!("cluster-{index}-node-{node}");
        let node = json!({
            "metadata": {"name": name, "labels": {
                "kubernetes.io/hostname": name, "kubernetes.io/os": "linux", "kubernetes.io/arch": "amd64",
                "topology.kubernetes.io/zone": format!("z{}", node % 3), "topology.kubernetes.io/region": "r",
                "node.kubernetes.io/instance-type": format!("type-{}", node % 5)
            }},
            "status": {"allocatable": {"cpu": "16", "memory": "64Gi", "ephemeral-storage": "100Gi", "pods": "110"}}
        });
        cluster.apply_node(&serde_json::from_value(node).expect("the bench's own node is well-formed"));
    }
    for pod in 0..pods {
        let pod = serde_json::from_value::<Pod>(mk_pod(index, pod, nodes));
        cluster.apply_pod(&pod.expect("the bench's own pod is well-formed"));
    }
    cluster
}

/// Pod number `pod` of cluster number `cluster`.
pub fn mk_pod(cluster: usize, pod: usize, nodes: usize) -> Value {
    let app = format!("app-{}", pod % 50);
    let mut labels = json!({"app": app, "pod-template-hash": format!("{:x}", pod % 50 * 7919), "team": "t"});
    if pod.is_multiple_of(10) {
        labels["statefulset.kubernetes.io/pod-name"] = json!(format!("pod-{pod}"));
    }
    json!({
        "metadata": {
            "name": format!("pod-{pod}"), "namespace": format!("ns-{}", pod % 20), "labels": labels
        },
        "spec": {
            "nodeName": format!("cluster-{cluster}-node-{}", pod % nodes),
            "containers": [{"name": "c", "resources": {"requests": {"cpu": "500m", "memory": "1Gi"}}}]
        },
        "status": {"phase": "Running"}
    })
}

/// Resident memory of this process (`/proc/self/statm` counts pages of 4 KiB on the machines we build for).
pub fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: usize = statm
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .unwrap_or_default();
    pages * 4096
}
