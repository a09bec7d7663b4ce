//! What places the pod below: the stash, less what the upper cluster added for its own sake.
//!
//! The stash was written when the pod was created. The one constraint that can change later is a toleration: those of
//! a stashed pod that the stash does not have were added since, and count below, too.

use serde_json::{Value, json};

use super::json::{Object, set};
use crate::names;
use crate::stash::{Constraints, PREFERRED};

/// Seconds of the tolerations that the admission plugin DefaultTolerationSeconds adds, by default.
const DEFAULT_TOLERATION_SECONDS: i64 = 300;

/// Members that refer to scheduling objects or decisions of the upper cluster. A lower node name would have to be
/// ours to give; gates are gone once a pod is bound.
const OF_UPPER_SCHEDULER: [&str; 3] = ["nodeName", "schedulerName", "schedulingGates"];

/// Taints that virtual nodes get for their own state; lower nodes get the same ones for theirs.
const OF_VIRTUAL_NODE: [&str; 3] = [
    names::PROVIDER_TAINT,
    names::TAINT_NOT_READY,
    names::TAINT_UNREACHABLE,
];

/// Replaces every scheduling member of `spec`. `stashed` says whether `constraints` come from a stash. Without
/// `scheduler_name` the lower cluster takes its default.
pub(super) fn replace(
    spec: &mut Object,
    constraints: Constraints,
    stashed: bool,
    scheduler_name: Option<&str>,
) {
    for key in OF_UPPER_SCHEDULER {
        spec.remove(key);
    }
    let tolerations = tolerations(spec.remove("tolerations"), constraints.tolerations, stashed);
    set(spec, "schedulerName", scheduler_name.map(|name| json!(name)));
    set(spec, "nodeSelector", constraints.node_selector);
    set(spec, "affinity", constraints.affinity);
    set(
        spec,
        "tolerations",
        (!tolerations.is_empty()).then_some(Value::Array(tolerations)),
    );
    set(
        spec,
        "topologySpreadConstraints",
        constraints.topology_spread_constraints,
    );
}

/// Lets the lower scheduler prefer the node that the extender promised to the pod: it may still choose another one, and
/// then the promise was wrong. What is no name of a node is passed over; a lower API server would refuse the pod for it.
pub(super) fn prefer(spec: &mut Object, hint: &str) {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_name = hint.starts_with(is_part) && hint.ends_with(is_part);
    if !is_name || !hint.chars().all(|c| is_part(c) || matches!(c, '-' | '.')) {
        return;
    }
    let field = json!({"key": "metadata.name", "operator": "In", "values": [hint]});
    // The highest weight there is: placing by hints is what the upper scheduler decided on.
    let term = json!({"weight": 100, "preference": {"matchFields": [field]}});
    let path = ["affinity", "nodeAffinity"];
    let node_affinity = path.into_iter().try_fold(spec, |object, member| {
        let value = object.entry(member).or_insert_with(|| json!({}));
        value.as_object_mut()
    });
    let Some(node_affinity) = node_affinity else {
        return;
    };
    let preferred = node_affinity.entry(PREFERRED).or_insert_with(|| json!([]));
    if let Value::Array(preferred) = preferred {
        preferred.push(term);
    }
}

/// The tolerations below, from those above and those of the constraints.
fn tolerations(above: Option<Value>, constraints: Option<Value>, stashed: bool) -> Vec<Value> {
    let mut tolerations = into_list(constraints);
    if stashed {
        let added = into_list(above)
            .into_iter()
            .filter(|toleration| !OF_VIRTUAL_NODE.contains(&key(toleration)));
        merge_tolerations(&mut tolerations, added);
    }
    tolerations.retain(|toleration| key(toleration) != names::PROVIDER_TAINT && !is_by_default(toleration));
    tolerations
}

/// Adds what `tolerations` does not have, and changes the seconds of what it has.
pub(super) fn merge_tolerations(tolerations: &mut Vec<Value>, wanted: impl IntoIterator<Item = Value>) {
    for wanted in wanted {
        match tolerations.iter_mut().find(|has| same_but_seconds(has, &wanted)) {
            Some(has) => *has = wanted,
            None => tolerations.push(wanted),
        }
    }
}

/// Whether upper admission added the toleration by default; lower admission adds its own.
fn is_by_default(toleration: &Value) -> bool {
    toleration["tolerationSeconds"] == DEFAULT_TOLERATION_SECONDS
        && [names::TAINT_NOT_READY, names::TAINT_UNREACHABLE].contains(&key(toleration))
}

fn same_but_seconds(one: &Value, other: &Value) -> bool {
    let members = ["key", "operator", "value", "effect"];
    members.iter().all(|member| one[member] == other[member])
}

fn key(toleration: &Value) -> &str {
    toleration["key"].as_str().unwrap_or_default()
}

fn into_list(value: Option<Value>) -> Vec<Value> {
    match value {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(upper: Value, constraints: Constraints) -> Value {
        let Value::Object(mut spec) = upper else {
            panic!("a spec is an object")
        };
        replace(&mut spec, constraints, false, None);
        Value::Object(spec)
    }

    #[test]
    fn every_scheduling_member_is_that_of_the_constraints() {
        let upper = json!({
            "nodeName": "vnode", "schedulerName": "mine", "schedulingGates": [], "restartPolicy": "Always",
            "nodeSelector": {"clusterID": "a"}, "affinity": {"nodeAffinity": {}}, "tolerations": [{"key": "upper"}],
            "topologySpreadConstraints": [{"maxSkew": 1}],
        });
        assert_eq!(
            replaced(upper.clone(), Constraints::default()),
            json!({"restartPolicy": "Always"})
        );
        let constraints = Constraints {
            node_selector: Some(json!({"disk": "ssd"})),
            affinity: Some(json!({"podAffinity": {}})),
            tolerations: Some(json!([{"key": "lower"}])),
            topology_spread_constraints: Some(json!([{"maxSkew": 2}])),
        };
        assert_eq!(
            replaced(upper, constraints),
            json!({
                "restartPolicy": "Always", "nodeSelector": {"disk": "ssd"}, "affinity": {"podAffinity": {}},
                "tolerations": [{"key": "lower"}], "topologySpreadConstraints": [{"maxSkew": 2}],
            })
        );
    }

    #[test]
    fn a_promised_node_is_preferred_beside_what_the_pod_prefers() {
        let own =
            json!({"weight": 1, "preference": {"matchExpressions": [{"key": "disk", "operator": "Exists"}]}});
        let field = json!({"key": "metadata.name", "operator": "In", "values": ["node-1.b"]});
        let hinted = json!({"weight": 100, "preference": {"matchFields": [field]}});
        let affinity = |terms: Value| json!({"affinity": {"nodeAffinity": {PREFERRED: terms}}});
        for (hint, before, after) in [
            ("node-1.b", json!({}), affinity(json!([hinted]))),
            ("node-1.b", affinity(json!([own])), affinity(json!([own, hinted]))),
            ("node-1.b", json!({"affinity": null}), json!({"affinity": null})),
            ("No Name", json!({}), json!({})),
            ("", json!({}), json!({})),
        ] {
            let Value::Object(mut spec) = before else {
                panic!("a spec is an object")
            };
            prefer(&mut spec, hint);
            assert_eq!(Value::Object(spec), after, "{hint}");
        }
    }

    #[test]
    fn tolerations_for_the_virtual_node_alone_are_left_out() {
        let no_execute = |key: &str, seconds: i64| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
        let kept = [
            json!({"operator": "Exists"}),
            json!({"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"}),
            no_execute("node.kubernetes.io/not-ready", 299),
            no_execute("node.kubernetes.io/memory-pressure", 300),
        ];
        let mut all = vec![
            no_execute("node.kubernetes.io/not-ready", 300),
            no_execute("node.kubernetes.io/unreachable", 300),
            json!({"key": "virtual-kubelet.io/provider", "operator": "Exists"}),
        ];
        all.extend(kept.iter().cloned());
        let constraints = |list: &[Value]| Constraints {
            tolerations: Some(json!(list)),
            ..Constraints::default()
        };
        assert_eq!(
            replaced(json!({}), constraints(&all)),
            json!({"tolerations": kept})
        );
        assert_eq!(replaced(json!({}), constraints(&all[..3])), json!({}));
    }

    #[test]
    fn a_toleration_added_to_a_stashed_pod_counts_below() {
        let toleration = |key: &str, seconds: Option<i64>| json!({"key": key, "tolerationSeconds": seconds});
        let stash = json!([toleration("a", None), toleration("slow", Some(60))]);
        let above = json!([
            toleration("slow", Some(30)),
            toleration("new", None),
            toleration("virtual-kubelet.io/provider", None),
            toleration("node.kubernetes.io/unreachable", None),
        ]);
        let both = json!([
            toleration("a", None),
            toleration("slow", Some(30)),
            toleration("new", None)
        ]);
        for (stashed, expected) in [(true, &both), (false, &stash)] {
            let below = tolerations(Some(above.clone()), Some(stash.clone()), stashed);
            assert_eq!(below, *expected.as_array().unwrap(), "stashed: {stashed}");
        }
    }
}
