//! Fixtures that the tests of this crate share.

use serde_json::{Value, json};
pub(crate) use tensile_world::testing::{apply_lower_pod, mk_member, mk_pod, mk_world};

use crate::wire::{ExtenderArgs, Nodes};

/// A pod of one CPU with this stash.
pub(crate) fn mk_stashed(stash: &Value) -> Value {
    let mut pod = mk_pod("p", "1");
    pod["metadata"]["annotations"] = json!({"clusterSelector": stash.to_string()});
    pod
}

/// A request with node names.
pub(crate) fn mk_args(pod: &Value, nodes: &[&str]) -> ExtenderArgs {
    ExtenderArgs {
        pod: pod.clone(),
        nodes: Nodes::Names(nodes.iter().map(|name| (*name).to_owned()).collect()),
    }
}
