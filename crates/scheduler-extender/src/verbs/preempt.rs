//! On which nodes the victims that the scheduler chose would make room below.

use std::time::Instant;

use tensile_placement::Uid;
use tensile_runtime::clock;

use crate::wire::{ExtenderPreemptionArgs, ExtenderPreemptionResult, MetaVictims};
use tensile_world::{Answer, World};

/// Answers a preempt request: ordinary nodes stay, virtual ones where the pod fits once the victims are gone.
pub fn preempt(world: &mut World, args: &ExtenderPreemptionArgs) -> ExtenderPreemptionResult {
    let mut lowering = world.consider(&args.pod, clock::now());
    let mut helps = |node: &str, victims: &MetaVictims| {
        let origins: Vec<Uid> = victims
            .pods
            .iter()
            .map(|pod| Uid::from(pod.uid.as_str()))
            .collect();
        let answer = world.answer_without(&mut lowering, node, &origins);
        matches!(answer, None | Some(Answer::Fits(_) | Answer::Trusted))
    };
    let mut nodes: Vec<(&String, &MetaVictims)> = args
        .victims
        .iter()
        .filter(|(node, victims)| helps(node, victims))
        .collect();
    // Victims make no room in a share that is met.
    let takers: Vec<&str> = nodes.iter().map(|(node, _)| node.as_str()).collect();
    if let Some(shared) = world.share_after(&args.pod, &takers, Instant::now()) {
        let chosen = shared.unwrap_or_default().nodes;
        nodes.retain(|(node, _)| world.virtual_node(node).is_none() || chosen.contains(&node.as_str()));
    }
    ExtenderPreemptionResult {
        node_name_to_meta_victims: nodes
            .into_iter()
            .map(|(node, victims)| (node.clone(), victims.clone()))
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{apply_lower_pod, mk_pod, mk_world};
    use crate::verbs::filter;

    #[test]
    fn only_nodes_where_the_victims_make_room_stay() {
        let mut world = mk_world();
        apply_lower_pod(&mut world, "b", &mk_pod("large", "6"), "b1");
        apply_lower_pod(&mut world, "b", &mk_pod("small", "1"), "b1");
        apply_lower_pod(&mut world, "a", &mk_pod("other", "1"), "a1");
        for (cpu, victims, kept) in [
            ("4", json!({"vb": ["large"]}), vec!["vb"]),
            ("4", json!({"vb": ["small"]}), vec![]),
            ("8", json!({"vb": ["large"]}), vec![]),
            ("8", json!({"vb": ["large", "small"]}), vec!["vb"]),
            ("4", json!({"va": ["other"], "ordinary": ["x"]}), vec!["ordinary"]),
            ("2", json!({"va": ["other"]}), vec!["va"]),
            ("4", json!({"vb": ["unknown"]}), vec![]),
        ] {
            let meta = |names: &serde_json::Value| {
                let pods: Vec<_> = names
                    .as_array()
                    .unwrap()
                    .iter()
                    .map(|uid| json!({"UID": uid}))
                    .collect();
                json!({"Pods": pods, "NumPDBViolations": 0})
            };
            let nodes: serde_json::Map<_, _> = victims
                .as_object()
                .unwrap()
                .iter()
                .map(|(node, names)| (node.clone(), meta(names)))
                .collect();
            let body = json!({"Pod": mk_pod("p", cpu), "NodeNameToMetaVictims": nodes});
            let args = ExtenderPreemptionArgs::parse(body.to_string().as_bytes()).unwrap();
            let answer = preempt(&mut world, &args);
            let names: Vec<&String> = answer.node_name_to_meta_victims.keys().collect();
            assert_eq!(names, kept, "{cpu} CPUs, {victims}");
        }
        let args = crate::testing::mk_args(&mk_pod("p", "4"), &["vb"]);
        assert_eq!(
            filter(&mut world, &args).failed_nodes.len(),
            1,
            "asking changes nothing"
        );
    }
}
