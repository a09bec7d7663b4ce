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
    let default_seconds = toleration["tolerationSeconds"] == json!(DEFAULT_TOLERATION_SECONDS)
        && toleration["effect"] == "NoExecute"
        && toleration["operator"] == "Exists";
    key == names::PROVIDER_TAINT
        || default_seconds && [names::TAINT_NOT_READY, names::TAINT_UNREACHABLE].contains(&key)
}
