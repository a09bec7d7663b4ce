use serde_json::json;

use super::*;
use crate::policy::Policy;
use crate::testing::{Ground, NOW, mk_replica};

/// The moves as `name -> node: why`, and the stays as `name: kind`.
fn planned(ground: &mut Ground) -> (Vec<String>, Vec<String>) {
    let (pods, refused) = ground.taken();
    let waiting = Waiting::default();
    let mut scene = ground.scene();
    let mut made = Plan::default();
    plan(&Args::default(), &mut scene, &pods, &refused, &waiting, &mut made);
    drop(scene);
    ground.give_back(pods, refused);
    let moves = made
        .moves
        .iter()
        .map(|m| format!("{} -> {}: {}", m.pod.name, m.to, m.why));
    let stays = made.stays.iter().map(|s| format!("{}: {}", s.pod.name, s.kind));
    (moves.collect(), stays.collect())
}

fn none() -> Vec<String> {
    Vec::new()
}

/// A ground where our pods `small` (1 CPU, on a1) and `second` (2 CPUs, on a2) run behind `va`, whose nodes of 2 and 4
/// CPUs hold one and two already, so that nothing larger than 0 fits on either.
fn mk_fragments() -> Ground {
    let mut ground = Ground::new();
    for (name, cpu, lower) in [("small", "1", "a1"), ("medium", "2", "a2")] {
        let mut pod = mk_replica(name, cpu, "va");
        pod["status"]["phase"] = json!("Running");
        ground.pod(&pod);
        ground.run_below("a", &pod, lower);
    }
    ground
}

#[test]
fn the_least_set_of_pods_that_fit_elsewhere_makes_room() {
    let mut ground = mk_fragments();
    ground.stuck("large", "2", "va");
    let (moves, stays) = planned(&mut ground);
    assert_eq!(moves, ["medium -> vb: makes room for ns/large on a2"]);
    assert_eq!(stays, none());
}

#[test]
fn where_no_pod_fits_elsewhere_nothing_is_moved() {
    let mut ground = mk_fragments();
    ground.stuck("large", "2", "va");
    ground.world.cluster_mut("b").doubt = Some("gone".into());
    assert_eq!(planned(&mut ground), (none(), vec!["large: NoRoom".to_owned()]));
}

#[test]
fn protected_pods_and_more_important_ones_are_no_victims() {
    let mut ground = mk_fragments();
    ground.stuck("large", "2", "va");
    ground.policy = Policy {
        priority_threshold: Some(0),
        ..Policy::default()
    };
    assert_eq!(planned(&mut ground), (none(), vec!["large: NoRoom".to_owned()]));

    let mut ground = mk_fragments();
    let mut humble = mk_replica("humble", "2", "va");
    humble["spec"]["priority"] = json!(-1);
    let humble = ground.pod(&humble);
    ground.refuse(&humble, NOW - 3600);
    assert_eq!(planned(&mut ground), (none(), vec!["humble: NoRoom".to_owned()]));
}

#[test]
fn a_pod_that_fits_only_an_empty_larger_node_gets_no_room() {
    let mut ground = mk_fragments();
    ground.stuck("huge", "5", "va");
    assert_eq!(planned(&mut ground), (none(), vec!["huge: NoRoom".to_owned()]));
}

#[test]
fn what_is_leaving_already_is_waited_for() {
    let mut ground = mk_fragments();
    ground.stuck("large", "2", "va");
    let mut leaving = mk_replica("medium", "2", "va");
    leaving["status"]["phase"] = json!("Running");
    leaving["metadata"]["deletionTimestamp"] = json!("2026-01-02T04:04:05Z");
    ground.pod(&leaving);
    assert_eq!(planned(&mut ground), (none(), none()));
}

#[test]
fn two_pods_do_not_get_the_same_room() {
    let mut ground = mk_fragments();
    ground.stuck("one", "2", "va");
    ground.stuck("two", "2", "va");
    let (moves, stays) = planned(&mut ground);
    assert_eq!(moves, ["medium -> vb: makes room for ns/one on a2"]);
    assert_eq!(stays, ["two: NoRoom"]);
}
