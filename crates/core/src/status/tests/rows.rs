//! The way of a status from below to above, row by row.

use super::*;

#[test]
fn each_row_of_the_table_becomes_what_it_says() {
    let table = [
        ("nothing said yet", json!({}), json!({"phase": "Pending"})),
        (
            "the kubelet's own members, unknown ones too",
            json!({
                "phase": "Failed", "reason": "Evicted", "message": "m", "initContainerStatuses": [{"name": "i"}],
                "ephemeralContainerStatuses": [{"name": "e"}], "resize": "Proposed", "resources": {"limits": {}},
                "allocatedResources": {"cpu": "1"}, "ofTomorrow": {"a": [1]}, "empty": null,
            }),
            json!({
                "phase": "Failed", "reason": "Evicted", "message": "m", "initContainerStatuses": [{"name": "i"}],
                "ephemeralContainerStatuses": [{"name": "e"}], "resize": "Proposed", "resources": {"limits": {}},
                "allocatedResources": {"cpu": "1"}, "ofTomorrow": {"a": [1]},
            }),
        ),
        (
            "what the upper cluster writes",
            json!({
                "qosClass": "Burstable", "nominatedNodeName": "n", "resourceClaimStatuses": [],
                "extendedResourceClaimStatus": {}, "nodeAllocatableResourceClaimStatuses": [], "volumeHealth": [],
            }),
            json!({"phase": "Pending"}),
        ),
        (
            "pod addresses are the lower ones, the host is the virtual node",
            json!({"podIP": "10.1.0.7", "podIPs": [{"ip": "10.1.0.7"}], "hostIP": "10.0.0.2", "hostIPs": [{"ip": "10.0.0.2"}]}),
            json!({
                "phase": "Pending", "podIP": "10.1.0.7", "podIPs": [{"ip": "10.1.0.7"}],
                "hostIP": HOST_IP, "hostIPs": [{"ip": HOST_IP}],
            }),
        ),
        (
            "a kubelet that knows no generations",
            json!({"startTime": "t"}),
            json!({"phase": "Pending", "startTime": "t", "observedGeneration": 3}),
        ),
        (
            "a kubelet that does",
            json!({"observedGeneration": 9, "conditions": [{"type": "Initialized", "status": "True", "observedGeneration": 9}]}),
            json!({
                "phase": "Pending", "observedGeneration": 3,
                "conditions": [{"type": "Initialized", "status": "True", "observedGeneration": 3}],
            }),
        ),
        (
            "a pod that the lower cluster cannot place",
            json!({"phase": "Pending", "conditions": [{
                "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes are available",
            }]}),
            json!({
                "phase": "Pending", "reason": "Unschedulable", "conditions": [],
                "message": "not scheduled in the lower cluster: 0/3 nodes are available",
            }),
        ),
    ];
    for (row, lower, upper) in table {
        assert_eq!(desire(&lower), upper, "{row}");
    }
}

#[test]
fn only_the_kubelets_conditions_go_up() {
    let condition = |name: &str| json!({"type": name, "status": "False"});
    let kubelets = [
        "ContainersReady",
        "Initialized",
        "PodReadyToStartContainers",
        "PodResizePending",
        "PodResizeInProgress",
    ];
    let others = ["DisruptionTarget", "lb", "PodScheduled"];
    let all: Vec<_> = kubelets
        .iter()
        .chain(&others)
        .map(|name| condition(name))
        .collect();
    let status = desire(&json!({"reason": "r", "conditions": all}));
    assert_eq!(status["conditions"], json!(kubelets.map(condition)));
}

#[test]
fn a_gate_makes_the_pod_ready_and_unready() {
    let (early, late) = ("2026-01-01T00:00:01Z", "2026-01-01T00:00:09Z");
    let own = "2026-01-01T00:00:05Z";
    let shut =
        |status: &str| format!("the status of pod readiness gate \"lb\" is not \"True\", but {status}");
    let absent = "corresponding condition of pod readiness gate \"lb\" does not exist.".to_owned();
    let table = [
        ("True", mk_gate(Some("True"), early), "True", None, own),
        ("True", mk_gate(Some("True"), late), "True", None, late),
        (
            "True",
            mk_gate(Some("False"), late),
            "False",
            Some(shut("False")),
            late,
        ),
        (
            "True",
            mk_gate(Some("Unknown"), early),
            "False",
            Some(shut("Unknown")),
            own,
        ),
        ("True", mk_gate(None, ""), "False", Some(absent), own),
        ("False", mk_gate(Some("True"), late), "False", None, own),
        ("False", mk_gate(None, ""), "False", None, own),
    ];
    for (lower, gate, ready, message, since) in table {
        let lower = json!({"conditions": [mk_ready(lower)]});
        let gates = [gate];
        let status = desired(
            &mk_upper("Pending", &gates, &Restarts::default()),
            &lower,
            HOST_IP,
        )
        .unwrap();
        let mut expected = json!({"type": "Ready", "status": ready, "lastTransitionTime": since});
        if let Some(message) = message {
            expected["reason"] = json!("ReadinessGatesNotReady");
            expected["message"] = json!(message);
        }
        assert_eq!(status["conditions"], json!([expected]), "{gates:?}");
    }
}

#[test]
fn gates_are_read_from_spec_and_status() {
    let upper = json!({
        "spec": {"readinessGates": [{"conditionType": "lb"}, {"conditionType": "absent"}]},
        "status": {"conditions": [{"type": "lb", "status": "True", "lastTransitionTime": "t"}]},
    });
    let absent = Gate {
        condition: "absent".into(),
        status: None,
        since: None,
    };
    assert_eq!(gates(&upper), [mk_gate(Some("True"), "t"), absent]);
    assert_eq!(gates(&json!({})), []);
}

#[test]
fn a_terminal_upper_phase_is_final_but_last_states_arrive() {
    for (upper, lower, touched) in [
        ("Failed", "Running", false),
        ("Failed", "Succeeded", false),
        ("Succeeded", "Pending", false),
        ("Failed", "Failed", true),
        ("Succeeded", "Succeeded", true),
        ("Running", "Failed", true),
        ("Unknown", "Running", true),
    ] {
        let status = desired(
            &mk_upper(upper, &[], &Restarts::default()),
            &json!({"phase": lower}),
            HOST_IP,
        );
        assert_eq!(status.is_some(), touched, "{upper} above, {lower} below");
    }
}

#[test]
fn restart_counts_go_on_in_a_new_lower_pod() {
    let upper = json!({
        "initContainerStatuses": [{"name": "i", "restartCount": 0, "state": {"terminated": {"exitCode": 0}}}],
        "containerStatuses": [
            {"name": "ran", "restartCount": 2, "state": {"running": {}}},
            {"name": "waits", "restartCount": 1, "state": {"waiting": {}}, "lastState": {"terminated": {}}},
            {"name": "never", "restartCount": 0, "state": {"waiting": {}}},
        ],
    });
    let annotation = Restarts::annotation(&upper).unwrap();
    assert_eq!(annotation, r#"{"i":1,"ran":3,"waits":2}"#);
    let restarts = Restarts::parse(&annotation);
    let count = |name: &str, count: i64| json!({"name": name, "restartCount": count});
    let lower = json!({
        "phase": "Running", "startTime": "t2", "containerStatuses": [count("ran", 1), count("never", 1)],
    });
    let status = desired(&mk_upper("Running", &[], &restarts), &lower, HOST_IP).unwrap();
    assert_eq!(
        status.get("startTime"),
        None,
        "it started with the first lower pod"
    );
    assert_eq!(
        status["containerStatuses"],
        json!([count("ran", 4), count("never", 1)])
    );
}

#[test]
fn a_lower_pod_made_again_goes_on_where_the_last_one_ended() {
    let mk_lower =
        |deadline: Option<i64>| json!({"metadata": {}, "spec": {"activeDeadlineSeconds": deadline}});
    let upper = json!({"containerStatuses": [{"name": "c", "restartCount": 2, "state": {"running": {}}}]});
    for (deadline, ran, left) in [
        (Some(100), 40, Some(60)),
        (Some(100), 100, Some(1)),
        (None, 40, None),
    ] {
        let mut lower = mk_lower(deadline);
        go_on(&mut lower, &upper, std::time::Duration::from_secs(ran));
        let annotations = json!({"tensile.dev/restarts": r#"{"c":3}"#});
        let expected =
            json!({"metadata": {"annotations": annotations}, "spec": {"activeDeadlineSeconds": left}});
        assert_eq!(lower, expected);
    }
    let mut lower = mk_lower(Some(100));
    go_on(&mut lower, &json!({}), std::time::Duration::ZERO);
    assert_eq!(lower, mk_lower(Some(100)));
}

#[test]
fn without_restarts_there_is_no_annotation_and_nonsense_counts_none() {
    assert_eq!(
        Restarts::annotation(&json!({"containerStatuses": [{"name": "c", "state": {"waiting": {}}}]})),
        None
    );
    for text in ["", "[]", r#"{"c":"1"}"#] {
        assert_eq!(Restarts::parse(text), Restarts::default(), "{text}");
    }
}

#[test]
fn what_must_run_once_does_not_start_again() {
    let ended = |code: i64| json!({"terminated": {"exitCode": code}});
    let table = [
        ("Always", ended(0), true),
        ("OnFailure", ended(0), false),
        ("OnFailure", ended(1), true),
        ("OnFailure", json!({"running": {}}), true),
        ("Never", ended(1), false),
        ("Never", json!({"running": {}}), false),
        ("Never", json!({"waiting": {}}), true),
    ];
    for (policy, state, may) in table {
        for list in ["containerStatuses", "initContainerStatuses"] {
            let status = json!({list: [{"name": "c", "state": state}]});
            assert_eq!(
                may_start_again(&json!({"restartPolicy": policy}), &status),
                may,
                "{policy} {status}"
            );
        }
    }
    let spec =
        json!({"restartPolicy": "OnFailure", "initContainers": [{"name": "c", "restartPolicy": "Always"}]});
    assert!(may_start_again(
        &spec,
        &json!({"initContainerStatuses": [{"name": "c", "state": ended(0)}]})
    ));
}

#[test]
fn a_pod_has_ended_when_its_phase_is_final_and_nothing_runs() {
    let table = [
        (json!({"phase": "Running"}), false),
        (json!({"phase": "Failed"}), true),
        (
            json!({"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {}}}]}),
            true,
        ),
        (
            json!({"phase": "Failed", "containerStatuses": [{"state": {"waiting": {}}}]}),
            true,
        ),
        (
            json!({"phase": "Failed", "containerStatuses": [{"state": {"running": {}}}]}),
            false,
        ),
        (
            json!({"phase": "Failed", "initContainerStatuses": [{"state": {"running": {}}}]}),
            false,
        ),
        (
            json!({"phase": "Failed", "ephemeralContainerStatuses": [{"state": {"running": {}}}]}),
            false,
        ),
    ];
    for (status, ended) in table {
        assert_eq!(terminal(&status), ended, "{status}");
    }
}

#[test]
fn a_vanished_pod_fails_and_its_containers_end_unseen() {
    let now = "2026-01-01T01:00:00Z";
    let ended = json!({"name": "done", "state": {"terminated": {"exitCode": 0}}});
    let status = json!({"phase": "Running", "podIP": "10.1.0.7", "containerStatuses": [
        {"name": "c", "ready": true, "started": true, "restartCount": 1, "state": {"running": {"startedAt": "s"}}}, ended,
    ]});
    let condition = |name: &str| json!({"type": name, "status": "False", "reason": "PodFailed", "lastTransitionTime": now});
    assert_eq!(
        vanished(&status, now),
        json!({
            "phase": "Failed", "reason": "LowerPodVanished",
            "message": "the lower pod is gone, and its restart policy does not let it start again",
            "conditions": [condition("ContainersReady"), condition("Ready")],
            "containerStatuses": [
                {"name": "c", "ready": false, "started": false, "restartCount": 1, "state": {"terminated": {
                    "exitCode": 137, "reason": "ContainerStatusUnknown", "startedAt": "s", "finishedAt": now,
                    "message": "the lower pod vanished while the container ran",
                }}},
                ended,
            ],
        })
    );
}

#[test]
fn a_pod_that_is_made_again_is_not_ready_meanwhile() {
    let status = interrupted("t");
    assert_eq!(
        (&status["phase"], &status["reason"]),
        (&json!("Pending"), &json!("LowerPodVanished"))
    );
    let condition = |name: &str| json!({"type": name, "status": "False", "reason": "ContainersNotReady", "lastTransitionTime": "t"});
    assert_eq!(
        status["conditions"],
        json!([condition("ContainersReady"), condition("Ready")])
    );
    // Its address is another pod's by now.
    let shown = Fingerprint::of(&desire(&mk_running()));
    let body = patch("u-1", &status, None, &shown).unwrap().body;
    assert_eq!(
        (&body["status"]["podIP"], &body["status"]["podIPs"]),
        (&Value::Null, &Value::Null)
    );
    assert!(body["status"].get("containerStatuses").is_none(), "{body}");
}

#[test]
fn every_field_of_the_api_has_a_row() {
    // The members of PodStatus and ContainerStatus as of Kubernetes 1.37 (api/core/v1/types.go).
    let container = json!({
        "name": "c", "image": "i", "imageID": "sha", "containerID": "containerd://1", "ready": true, "started": true,
        "restartCount": 2, "state": {"running": {"startedAt": "t"}}, "lastState": {"terminated": {"exitCode": 1}},
        "resources": {"requests": {"cpu": "1"}}, "allocatedResources": {"cpu": "1"},
        "allocatedResourcesStatus": [{"name": "claim:gpu"}], "volumeMounts": [{"name": "v"}],
        "user": {"linux": {"uid": 1}}, "stopSignal": "SIGTERM", "ofTomorrow": {"a": [1, null]},
    });
    let copied = json!({
        "phase": "Running", "message": "m", "reason": "r", "startTime": "t", "initContainerStatuses": [container],
        "containerStatuses": [container], "ephemeralContainerStatuses": [container], "resize": "InProgress",
        "resources": {"limits": {"cpu": "1"}}, "allocatedResources": {"cpu": "1"},
        "podIP": "10.1.0.7", "podIPs": [{"ip": "10.1.0.7"}, {"ip": "fd::7"}], "ofTomorrow": {"a": [1, null]},
    });
    let translated = json!({
        "observedGeneration": 9, "hostIP": "10.0.0.2", "hostIPs": [{"ip": "10.0.0.2"}],
        "conditions": [{"type": "AllContainersRestarting", "status": "True", "ofTomorrow": 1}],
    });
    let mut lower = copied.as_object().unwrap().clone();
    lower.extend(translated.as_object().unwrap().clone());
    lower.extend(UPPERS.map(|name| (name.to_owned(), json!("lower"))));
    let mut expected = copied;
    expected["observedGeneration"] = json!(3);
    expected["hostIP"] = json!(HOST_IP);
    expected["hostIPs"] = json!([{"ip": HOST_IP}]);
    expected["conditions"] = translated["conditions"].clone();
    assert_eq!(desire(&Value::Object(lower)), expected);
}

#[test]
fn a_problem_is_told_by_reason_and_message() {
    let problem = Problem::ForeignNamesake {
        namespace: "shop".to_owned(),
        name: "web-0".to_owned(),
    };
    let message = "pod shop/web-0 in the lower cluster does not belong to this pod and is left alone; \
                   delete or rename one of them";
    assert_eq!(
        problem.status(),
        json!({"phase": "Pending", "reason": "ForeignNamesake", "message": message})
    );
    let problem = Problem::Missing {
        kind: crate::refs::RefKind::ConfigMap,
        name: "settings".to_owned(),
    };
    let message = "configmap \"settings\" not found";
    let expected = json!({"phase": "Pending", "reason": "MandatoryConfigMapNotFound", "message": message});
    assert_eq!(problem.status(), expected);
    let problem = Problem::NotOffloaded {
        what: "DaemonSet pods".to_owned(),
    };
    let message = "DaemonSet pods are not run by virtual nodes";
    assert_eq!(
        problem.status(),
        json!({"phase": "Pending", "reason": "NotOffloaded", "message": message})
    );
}
