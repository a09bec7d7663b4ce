use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::*;
use crate::names;

fn mk_ignored() -> BTreeSet<String> {
    BTreeSet::from([names::CLUSTER_ID.to_owned()])
}

fn mk_labels(cluster: &str) -> BTreeMap<String, String> {
    BTreeMap::from([(names::CLUSTER_ID.to_owned(), cluster.to_owned())])
}

fn req(key: &str, operator: &str, values: &[&str]) -> Value {
    json!({"key": key, "operator": operator, "values": values})
}

fn term(requirements: &[Value]) -> Value {
    json!({"matchExpressions": requirements})
}

fn cluster(id: &str) -> Value {
    req(names::CLUSTER_ID, "In", &[id])
}

fn zone(zone: &str) -> Value {
    req("zone", "In", &[zone])
}

fn mk_required(terms: &[Value]) -> Value {
    json!({"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": terms}}})
}

fn mk_preferred(terms: &[Value]) -> Value {
    let list: Vec<Value> = terms
        .iter()
        .map(|term| json!({"weight": 7, "preference": term}))
        .collect();
    json!({"nodeAffinity": {PREFERRED: list}})
}

/// Splits a pod spec and gives back the spec that stays and the stash, both as JSON.
fn mk_split(spec: &Value, annotation: &str) -> Result<(Value, Value), SplitError> {
    let stash = Stash::decode(annotation).expect("a readable annotation");
    let split = split(Constraints::of_spec(spec), stash, &mk_ignored(), |_| false)?;
    let again = split_again(&split);
    assert_eq!(again, split, "splitting again changes nothing");
    let stash = serde_json::from_str(&split.stash.encode()).expect("JSON");
    Ok((mk_spec(split.upper), stash))
}

fn split_again(done: &Split) -> Split {
    let stash = Stash::decode(&done.stash.encode()).expect("our own annotation");
    split(done.upper.clone(), stash, &mk_ignored(), |_| false).expect("our own split")
}

fn mk_spec(constraints: Constraints) -> Value {
    let members = [
        ("nodeSelector", constraints.node_selector),
        ("affinity", constraints.affinity),
        ("tolerations", constraints.tolerations),
        (
            "topologySpreadConstraints",
            constraints.topology_spread_constraints,
        ),
    ];
    members
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .collect::<Map<_, _>>()
        .into()
}

/// The lower pod's constraints for a pod with this spec and annotation on a virtual node of cluster `a`.
fn mk_lower(spec: &Value, annotation: Option<&Value>) -> Value {
    let mut pod = json!({"metadata": {}, "spec": spec});
    if let Some(annotation) = annotation {
        pod["metadata"]["annotations"] = json!({names::CLUSTER_SELECTOR: annotation.to_string()});
    }
    mk_spec(lower_constraints(&pod, &mk_labels("a"), &mk_ignored()).expect("a readable pod"))
}

#[test]
fn divides_each_member_by_the_ignored_keys() {
    for (what, spec, upper, stash) in [
        ("nothing", json!({}), json!({}), json!({})),
        (
            "node selector",
            json!({"nodeSelector": {"clusterID": "a", "zone": "z"}}),
            json!({"nodeSelector": {"clusterID": "a"}}),
            json!({"nodeSelector": {"zone": "z"}}),
        ),
        (
            "a term about lower nodes goes",
            json!({"affinity": mk_required(&[term(&[zone("z")])])}),
            json!({}),
            json!({"affinity": mk_required(&[term(&[zone("z")])])}),
        ),
        (
            "terms about clusters stay",
            json!({"affinity": mk_required(&[term(&[cluster("a")]), term(&[cluster("b")])])}),
            json!({"affinity": mk_required(&[term(&[cluster("a")]), term(&[cluster("b")])])}),
            json!({}),
        ),
        (
            "a mixed term goes whole, and what it says about the cluster stays",
            json!({"affinity": mk_required(&[term(&[cluster("a"), zone("z")])])}),
            json!({"affinity": mk_required(&[term(&[cluster("a")])])}),
            json!({"affinity": mk_required(&[term(&[cluster("a"), zone("z")])])}),
        ),
        (
            "one term without a word about clusters lets every cluster in",
            json!({"affinity": mk_required(&[term(&[cluster("a")]), term(&[zone("z")])])}),
            json!({}),
            json!({"affinity": mk_required(&[term(&[cluster("a")]), term(&[zone("z")])])}),
        ),
        (
            "the same condition is said once",
            json!({"affinity": mk_required(&[term(&[cluster("a"), zone("y")]), term(&[zone("z"), cluster("a")])])}),
            json!({"affinity": mk_required(&[term(&[cluster("a")])])}),
            json!({"affinity": mk_required(&[term(&[cluster("a"), zone("y")]), term(&[zone("z"), cluster("a")])])}),
        ),
        (
            "an empty term beside others is dropped: it matches nothing",
            json!({"affinity": mk_required(&[json!({}), term(&[zone("z")])])}),
            json!({}),
            json!({"affinity": mk_required(&[term(&[zone("z")])])}),
        ),
        (
            "an empty term alone keeps the pod from every node, above already",
            json!({"affinity": mk_required(&[json!({})])}),
            json!({"affinity": mk_required(&[json!({})])}),
            json!({}),
        ),
        (
            "preferences, term by term",
            json!({"affinity": mk_preferred(&[term(&[cluster("a")]), term(&[zone("z")]), term(&[cluster("b"), zone("y")])])}),
            json!({"affinity": mk_preferred(&[term(&[cluster("a")]), term(&[cluster("b")])])}),
            json!({"affinity": mk_preferred(&[term(&[zone("z")]), term(&[cluster("b"), zone("y")])])}),
        ),
        (
            "tolerations act at both levels",
            json!({"tolerations": [{"key": "gpu", "operator": "Exists", "new": 1}]}),
            json!({"tolerations": [{"key": "gpu", "operator": "Exists", "new": 1}]}),
            json!({"tolerations": [{"key": "gpu", "operator": "Exists", "new": 1}]}),
        ),
        (
            "topology spread over hosts goes, over zones stays",
            json!({"topologySpreadConstraints": [{"topologyKey": names::HOSTNAME}, {"topologyKey": "zone"}]}),
            json!({"topologySpreadConstraints": [{"topologyKey": "zone"}]}),
            json!({"topologySpreadConstraints": [{"topologyKey": names::HOSTNAME}]}),
        ),
        (
            "empty members stay as they were",
            json!({"nodeSelector": {}, "affinity": {"nodeAffinity": {}}, "topologySpreadConstraints": []}),
            json!({"nodeSelector": {}, "affinity": {"nodeAffinity": {}}, "topologySpreadConstraints": []}),
            json!({}),
        ),
    ] {
        assert_eq!(mk_split(&spec, "").expect(what), (upper, stash), "{what}");
    }
}

#[test]
fn pod_anti_affinity_over_hosts_goes_below_and_pod_affinity_stays() {
    let one = |key: &str| json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": "a"}}});
    let wish = |key: &str| json!({"weight": 3, "podAffinityTerm": one(key)});
    let spec = json!({"affinity": {
        "podAffinity": {REQUIRED: [one(names::HOSTNAME)], PREFERRED: [wish(names::HOSTNAME)]},
        "podAntiAffinity": {
            REQUIRED: [one("zone"), one(names::HOSTNAME)],
            PREFERRED: [wish(names::HOSTNAME)],
        },
    }});
    let (upper, stash) = mk_split(&spec, "").expect("a readable pod");
    assert_eq!(
        upper,
        json!({"affinity": {
            "podAffinity": {REQUIRED: [one(names::HOSTNAME)], PREFERRED: [wish(names::HOSTNAME)]},
            "podAntiAffinity": {REQUIRED: [one("zone")]},
        }})
    );
    assert_eq!(
        stash,
        json!({"affinity": {"podAntiAffinity": {
            REQUIRED: [one(names::HOSTNAME)],
            PREFERRED: [wish(names::HOSTNAME)],
        }}})
    );
    assert_eq!(mk_lower(&upper, Some(&stash)), spec, "all of it acts below");
}

#[test]
fn what_tells_clusters_apart_acts_above_only() {
    let one = |key: &str| json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": "a"}}});
    let wish = |key: &str| json!({"weight": 3, "podAffinityTerm": one(key)});
    let constraints = |keys: &[&str]| {
        let ones: Vec<Value> = keys.iter().map(|key| one(key)).collect();
        let wishes: Vec<Value> = keys.iter().map(|key| wish(key)).collect();
        let both = json!({REQUIRED: ones, PREFERRED: wishes});
        json!({"affinity": {"podAffinity": both, "podAntiAffinity": both}, "topologySpreadConstraints": ones})
    };
    let spec = constraints(&[names::CLUSTER_ID, "zone"]);
    let (upper, stash) = mk_split(&spec, "").expect("a readable pod");
    assert_eq!((&upper, &stash), (&spec, &json!({})), "all of it stays");
    assert_eq!(mk_lower(&upper, Some(&stash)), constraints(&["zone"]));
    let hand = constraints(&[names::CLUSTER_ID, "rack"]);
    assert_eq!(
        mk_lower(&json!({}), Some(&hand)),
        constraints(&["rack"]),
        "whoever wrote it, it cannot hold below"
    );
    let (upper, stash) = mk_split(&json!({}), &hand.to_string()).expect("a readable pod");
    assert_eq!(
        upper,
        constraints(&[names::CLUSTER_ID]),
        "what was hand-written comes up"
    );
    assert_eq!(stash, constraints(&["rack"]));
    let (upper, _) = mk_split(&upper, &hand.to_string()).expect("a readable pod");
    assert_eq!(upper, constraints(&[names::CLUSTER_ID]), "once");
}

#[test]
fn a_hand_written_stash_is_joined_with_the_pod() {
    let spec = json!({
        "nodeSelector": {"disk": "ssd"},
        "affinity": mk_required(&[term(&[zone("x")]), term(&[zone("y")])]),
        "tolerations": [{"key": "a"}, {"key": "b"}],
        "topologySpreadConstraints": [{"topologyKey": names::HOSTNAME, "maxSkew": 2}],
    });
    let hand = json!({
        "nodeSelector": {"arch": "arm64", "clusterID": "a"},
        "affinity": mk_required(&[term(&[req("gpu", "Exists", &[])])]),
        "tolerations": [{"key": "b"}, {"key": "c"}],
        "topologySpreadConstraints": [{"topologyKey": names::HOSTNAME, "maxSkew": 1}],
        "future": [1],
    });
    let (upper, stash) = mk_split(&spec, &hand.to_string()).expect("joined");
    let gpu = req("gpu", "Exists", &[]);
    assert_eq!(
        upper,
        json!({"nodeSelector": {"clusterID": "a"}, "tolerations": [{"key": "a"}, {"key": "b"}]})
    );
    assert_eq!(
        stash,
        json!({
            "nodeSelector": {"arch": "arm64", "disk": "ssd"},
            "affinity": mk_required(&[term(&[gpu.clone(), zone("x")]), term(&[gpu, zone("y")])]),
            "tolerations": [{"key": "b"}, {"key": "c"}, {"key": "a"}],
            "topologySpreadConstraints": [
                {"topologyKey": names::HOSTNAME, "maxSkew": 1},
                {"topologyKey": names::HOSTNAME, "maxSkew": 2},
            ],
            "future": [1],
        })
    );
}

#[test]
fn the_upper_pod_keeps_what_a_hand_written_stash_says_about_clusters() {
    let hand = json!({"affinity": mk_required(&[term(&[cluster("a"), zone("x")])])});
    let (upper, stash) = mk_split(&json!({}), &hand.to_string()).expect("joined");
    assert_eq!(upper, json!({"affinity": mk_required(&[term(&[cluster("a")])])}));
    assert_eq!(stash, hand);
}

#[test]
fn what_acts_above_only_is_not_joined_into_an_existing_stash() {
    let pod = Constraints::of_spec(&json!({"tolerations": [{"key": "ours"}, {"key": "theirs"}]}));
    let acts_above_only = |toleration: &Value| toleration["key"] == "ours";
    let keys = |stash: Option<Stash>| {
        let split = split(pod.clone(), stash, &mk_ignored(), acts_above_only).expect("a split");
        split
            .stash
            .tolerations
            .iter()
            .map(|toleration| toleration["key"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(keys(Some(Stash::default())), ["theirs"]);
    assert_eq!(
        keys(None),
        ["ours", "theirs"],
        "before the first time nothing was added, so it is the user's"
    );
}

#[test]
fn contradictions_and_large_products_are_refused() {
    let hand = json!({"nodeSelector": {"zone": "a"}});
    let error =
        mk_split(&json!({"nodeSelector": {"zone": "b"}}), &hand.to_string()).expect_err("contradiction");
    assert!(
        matches!(&error, SplitError::Contradiction { key, .. } if key == "zone"),
        "{error}"
    );

    let many: Vec<Value> = (0..17).map(|index| term(&[zone(&format!("z{index}"))])).collect();
    let affinity = json!({"affinity": mk_required(&many)});
    let error = mk_split(&affinity, &affinity.to_string()).expect_err("17 x 17 terms");
    assert_eq!(error, SplitError::TooManyTerms { terms: 289 });
}

#[test]
fn an_unreadable_pod_is_named_by_field() {
    for (spec, path) in [
        (json!({"nodeSelector": 1}), "nodeSelector"),
        (
            json!({"affinity": {"podAntiAffinity": {PREFERRED: [1]}}}),
            "affinity.podAntiAffinity.preferred",
        ),
        (json!({"tolerations": [{"key": {}}]}), "tolerations[0]"),
        (
            json!({"topologySpreadConstraints": {}}),
            "topologySpreadConstraints",
        ),
        (
            json!({"affinity": mk_preferred(&[term(&[req("a", "Near", &[])])])}),
            "affinity.nodeAffinity.preferred",
        ),
    ] {
        let error = mk_split(&spec, "").expect_err(path);
        assert!(
            matches!(&error, SplitError::Unreadable(at) if at.path.starts_with(path)),
            "{error}"
        );
    }
}

#[test]
fn resolves_the_ignored_keys_on_the_virtual_node() {
    let nowhere = json!({"affinity": mk_required(&[json!({})])});
    let name = json!({"key": "metadata.name", "operator": "In", "values": ["n"]});
    for (what, stash, lower) in [
        ("null is present and empty", json!(null), json!({})),
        (
            "a term that holds loses what was decided",
            mk_required(&[term(&[cluster("a"), zone("z")])]),
            { json!({"affinity": mk_required(&[term(&[zone("z")])])}) },
        ),
        (
            "a term that fails is dropped",
            mk_required(&[term(&[cluster("b"), zone("y")]), term(&[zone("z")])]),
            json!({"affinity": mk_required(&[term(&[zone("z")])])}),
        ),
        (
            "a term that wholly holds frees the pod",
            mk_required(&[term(&[cluster("a")]), term(&[zone("z")])]),
            json!({}),
        ),
        (
            "no term left matches nothing",
            mk_required(&[term(&[cluster("b"), zone("z")])]),
            nowhere.clone(),
        ),
        ("no term at all matches nothing", mk_required(&[]), nowhere),
        (
            "fields are those of the lower node",
            mk_required(&[json!({"matchFields": [name]})]),
            { json!({"affinity": mk_required(&[json!({"matchFields": [name]})])}) },
        ),
        (
            "preferences that are decided are dropped",
            mk_preferred(&[
                term(&[cluster("a"), zone("z")]),
                term(&[cluster("b"), zone("y")]),
                term(&[cluster("a")]),
            ]),
            json!({"affinity": mk_preferred(&[term(&[zone("z")])])}),
        ),
    ] {
        let stash = if stash.is_null() {
            stash
        } else {
            json!({"affinity": stash})
        };
        assert_eq!(mk_lower(&json!({}), Some(&stash)), lower, "{what}");
    }
    let selector = |id: &str| json!({"nodeSelector": {"clusterID": id, "zone": "z"}});
    assert_eq!(
        mk_lower(&json!({}), Some(&selector("a"))),
        json!({"nodeSelector": {"zone": "z"}})
    );
    assert_eq!(mk_lower(&json!({}), Some(&selector("b"))), {
        json!({"nodeSelector": {"zone": "z"}, "affinity": mk_required(&[json!({})])})
    });
}

#[test]
fn what_speaks_about_virtual_nodes_never_comes_down_from_the_spec() {
    let mut affinity = mk_required(&[term(&[zone("z")])]);
    affinity["nodeAffinity"][PREFERRED] =
        mk_preferred(&[term(&[zone("y")])])["nodeAffinity"][PREFERRED].clone();
    affinity["podAffinity"] = json!({REQUIRED: [{"topologyKey": names::HOSTNAME}]});
    affinity["podAntiAffinity"] = json!({REQUIRED: [{"topologyKey": "zone"}]});
    let spec = json!({
        "nodeSelector": {"zone": "z"},
        "affinity": affinity,
        "tolerations": [{"operator": "Exists"}],
        "topologySpreadConstraints": [{"topologyKey": "zone"}],
    });
    let mut lower = spec.clone();
    lower["affinity"]["nodeAffinity"]
        .as_object_mut()
        .expect("an object")
        .remove(REQUIRED);
    lower
        .as_object_mut()
        .expect("an object")
        .retain(|key, _| key != "nodeSelector" && key != "tolerations");
    assert_eq!(mk_lower(&spec, None), lower);
    assert_eq!(mk_lower(&spec, Some(&json!({}))), lower);
    assert_eq!(mk_lower(&json!({}), None), json!({}));
}

#[test]
fn label_keys_that_the_upper_api_server_has_merged_do_not_go_down_twice() {
    let selector = json!({"matchExpressions": [req("hash", "In", &["x"])]});
    let merged = json!({"topologyKey": "zone", "matchLabelKeys": ["hash"], "labelSelector": selector});
    let settled = json!({"topologyKey": "zone", "labelSelector": selector});
    let spec = |term: &Value| {
        json!({
            "affinity": {
                "podAffinity": {PREFERRED: [{"weight": 1, "podAffinityTerm": term}]},
                "podAntiAffinity": {REQUIRED: [term]},
            },
            "topologySpreadConstraints": [term],
        })
    };
    assert_eq!(mk_lower(&spec(&merged), None), spec(&settled));
    assert_eq!(
        mk_lower(&json!({}), Some(&spec(&merged))),
        spec(&merged),
        "the stash never saw an API server"
    );
}

#[test]
fn reads_what_tensile_kube_writes() {
    // The shape of reference/tensile-kube.md: only required node affinity, no ignored keys.
    let stash = json!({
        "nodeSelector": {"zone": "z"},
        "affinity": mk_required(&[term(&[req("arch", "NotIn", &["arm64"])])]),
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
    });
    assert_eq!(
        mk_lower(&json!({"tolerations": [{"key": "not-ready"}]}), Some(&stash)),
        stash
    );
}

#[test]
fn keys_are_read_in_any_case_but_labels_are_not_touched() {
    let text = r#"{"NODESELECTOR": {"NodeSelector": "x", "Effect": "y"},
        "Affinity": {"nodeaffinity": {"RequiredDuringSchedulingIgnoredDuringExecution": {"nodeselectorterms": [
            {"MatchExpressions": [{"Key": "Zone", "OPERATOR": "In", "values": ["Z"]}]}]}}},
        "Tolerations": [{"Key": "Key", "tolerationseconds": 5}], "Future": {"Thing": 1}}"#;
    let stash = Stash::decode(text).expect("readable").expect("present");
    let expected = json!({
        "nodeSelector": {"NodeSelector": "x", "Effect": "y"},
        "affinity": mk_required(&[term(&[req("Zone", "In", &["Z"])])]),
        "tolerations": [{"key": "Key", "tolerationSeconds": 5}],
        "Future": {"Thing": 1},
    });
    assert_eq!(
        serde_json::from_str::<Value>(&stash.encode()).expect("JSON"),
        expected
    );
}

#[test]
fn a_broken_annotation_says_what_is_wrong_where() {
    for (text, path) in [
        ("{", "line 1 column 1"),
        ("nonsense", "line 1 column 2"),
        ("[]", "the top"),
        ("\"x\"", "the top"),
        (r#"{"nodeSelector": []}"#, "nodeSelector"),
        (r#"{"nodeSelector": {"a": 1}}"#, "nodeSelector[a]"),
        (r#"{"tolerations": [{"key": 1}]}"#, "tolerations[0]"),
        (
            r#"{"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms":
            [{"matchExpressions": [{"key": "a", "operator": "Gt", "values": []}]}]}}}}"#,
            "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchExpressions[0].values",
        ),
    ] {
        let error = Stash::decode(text).expect_err(text);
        assert!(
            matches!(&error, StashError::Malformed { path: at, .. } if at == path),
            "{error}"
        );
        let pod = json!({"metadata": {"annotations": {names::CLUSTER_SELECTOR: text}}, "spec": {}});
        assert!(
            lower_constraints(&pod, &mk_labels("a"), &mk_ignored()).is_err(),
            "{text}"
        );
    }
    assert_eq!(Stash::decode("").expect("empty is missing"), None);
    assert_eq!(
        Stash::decode("null").expect("null is present"),
        Some(Stash::default())
    );
}
