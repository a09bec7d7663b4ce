//! What is remembered is what would be decided anew.

mod support;

use serde_json::{Value, json};
use std::sync::Arc;
use support::random::Random;
use support::{Known, mk_pod, mk_review, mk_rules};
use tensile_core::names;
use tensile_webhook::memo::Memo;
use tensile_webhook::mutate::{Namespace, Rules, mutate};
use tensile_webhook::review::Review;

/// One of few reviews and surroundings: most were there before, and most differ from the last in one thing only.
fn mk_question(random: &mut Random) -> (Value, Known) {
    let specs = [
        json!({"nodeSelector": {"clusterID": "a", "zone": "b"}}),
        json!({"nodeSelector": {"zone": "b"}, "tolerations": [{"key": "k", "operator": "Exists"}]}),
        json!({"affinity": {}, "topologySpreadConstraints": []}),
        json!({"nodeSelector": 1}),
        json!([]),
    ];
    let mut pod = mk_pod(random.pick(&specs));
    if pod["spec"].is_object() && random.chance(30) {
        pod["spec"]["schedulerName"] = json!("theirs");
    }
    let metadata = &mut pod["metadata"];
    match random.below(7) {
        0 => metadata["labels"] = json!({}),
        1 => metadata["annotations"] = json!({names::CLUSTER_SELECTOR: r#"{"nodeSelector":{"zone":"b"}}"#}),
        2 => metadata["annotations"] = json!({names::CLUSTER_SELECTOR: "nonsense"}),
        3 => metadata["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "DaemonSet"}]),
        4 => metadata["ownerReferences"] = json!("nonsense"),
        5 => {
            metadata["ownerReferences"] = json!([]);
            metadata["annotations"] = json!({names::MOVED_FROM: "the first one's UID"});
        }
        _ => {}
    }
    let mut review = mk_review(&pod);
    match random.below(6) {
        0 => review["request"]["namespace"] = json!(names::KUBE_SYSTEM),
        1 => review["request"]["operation"] = json!("UPDATE"),
        2 => review["request"]["subResource"] = json!("eviction"),
        3 => review["request"]["kind"]["kind"] = json!("PodTemplate"),
        _ => {}
    }
    let words = [None, Some("stay"), Some("nonsense")];
    let namespace = Namespace {
        virtual_pods: random.chance(50),
        when_unreachable: random.pick(&words).map(str::to_owned),
    };
    let avoided = if random.chance(30) {
        &["vn-a", "vn-b"][random.below(2)..]
    } else {
        &[]
    };
    let avoided = avoided.iter().map(|&node| node.to_owned()).collect();
    (review, Known { namespace, avoided })
}

#[test]
fn a_remembered_decision_is_the_one_that_would_be_made() {
    let rules = Rules {
        scheduler_name: Some("ours".to_owned()),
        ..mk_rules()
    };
    let memo = Memo::new(rules.clone());
    let mut random = Random(1);
    for _ in 0..20_000 {
        let (review, known) = mk_question(&mut random);
        let body = review.to_string().into_bytes();
        let review = Review::parse(&body).unwrap();
        let request = review.request().unwrap();
        let (outcome, answer) = mutate(request, &rules, &known);
        let decided = memo.decide(request, &known).unwrap();
        assert_eq!(decided.outcome, outcome, "{request:?}");
        let anew = answer.encode().unwrap();
        let [remembered, anew] = [&decided.answer, &anew].map(|answer| review.answer(answer).unwrap());
        assert_eq!(remembered, anew, "{request:?}");
    }
}

#[test]
fn replicas_share_one_decision_whatever_else_differs() {
    let memo = Memo::new(mk_rules());
    let decide = |pod: &Value, uid: &str| {
        let mut review = mk_review(pod);
        review["request"]["uid"] = json!(uid);
        let body = review.to_string().into_bytes();
        let review = Review::parse(&body).unwrap();
        let decided = memo.decide(review.request().unwrap(), &Known::default()).unwrap();
        let answer: Value = serde_json::from_slice(&review.answer(&decided.answer).unwrap()).unwrap();
        assert_eq!(answer["response"]["uid"], uid);
        decided
    };
    let mut pod = mk_pod(&json!({"nodeSelector": {"zone": "b"}}));
    let first = decide(&pod, "1");
    pod["metadata"]["name"] = json!("another");
    pod["spec"]["containers"] = json!([{"name": "c"}]);
    assert!(Arc::ptr_eq(&first, &decide(&pod, "2")));
    pod["spec"]["nodeSelector"]["zone"] = json!("c");
    assert!(!Arc::ptr_eq(&first, &decide(&pod, "3")));
}

#[test]
fn a_pod_with_much_metadata_is_decided_and_forgotten() {
    let memo = Memo::new(mk_rules());
    let mut pod = mk_pod(&json!({}));
    pod["metadata"]["annotations"] = json!({"long": "x".repeat(100 << 10)});
    let body = mk_review(&pod).to_string().into_bytes();
    let review = Review::parse(&body).unwrap();
    let decide = || memo.decide(review.request().unwrap(), &Known::default()).unwrap();
    assert!(!Arc::ptr_eq(&decide(), &decide()));
}
