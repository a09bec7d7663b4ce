//! The pod as it will be below.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};
use tensile_core::labels::LabelLookup;
use tensile_core::stash::{self, Constraints};
use tensile_core::translate::namespace::Mapping;
use tensile_core::translate::pod::{Context, Policy, to_lower};
use tensile_core::translate::service_account::ServiceAccount;
use tensile_placement::Candidate;
use tensile_runtime::clusters::Override;

use crate::world::VirtualNode;

/// Why a pod does not go to a node that its owner avoids. The same text every time: kube-scheduler writes it into the pod's
/// status, which should not change with each attempt.
const AVOIDED: &str = "pods of its owner avoid the node for some time, one was moved from there";

/// One upper pod on its way down to any number of virtual nodes. Where two of them give it the same constraints,
/// namespace and overrides it is translated once; where those labels of theirs are the same that it asks for, its constraints
/// are read once.
#[derive(Debug)]
pub struct Lowering<'a> {
    upper: &'a Value,
    /// Virtual nodes that it does not go to.
    avoided: Vec<String>,
    known: Vec<Known>,
}

#[derive(Debug)]
struct Known {
    /// The labels of the virtual node that decided on the constraints, each with its value.
    decided: Vec<(String, Option<String>)>,
    constraints: Constraints,
    namespaces: Mapping,
    overrides: Arc<[Override]>,
    candidate: Arc<Candidate>,
}

/// Labels, with a note of those that were asked for.
#[derive(Debug)]
struct Noted<'a> {
    labels: &'a BTreeMap<String, String>,
    keys: RefCell<BTreeSet<String>>,
}

// === impl Lowering ===

impl<'a> Lowering<'a> {
    /// Of a pod of the upper cluster.
    #[must_use]
    pub fn new(upper: &'a Value) -> Self {
        Self::avoiding(upper, Vec::new())
    }

    /// Of a pod of the upper cluster that does not go to these virtual nodes.
    pub(crate) fn avoiding(upper: &'a Value, avoided: Vec<String>) -> Self {
        Self {
            upper,
            avoided,
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
    ) -> Result<Arc<Candidate>, String> {
        if self.avoided.iter().any(|avoided| avoided == name) {
            return Err(AVOIDED.to_owned());
        }
        if let Some(known) = self.known.iter().find(|known| known.is_for(node)) {
            return Ok(known.candidate.clone());
        }
        let labels = Noted::new(&node.labels);
        let constraints = stash::lower_constraints(self.upper, &labels, ignored_keys);
        let constraints = constraints.map_err(|error| error.to_string())?;
        let is_it = |known: &&Known| known.constraints == constraints && known.writes_alike(node);
        let candidate = match self.known.iter().find(is_it) {
            Some(known) => known.candidate.clone(),
            None => Arc::new(self.translate(name, node, ignored_keys)?),
        };
        self.known.push(Known {
            decided: labels.noted(),
            constraints,
            namespaces: node.namespaces.clone(),
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
        let namespace = self.upper["metadata"]["namespace"].as_str().unwrap_or_default();
        let context = Context {
            // What only marks the pod as ours, or only its processes see, does not matter to its place.
            origin_cluster: "",
            service_env: &[],
            service_account: ServiceAccount::None,
            ignore_labels: &[],
            node_name: name,
            node_labels: &node.labels,
            ignored_keys,
            lower_namespace: &node.namespaces.lower(namespace),
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

// === impl Known ===

impl Known {
    /// Whether the virtual node decides the same.
    fn is_for(&self, node: &VirtualNode) -> bool {
        let mut decided = self.decided.iter();
        decided.all(|(key, value)| node.labels.get(key) == value.as_ref()) && self.writes_alike(node)
    }

    /// Whether the virtual node gives pods with the same constraints the same form.
    fn writes_alike(&self, node: &VirtualNode) -> bool {
        self.namespaces == node.namespaces && self.overrides == node.overrides
    }
}

// === impl Noted ===

impl<'a> Noted<'a> {
    fn new(labels: &'a BTreeMap<String, String>) -> Self {
        Self {
            labels,
            keys: RefCell::default(),
        }
    }

    /// The labels that were asked for, each with its value.
    fn noted(self) -> Vec<(String, Option<String>)> {
        let labels = self.labels;
        let noted = |key: String| {
            let value = labels.get(&key).cloned();
            (key, value)
        };
        self.keys.into_inner().into_iter().map(noted).collect()
    }
}

impl LabelLookup for Noted<'_> {
    fn label(&self, key: &str) -> Option<&str> {
        self.keys.borrow_mut().insert(key.to_owned());
        self.labels.label(key)
    }
}

#[cfg(test)]
mod tests {
    use tensile_core::labels::Labels;

    use super::*;
    use crate::Answer;
    use crate::testing::{mk_pod, mk_world};

    #[test]
    fn labels_that_the_pod_asks_for_decide_and_others_do_not() {
        let mut pod = mk_pod("p", "1");
        let node = |cluster: &str, other: &str| VirtualNode {
            labels: [("clusterID", cluster), ("other", other)]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
            ..VirtualNode::default()
        };
        let nodes = [node("a", "1"), node("b", "2"), node("a", "3")];
        let ignored = ["clusterID".to_owned(), "other".to_owned()].into();
        for (selector, wanted) in [
            (json!({}), [true, true, true]),
            (json!({"clusterID": "a"}), [true, false, true]),
            (json!({"clusterID": "a", "other": "1"}), [true, false, false]),
        ] {
            let stash = json!({"nodeSelector": selector}).to_string();
            pod["metadata"]["annotations"] = json!({"clusterSelector": stash});
            let mut lowering = Lowering::new(&pod);
            let mut can_run = |node| {
                let candidate = lowering.candidate("vn", node, &ignored).unwrap();
                candidate.node_affinity.matches("n", &Labels::default())
            };
            assert_eq!(nodes.each_ref().map(&mut can_run), wanted, "{selector}");
            assert_eq!(nodes.each_ref().map(&mut can_run), wanted, "{selector} again");
        }
    }

    #[test]
    fn neighbours_are_looked_for_in_the_lower_namespace() {
        let mut world = mk_world();
        let mut neighbour = mk_pod("neighbour", "1");
        neighbour["metadata"]["labels"] = json!({"app": "x"});
        neighbour["metadata"]["namespace"] = json!("p-ns");
        neighbour["spec"]["nodeName"] = json!("b1");
        let neighbour = serde_json::from_value(neighbour).unwrap();
        world.cluster_mut("b").model.apply_pod(&neighbour);
        let mut pod = mk_pod("p", "1");
        let apart = json!({"topologyKey": "name", "labelSelector": {"matchLabels": {"app": "x"}}});
        pod["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
            json!([apart]);
        let labels = json!({"type": "virtual-kubelet", "clusterID": "b"});
        for (annotations, fits) in [
            (json!({}), true),
            (json!({"tensile.dev/namespace-prefix": "p"}), false),
            (json!({"tensile.dev/namespace-prefix": "q"}), true),
            (json!(null), true),
        ] {
            let node = json!({"metadata": {"name": "vb", "labels": labels, "annotations": annotations}});
            world.apply_view(&serde_json::from_value(node).unwrap());
            let answer = world.answer(&mut Lowering::new(&pod), "vb");
            assert_eq!(
                matches!(answer, Some(Answer::Fits(_))),
                fits,
                "{annotations}: {answer:?}"
            );
        }
        // One pod, asked about two nodes of which one has a prefix.
        let told = json!({"tensile.dev/namespace-prefix": "p"});
        let node = json!({"metadata": {"name": "vb2", "labels": labels, "annotations": told}});
        world.apply_view(&serde_json::from_value(node).unwrap());
        let mut lowering = Lowering::new(&pod);
        let fits = ["vb", "vb2", "vb"]
            .map(|node| matches!(world.answer(&mut lowering, node), Some(Answer::Fits(_))));
        assert_eq!(fits, [true, false, true]);
    }

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
