//! The pod as it will be below.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use serde_json::{Value, json};
use tensile_core::stash::{self, Constraints};
use tensile_core::translate::pod::{Context, Policy, to_lower};
use tensile_core::translate::service_account::ServiceAccount;
use tensile_placement::Candidate;

use crate::world::VirtualNode;

/// One upper pod on its way down to any number of virtual nodes. Where two of them give it the same constraints
/// it is translated once.
#[derive(Debug)]
pub struct Lowering<'a> {
    upper: &'a Value,
    known: Vec<(Constraints, Rc<Candidate>)>,
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
        if let Some((_, candidate)) = self.known.iter().find(|(known, _)| *known == constraints) {
            return Ok(candidate.clone());
        }
        let candidate = Rc::new(self.translate(name, &node.labels, ignored_keys)?);
        self.known.push((constraints, candidate.clone()));
        Ok(candidate)
    }

    fn translate(
        &self,
        name: &str,
        labels: &BTreeMap<String, String>,
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
            node_labels: labels,
            ignored_keys,
            lower_namespace: self.upper["metadata"]["namespace"].as_str().unwrap_or_default(),
            policy: &policy,
        };
        let mut lower = to_lower(self.upper, &context)
            .map_err(|error| error.to_string())?
            .pod;
        lower["spec"]["nodeName"] = json!(null);
        Candidate::new(&lower).map_err(|error| error.to_string())
    }
}
