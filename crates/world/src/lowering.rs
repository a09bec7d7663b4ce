//! The pod as it will be below.

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

use serde_json::{Value, json};
use tensile_core::stash::{self, Constraints};
use tensile_core::translate::pod::{Context, Policy, to_lower};
use tensile_core::translate::service_account::ServiceAccount;
use tensile_placement::Candidate;
use tensile_runtime::clusters::Override;

use crate::world::VirtualNode;

/// One upper pod on its way down to any number of virtual nodes. Where two of them give it the same constraints
/// and overrides it is translated once.
#[derive(Debug)]
pub struct Lowering<'a> {
    upper: &'a Value,
    known: Vec<Known>,
}

#[derive(Debug)]
struct Known {
    constraints: Constraints,
    overrides: Arc<[Override]>,
    candidate: Rc<Candidate>,
}

// === impl Lowering ===

impl<'a> Lowering<'a> {
    /// Of a pod of the upper cluster.
    #[must_use]
    pub fn new(upper: &'a Value) -> Self {
        Self {
            upper,
            known: Vec::new(),
        }
    }

    /// The pod as it is above.
    #[must_use]
    pub fn upper(&self) -> &'a Value {
        self.upper
    }

    /// The pod as it would be behind the virtual node `name`.
    ///
    /// # Errors
    /// Why it cannot go there, for people.
    pub fn candidate(
        &mut self,
        name: &str,
        node: &VirtualNode,
        ignored_keys: &BTreeSet<String>,
    ) -> Result<Rc<Candidate>, String> {
        let constraints = stash::lower_constraints(self.upper, &node.labels, ignored_keys);
        let constraints = constraints.map_err(|error| error.to_string())?;
        let is_it = |known: &&Known| known.constraints == constraints && known.overrides == node.overrides;
        if let Some(known) = self.known.iter().find(is_it) {
            return Ok(known.candidate.clone());
        }
        let candidate = Rc::new(self.translate(name, node, ignored_keys)?);
        self.known.push(Known {
            constraints,
            overrides: node.overrides.clone(),
            candidate: candidate.clone(),
        });
        Ok(candidate)
    }

    fn translate(
        &self,
        name: &str,
        node: &VirtualNode,
        ignored_keys: &BTreeSet<String>,
    ) -> Result<Candidate, String> {
        let policy = Policy::default();
        let context = Context {
            // What only marks the pod as ours, or only its processes see, does not matter to its place.
            origin_cluster: "",
            service_env: &[],
            service_account: ServiceAccount::None,
            ignore_labels: &[],
            node_name: name,
            node_labels: &node.labels,
            ignored_keys,
            lower_namespace: self.upper["metadata"]["namespace"].as_str().unwrap_or_default(),
            policy: &policy,
        };
        let mut lower = to_lower(self.upper, &context)
            .map_err(|error| error.to_string())?
            .pod;
        lower["spec"]["nodeName"] = json!(null);
        Override::apply_all(&node.overrides, &mut lower).map_err(|error| error.to_string())?;
        Candidate::new(&lower).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{mk_pod, mk_world};

    #[test]
    fn overrides_of_the_virtual_node_are_part_of_the_lower_form() {
        let mut world = mk_world();
        let larger =
            json!({"op": "replace", "path": "/spec/containers/0/resources/requests/cpu", "value": "9"});
        let larger = serde_json::from_value(json!({ "patch": [larger] })).unwrap();
        world.configure("vb", None, &[larger]);
        let pod = mk_pod("p", "1");
        let mut lowering = Lowering::new(&pod);
        let mut cpu = |node: &str| {
            let virtual_node = world.virtual_node(node).unwrap();
            let candidate = lowering.candidate(node, virtual_node, &BTreeSet::new()).unwrap();
            candidate.pod.request.milli_cpu
        };
        assert_eq!((cpu("va"), cpu("vb")), (1_000, 9_000));
        world.forget_configuration("vb");
        assert!(world.virtual_node("vb").unwrap().overrides.is_empty());
        let wrong = json!({"patch": [{"op": "remove", "path": "/spec/nothing"}]});
        world.configure("vb", None, &[serde_json::from_value(wrong).unwrap()]);
        let virtual_node = world.virtual_node("vb").unwrap();
        let error = Lowering::new(&pod)
            .candidate("vb", virtual_node, &BTreeSet::new())
            .unwrap_err();
        assert!(
            error.starts_with("overrides[0] of the lower cluster does not apply"),
            "{error}"
        );
    }
}
