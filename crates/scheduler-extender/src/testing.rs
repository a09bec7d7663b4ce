//! Fixtures that the tests of this crate share.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::wire::{ExtenderArgs, Nodes};
use crate::world::World;

/// Nothing known yet.
pub(crate) fn mk_empty_world() -> World {
    World::default()
}

/// `va` stands for cluster a with the nodes a1 (2 CPUs, 1 in use) and a2 (4 CPUs, 2 in use); `vb` for cluster b with
/// b1 (8 CPUs, `disk: ssd`). Every node has 8 GiB of memory a CPU.
pub(crate) fn mk_world() -> World {
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
                .apply_node(&serde_json::from_value(node).unwrap());
        }
    }
    world.apply_node("ordinary", &BTreeMap::new(), None);
    world.retain_nodes(|_| true);
    apply_lower_pod(&mut world, "a", &mk_pod("first", "1"), "a1");
    apply_lower_pod(&mut world, "a", &mk_pod("second", "2"), "a2");
    world
}

/// An upper pod that asks for so many CPUs and 1 GiB of memory each; its UID is its name.
pub(crate) fn mk_pod(name: &str, cpu: &str) -> Value {
    let requests = json!({"cpu": cpu, "memory": format!("{cpu}Gi")});
    json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name},
        "spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": requests}}]}
    })
}

/// A pod of one CPU with this stash.
pub(crate) fn mk_stashed(stash: &Value) -> Value {
    let mut pod = mk_pod("p", "1");
    pod["metadata"]["annotations"] = json!({"clusterSelector": stash.to_string()});
    pod
}

/// A request with node names.
pub(crate) fn mk_args(pod: &Value, nodes: &[&str]) -> ExtenderArgs {
    ExtenderArgs {
        pod: pod.clone(),
        nodes: Nodes::Names(nodes.iter().map(|name| (*name).to_owned()).collect()),
    }
}

/// Puts the lower pod that stands for `upper` on a node.
pub(crate) fn apply_lower_pod(world: &mut World, cluster: &str, upper: &Value, node: &str) {
    let mut lower = upper.clone();
    lower["metadata"]["labels"] = json!({"tensile.dev/origin-uid": upper["metadata"]["uid"]});
    lower["spec"]["nodeName"] = json!(node);
    let pod = serde_json::from_value(lower).unwrap();
    world.cluster_mut(cluster).model.apply_pod(&pod);
}
