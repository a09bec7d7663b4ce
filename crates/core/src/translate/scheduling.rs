//! What places the pod below: the stash, less what the upper cluster added for its own sake.

use serde_json::{Value, json};

use super::json::{Object, retain, set};
use crate::names;
use crate::stash::Constraints;

/// Seconds of the tolerations that the admission plugin DefaultTolerationSeconds adds, by default.
const DEFAULT_TOLERATION_SECONDS: i64 = 300;

/// Members that refer to scheduling objects or decisions of the upper cluster. A lower node name would have to be
/// ours to give; gates are gone once a pod is bound.
const OF_UPPER_SCHEDULER: [&str; 3] = ["nodeName", "schedulerName", "schedulingGates"];

/// Replaces every scheduling member of `spec`. Without `scheduler_name` the lower cluster takes its default.
pub(super) fn replace(spec: &mut Object, constraints: Constraints, scheduler_name: Option<&str>) {
    for key in OF_UPPER_SCHEDULER {
        spec.remove(key);
    }
    set(spec, "schedulerName", scheduler_name.map(|name| json!(name)));
    set(spec, "nodeSelector", constraints.node_selector);
    set(spec, "affinity", constraints.affinity);
    set(spec, "tolerations", constraints.tolerations);
    set(
        spec,
        "topologySpreadConstraints",
        constraints.topology_spread_constraints,
    );
    retain(spec, "tolerations", |toleration| !is_of_upper_cluster(toleration));
}

/// Whether a toleration is there for the virtual node only: that of its taint, and those that upper admission
/// adds by default (lower admission adds its own).
fn is_of_upper_cluster(toleration: &Value) -> bool {
    let key = toleration["key"].as_str().unwrap_or_default();
    let by_default = toleration["tolerationSeconds"] == DEFAULT_TOLERATION_SECONDS;
    key == names::PROVIDER_TAINT
        || by_default && [names::TAINT_NOT_READY, names::TAINT_UNREACHABLE].contains(&key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(upper: Value, constraints: Constraints) -> Value {
        let Value::Object(mut spec) = upper else {
            panic!("a spec is an object")
        };
        replace(&mut spec, constraints, None);
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
}
