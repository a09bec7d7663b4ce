//! Whether the pod may still go where the scheduler put it, and the promise of a place there.

use std::time::Instant;

use serde_json::Value;
use tensile_runtime::clock;

use tensile_world::{Answer, World, uid};

/// Why the pod is not bound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// It is not known yet which nodes are virtual, which pods are bound or which clusters there are.
    #[error("the upper cluster's nodes, pods and lower clusters have not been listed yet")]
    NotListed,
    /// Between filter and bind the place, or the share of the pod's split, was lost.
    #[error("{node} has no place for the pod any more: {reason}")]
    Lost {
        /// The virtual node.
        node: String,
        /// Why not.
        reason: String,
    },
}

/// Checks again and promises a place. Gives the lower node that was promised, for the hint; `None` where nothing
/// is to be promised: on ordinary nodes and where the node's own status is trusted.
///
/// # Errors
/// When the pod does not fit any more; the scheduler then tries again.
pub fn bind(world: &mut World, pod: &Value, node: &str) -> Result<Option<String>, BindError> {
    if !world.is_listed() {
        return Err(BindError::NotListed);
    }
    let mut lowering = world.consider(pod, clock::now());
    let origin = uid(pod);
    let lost = |reason| BindError::Lost {
        node: node.to_owned(),
        reason,
    };
    let answer = world.answer_without(&mut lowering, node, &[origin]);
    match answer {
        None => Ok(None),
        Some(Answer::Now(reason) | Answer::Never(reason)) => Err(lost(reason)),
        Some(Answer::Trusted) => world
            .claim_share(&mut lowering, node, Instant::now())
            .map(|()| None)
            .map_err(lost),
        Some(Answer::Fits(fit)) => {
            world
                .claim_share(&mut lowering, node, Instant::now())
                .map_err(lost)?;
            let best = fit.best.map(|best| best.node.to_string());
            let virtual_node = world.virtual_node(node).cloned().unwrap_or_default();
            let candidate = lowering.candidate(node, &virtual_node, &world.settings.ignored_keys);
            Ok(candidate
                .ok()
                .and_then(|candidate| world.reserve(node, &candidate, origin, best.as_deref())))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{apply_lower_pod, mk_member, mk_pod, mk_world};
    use crate::verbs::filter;

    #[test]
    fn a_promised_place_is_not_promised_again() {
        let mut world = mk_world();
        assert_eq!(bind(&mut world, &mk_pod("p", "6"), "vb"), Ok(Some("b1".into())));
        let lost = bind(&mut world, &mk_pod("q", "6"), "vb").unwrap_err();
        let wanted = "vb has no place for the pod any more: b: 0/1 nodes fit: 1 Insufficient cpu";
        assert_eq!(lost.to_string(), wanted);
        assert_eq!(
            bind(&mut world, &mk_pod("p", "6"), "vb"),
            Ok(Some("b1".into())),
            "the pod's own is no obstacle"
        );
        world.release(uid(&mk_pod("p", "6")));
        assert_eq!(bind(&mut world, &mk_pod("q", "6"), "vb"), Ok(Some("b1".into())));
    }

    #[test]
    fn nothing_is_bound_before_it_is_known_which_nodes_are_virtual() {
        assert_eq!(
            bind(&mut World::default(), &mk_pod("p", "1"), "vb"),
            Err(BindError::NotListed)
        );
    }

    #[test]
    fn a_share_that_was_taken_meanwhile_is_lost() {
        let mut world = mk_world();
        let split = r#"{"key":"clusterID","strategy":"Fill","shares":{"b":{"replicas":1}},"strict":true}"#;
        let mk_member = |name: &str| mk_member(name, "1", split);
        assert_eq!(bind(&mut world, &mk_member("p"), "vb"), Ok(Some("b1".into())));
        let lost = bind(&mut world, &mk_member("q"), "vb").unwrap_err().to_string();
        let wanted = "vb has no place for the pod any more: split: goes to nowhere, strict, and no unmet share has room: b 1/1";
        assert_eq!(lost, wanted);
        world.release(uid(&mk_member("p")));
        assert_eq!(bind(&mut world, &mk_member("q"), "vb"), Ok(Some("b1".into())));
    }

    #[test]
    fn a_burst_gets_exactly_as_many_places_as_there_are() {
        let mut world = mk_world();
        let bound =
            (0..20).filter(|index| bind(&mut world, &mk_pod(&format!("p{index}"), "1"), "vb").is_ok());
        assert_eq!(bound.count(), 8);
    }

    #[test]
    fn ordinary_nodes_and_trusted_clusters_promise_nothing() {
        let mut world = mk_world();
        assert_eq!(bind(&mut world, &mk_pod("p", "99"), "ordinary"), Ok(None));
        world.settings.unknown = tensile_world::UnknownPolicy::TrustNodeStatus;
        world.cluster_mut("b").doubt = Some("stale".into());
        assert_eq!(bind(&mut world, &mk_pod("p", "99"), "vb"), Ok(None));
    }

    #[test]
    fn promises_follow_from_the_pods_that_can_be_listed() {
        let mut bound = mk_pod("p", "6");
        bound["spec"]["nodeName"] = json!("vb");
        bound["metadata"]["annotations"] = json!({"tensile.dev/placement-hint": "b1"});
        let asking = mk_pod("q", "6");
        let passes = |world: &mut World| {
            let args = crate::testing::mk_args(&asking, &["vb"]);
            filter(world, &args).node_names.unwrap().len() == 1
        };
        let mut world = mk_world();
        assert!(passes(&mut world));
        world.apply_upper_pod(&bound);
        world.apply_upper_pod(&bound);
        assert!(
            !passes(&mut world),
            "bound above, not seen below: it is as good as there"
        );
        apply_lower_pod(&mut world, "b", &bound, "b1");
        assert_eq!(
            world
                .clusters()
                .map(|(_, cluster)| cluster.model.reservations().len())
                .sum::<usize>(),
            0
        );
        world.apply_upper_pod(&bound);
        assert!(!passes(&mut world), "counted once, as the lower pod");
        assert_eq!(
            world.cluster_mut("b").model.node("b1").unwrap().used.milli_cpu,
            6000
        );
    }

    #[test]
    fn a_pod_that_is_over_or_unbound_has_no_promise() {
        let mut world = mk_world();
        let mut pod = mk_pod("p", "6");
        bind(&mut world, &pod, "vb").unwrap();
        pod["spec"]["nodeName"] = json!("vb");
        pod["status"] = json!({"phase": "Failed"});
        world.apply_upper_pod(&pod);
        assert_eq!(world.cluster_mut("b").model.reservations().len(), 0);
    }
}
