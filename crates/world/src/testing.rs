//! Fixtures for the tests of this crate and of those that use it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::world::World;

/// `va` stands for cluster a with the nodes a1 (2 CPUs, 1 in use) and a2 (4 CPUs, 2 in use); `vb` for cluster b with
/// b1 (8 CPUs, `disk: ssd`). Every node has 8 GiB of memory a CPU.
pub fn mk_world() -> World {
    let mut world = World::default();
    for (cluster, nodes) in [
        ("a", vec![("a1", 2, "hdd"), ("a2", 4, "hdd")]),
        ("b", vec![("b1", 8, "ssd")]),
    ] {
        let labels = [("type", "virtual-kubelet"), ("clusterID", cluster)];
        let labels: BTreeMap<String, String> = labels
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .collect();
        world.apply_node(&format!("v{cluster}"), &labels, None);
        for (name, cpu, disk) in nodes {
            let node = json!({
                "metadata": {"name": name, "labels": {"disk": disk, "name": name}},
                "status": {"allocatable": {"cpu": cpu.to_string(), "memory": format!("{}Gi", 8 * cpu), "pods": "99"}}
            });
            world
                .cluster_mut(cluster)
                .model
                .apply_node(&serde_json::from_value(node).expect("a good fixture"));
        }
    }
    world.apply_node("ordinary", &BTreeMap::new(), None);
    world.retain_nodes(|_| true);
    world.pods_listed();
    world.clusters_listed();
    apply_lower_pod(&mut world, "a", &mk_pod("first", "1"), "a1");
    apply_lower_pod(&mut world, "a", &mk_pod("second", "2"), "a2");
    world
}

/// An upper pod that asks for so many CPUs and 1 GiB of memory each; its UID is its name.
pub fn mk_pod(name: &str, cpu: &str) -> Value {
    let requests = json!({"cpu": cpu, "memory": format!("{cpu}Gi")});
    json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": requests}}]}
    })
}

/// As [`mk_pod`], of the owner `owner`, whose pods are shared out by `split`.
pub fn mk_member(name: &str, cpu: &str, split: &str) -> Value {
    let mut pod = mk_pod(name, cpu);
    pod["metadata"]["annotations"] = json!({"tensile.dev/split": split});
    pod["metadata"]["ownerReferences"] = json!([{"uid": "owner", "controller": true}]);
    pod
}

/// Puts the lower pod that stands for `upper` on a node.
pub fn apply_lower_pod(world: &mut World, cluster: &str, upper: &Value, node: &str) {
    let mut lower = upper.clone();
    lower["metadata"]["labels"] = json!({"tensile.dev/origin-uid": upper["metadata"]["uid"]});
    lower["spec"]["nodeName"] = json!(node);
    let pod = serde_json::from_value(lower).expect("a good fixture");
    world.cluster_mut(cluster).model.apply_pod(&pod);
}
