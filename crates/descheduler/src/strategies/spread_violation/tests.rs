use serde_json::{Value, json};
use tensile_core::names;

use super::*;
use crate::testing::{Ground, mk_replica};

const BOTH: &str =
    r#"{"key":"clusterID","strategy":"Balance","shares":{"a":{"replicas":2},"b":{"replicas":2}}}"#;

/// The moves as `name -> node: why`, and the stays as `name: kind`.
fn planned(ground: &mut Ground) -> (Vec<String>, Vec<String>) {
    let (pods, refused) = ground.taken();
    let mut scene = ground.scene();
    let mut made = Plan::default();
    plan(&Args::default(), &mut scene, &pods, &mut made);
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

/// A running pod of the owner on the node, changed by `change`.
fn run(ground: &mut Ground, name: &str, node: &str, change: impl Fn(&mut Value)) {
    let mut pod = mk_replica(name, "1", node);
    pod["status"]["phase"] = json!("Running");
    change(&mut pod);
    ground.pod(&pod);
}

fn share(pod: &mut Value) {
    pod["metadata"]["annotations"] = json!({names::SPLIT: BOTH});
}

/// Spread over clusters, by label.
fn spread(pod: &mut Value) {
    pod["spec"]["topologySpreadConstraints"] = json!([{
        "maxSkew": 1, "topologyKey": "clusterID", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "web"}}
    }]);
}

/// Four pods behind `va`.
fn mk_all_in_one(change: impl Fn(&mut Value)) -> Ground {
    let mut ground = Ground::new();
    for name in ["p", "q", "r", "s"] {
        run(&mut ground, name, "va", &change);
    }
    ground
}

#[test]
fn what_is_too_many_by_its_share_goes_to_where_pods_are_missing() {
    let mut ground = mk_all_in_one(share);
    let (moves, stays) = planned(&mut ground);
    let why = |surplus: u32, missing: u32| {
        format!("split by clusterID: {surplus} of 4 pods in a are too many, missing are {missing} in b")
    };
    assert_eq!(
        moves,
        [
            format!("p -> vb: {}", why(2, 2)),
            format!("q -> vb: {}", why(1, 1))
        ]
    );
    assert_eq!(stays, none());
}

#[test]
fn what_breaks_its_spread_goes_and_no_more() {
    let mut ground = mk_all_in_one(spread);
    let (moves, stays) = planned(&mut ground);
    let why = "topologySpreadConstraints: too many such pods are here";
    assert_eq!(moves, [format!("p -> vb: {why}"), format!("q -> vb: {why}")]);
    assert_eq!(stays, none());
    let (again, _) = planned(&mut ground);
    assert_eq!(again, moves, "the models are as they were");
}

#[test]
fn what_holds_is_left_alone() {
    for change in [share, spread] {
        let mut ground = Ground::new();
        for (name, node) in [("p", "va"), ("q", "vb"), ("r", "va"), ("s", "vb")] {
            run(&mut ground, name, node, change);
        }
        assert_eq!(planned(&mut ground), (none(), none()));
    }
}

#[test]
fn where_nothing_fits_nothing_is_moved() {
    for change in [share, spread] {
        let mut ground = mk_all_in_one(change);
        ground.world.cluster_mut("b").doubt = Some("gone".into());
        assert_eq!(planned(&mut ground), (none(), vec!["p: FitsNowhere".to_owned()]));
    }
}

#[test]
fn pods_on_their_way_are_waited_for() {
    let young = json!("2026-01-02T04:03:46Z");
    for change in [share, spread] {
        for (member, value) in [
            ("creationTimestamp", young.clone()),
            ("deletionTimestamp", young.clone()),
        ] {
            let mut ground = mk_all_in_one(change);
            run(&mut ground, "t", "va", |pod| {
                change(pod);
                pod["metadata"][member] = value.clone();
            });
            assert_eq!(planned(&mut ground), (none(), none()), "{member}");
        }
    }
}

#[test]
fn the_pod_whose_move_disturbs_least_goes_first_and_protected_ones_stay() {
    for change in [share, spread] {
        let mut ground = Ground::new();
        run(&mut ground, "important", "va", |pod| {
            change(pod);
            pod["spec"]["priority"] = json!(7);
        });
        run(&mut ground, "kept", "va", |pod| {
            change(pod);
            pod["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
        });
        run(&mut ground, "waits", "va", |pod| {
            change(pod);
            pod["status"]["phase"] = json!("Pending");
        });
        let (moves, _) = planned(&mut ground);
        let names: Vec<&str> = moves.iter().filter_map(|text| text.split(' ').next()).collect();
        assert_eq!(names, ["waits"]);
    }
}

#[test]
fn a_pod_that_another_strategy_moves_is_not_moved_twice() {
    for change in [share, spread] {
        let mut ground = mk_all_in_one(change);
        let (pods, refused) = ground.taken();
        let mut scene = ground.scene();
        let mut made = Plan::default();
        let place = Place {
            node: "vb".into(),
            lower: "b1".into(),
        };
        for pod in pods.iter() {
            made.go("Other", pod, place.clone(), String::new());
        }
        plan(&Args::default(), &mut scene, &pods, &mut made);
        assert_eq!(made.moves.len(), 4);
        drop(scene);
        ground.give_back(pods, refused);
    }
}
