use tensile_core::avoidance::Avoidance;

use super::*;
use crate::plan::PodRef;
use crate::pod::Mark;
use crate::policy::{Limits, Policy};
use crate::testing::{Ground, NOW, mk_replica};

/// The moves as `name: from -> to/lower node`, and the stays as `name: kind`, each in order.
fn planned(ground: &mut Ground, args: &Args) -> (Vec<String>, Vec<String>) {
    let (pods, refused) = ground.taken();
    let mut scene = ground.scene();
    let mut made = Plan::default();
    plan(args, &mut scene, &pods, &refused, &mut made);
    drop(scene);
    ground.give_back(pods, refused);
    let moves = made
        .moves
        .iter()
        .map(|m| format!("{}: {} -> {}/{}", m.pod.name, m.from, m.to, m.lower_node));
    let stays = made.stays.iter().map(|s| format!("{}: {}", s.pod.name, s.kind));
    (moves.collect(), stays.collect())
}

fn none() -> Vec<String> {
    Vec::new()
}

#[test]
fn a_stuck_pod_is_moved_to_where_it_fits_and_stays_where_nothing_does() {
    let mut ground = Ground::new();
    ground.stuck("fits", "5", "va");
    ground.stuck("large", "9", "va");
    let (moves, stays) = planned(&mut ground, &Args::default());
    assert_eq!(moves, ["fits: va -> vb/b1"]);
    assert_eq!(stays, ["large: FitsNowhere"]);
}

#[test]
fn a_pod_that_is_not_refused_runs_or_goes_is_left_alone() {
    let mut ground = Ground::new();
    let pod = ground.pod(&mk_replica("unheard", "1", "va"));
    assert_eq!(PodRef::from(&pod).name, "unheard");
    for (member, value) in [
        ("status", serde_json::json!({"phase": "Running"})),
        ("deleted", serde_json::json!("2026-01-02T03:04:05Z")),
    ] {
        let mut pod = mk_replica(member, "1", "va");
        if member == "deleted" {
            pod["metadata"]["deletionTimestamp"] = value;
        } else {
            pod[member] = value;
        }
        let pod = ground.pod(&pod);
        ground.refuse(&pod, NOW - 3600);
    }
    assert_eq!(planned(&mut ground, &Args::default()), (none(), none()));
}

#[test]
fn important_pods_come_first_and_then_those_that_wait_longest() {
    let mut ground = Ground::new();
    for (name, priority, since) in [
        ("late", 0, NOW - 61),
        ("early", 0, NOW - 99),
        ("vip", 5, NOW - 60),
    ] {
        let mut pod = mk_replica(name, "4", "va");
        pod["spec"]["priority"] = serde_json::json!(priority);
        let pod = ground.pod(&pod);
        ground.refuse(&pod, since);
    }
    let (moves, stays) = planned(&mut ground, &Args::default());
    assert_eq!(moves, ["vip: va -> vb/b1", "early: va -> vb/b1"]);
    assert_eq!(stays, ["late: FitsNowhere"]);
}

#[test]
fn limits_and_protections_hold() {
    let mut ground = Ground::new();
    for name in ["p", "q", "r"] {
        ground.stuck(name, "1", "va");
    }
    let mut bare = mk_replica("bare", "1", "va");
    bare["metadata"]["ownerReferences"] = serde_json::json!(null);
    let bare = ground.pod(&bare);
    assert_eq!(bare.marks, [Mark::Bare]);
    ground.refuse(&bare, NOW - 3600);
    ground.policy = Policy {
        limits: Limits {
            per_namespace: Some(2),
            ..Limits::default()
        },
        ..Policy::default()
    };
    let (moves, stays) = planned(&mut ground, &Args::default());
    assert_eq!(moves, ["p: va -> vb/b1", "q: va -> vb/b1"]);
    assert_eq!(stays, ["bare: Protected", "r: Limit"]);
}

#[test]
fn what_was_moved_twice_stays_and_so_does_what_nobody_can_judge() {
    let mut ground = Ground::new();
    ground.stuck("p", "1", "va");
    for node in ["vx", "vy"] {
        ground.avoidance.avoid("owner", node, NOW + 1);
    }
    assert_eq!(planned(&mut ground, &Args::default()).1, ["p: MovedBefore"]);
    ground.avoidance = Avoidance::default();
    ground.world.cluster_mut("a").doubt = Some("gone".into());
    assert_eq!(
        planned(&mut ground, &Args::default()),
        (none(), vec!["p: Unknown".to_owned()])
    );
    ground.world.cluster_mut("a").doubt = None;
    ground.world.cluster_mut("b").doubt = Some("gone".into());
    assert_eq!(planned(&mut ground, &Args::default()).1, ["p: FitsNowhere"]);
}

#[test]
fn only_selected_nodes_and_namespaces_are_looked_at() {
    let mut ground = Ground::new();
    ground.stuck("p", "1", "va");
    ground.policy.node_selector = Some("clusterID=b".parse().unwrap());
    assert_eq!(planned(&mut ground, &Args::default()), (none(), none()));
    ground.policy.node_selector = None;
    let mut args = Args::default();
    args.namespaces.exclude = ["ns".to_owned()].into();
    assert_eq!(planned(&mut ground, &args), (none(), none()));
}
