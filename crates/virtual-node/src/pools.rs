//! Node pools: which lower nodes a virtual node stands for, and what that means for the pods that it sends there.

use serde_json::{Value, json};

use tensile_core::labels::{LabelLookup, Operator, Selector};
use tensile_core::resources::{Lane, Resources};
use tensile_runtime::clusters::{NodeConfig, NotApplied, Override, Pattern};

/// Where the terms of required node affinity are.
const TERMS: &str =
    "/spec/affinity/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";

/// The lower nodes of one virtual node. The default is all of them.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    /// Name of the virtual node.
    pub name: String,
    selector: Selector,
    /// The other pools of the lower cluster.
    siblings: Vec<(String, Selector)>,
    /// Labels of lower nodes that are not shown.
    pub exclude_labels: Vec<Pattern>,
    /// Figures that are not computed.
    pub fixed: Vec<(Lane, i64)>,
    overrides: Vec<Override>,
}

// === impl Pool ===

impl Pool {
    /// The pool of the virtual node `nodes[index]` among all of its lower cluster.
    #[must_use]
    pub fn new(nodes: &[NodeConfig], index: usize) -> Self {
        let siblings = nodes.iter().enumerate().filter(|(other, _)| *other != index);
        let node = &nodes[index];
        let quantities = node
            .resources
            .iter()
            .map(|(name, quantity)| (name.as_str(), *quantity));
        let figures = Resources::from_quantities(quantities);
        let lanes = node.resources.keys().filter_map(|name| Lane::of(name));
        Self {
            name: node.name.clone(),
            selector: node.selector.clone(),
            siblings: siblings
                .map(|(_, other)| (other.name.clone(), other.selector.clone()))
                .collect(),
            exclude_labels: node.exclude_labels.clone(),
            fixed: lanes.map(|lane| (lane.clone(), figures.get(&lane))).collect(),
            overrides: node.overrides.clone(),
        }
    }

    /// Whether a lower node with these labels is in this pool alone.
    #[must_use]
    pub fn owns(&self, labels: &impl LabelLookup) -> bool {
        self.selector.matches(labels) && self.rival(labels).is_none()
    }

    /// Another virtual node that claims a lower node of this pool.
    #[must_use]
    pub fn rival(&self, labels: &impl LabelLookup) -> Option<&str> {
        let claims = |(_, selector): &&(String, Selector)| selector.matches(labels);
        let rival = self.siblings.iter().find(claims)?;
        self.selector.matches(labels).then_some(&*rival.0)
    }

    /// Makes a translated pod fit for the pool: kept on its nodes, and patched as the configuration says, last.
    ///
    /// # Errors
    /// A patch that does not apply.
    pub fn shape(&self, pod: &mut Value) -> Result<(), NotApplied> {
        self.confine(pod);
        Override::apply_all(&self.overrides, pod)
    }

    /// Adds the selector to every term of the required node affinity: terms are alternatives.
    fn confine(&self, pod: &mut Value) {
        if self.selector.is_empty() {
            return;
        }
        let expressions: Vec<Value> = self.selector.requirements().iter().map(expression).collect();
        if let Some(terms) = pod.pointer_mut(TERMS).and_then(Value::as_array_mut) {
            for term in terms {
                match term["matchExpressions"].as_array_mut() {
                    Some(list) => list.extend(expressions.iter().cloned()),
                    None => term["matchExpressions"] = json!(expressions),
                }
            }
            return;
        }
        // Indexing makes objects of what is missing or null.
        pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
            json!({"nodeSelectorTerms": [{"matchExpressions": expressions}]});
    }
}

fn expression(requirement: &tensile_core::labels::Requirement) -> Value {
    let operator = match requirement.operator() {
        Operator::In => "In",
        Operator::NotIn => "NotIn",
        Operator::Exists => "Exists",
        Operator::DoesNotExist => "DoesNotExist",
    };
    let mut expression = json!({"key": requirement.key(), "operator": operator});
    if !requirement.values().is_empty() {
        expression["values"] = json!(requirement.values());
    }
    expression
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_pool(yaml: &str, index: usize) -> Pool {
        Pool::new(&NodeConfig::read_file("a", yaml).unwrap(), index)
    }

    const GPU: &str = "nodes: [{name: gpu, selector: {matchLabels: {gpu: 'true'}}}, \
                       {name: rest, selector: {matchExpressions: [{key: gpu, operator: DoesNotExist}]}}]";

    #[test]
    fn a_pod_stays_on_the_nodes_of_its_pool_whatever_else_it_wants() {
        let ours = json!({"key": "gpu", "operator": "In", "values": ["true"]});
        let theirs = json!({"key": "zone", "operator": "Exists"});
        let affinity = |terms: Value| json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}});
        for (before, after) in [
            (json!(null), affinity(json!([{"matchExpressions": [ours]}]))),
            (
                affinity(json!([{"matchExpressions": [theirs]}, {"matchFields": []}])),
                affinity(
                    json!([{"matchExpressions": [theirs, ours]}, {"matchFields": [], "matchExpressions": [ours]}]),
                ),
            ),
        ] {
            let mut pod = json!({"spec": {"affinity": before}});
            mk_pool(GPU, 0).shape(&mut pod).unwrap();
            assert_eq!(pod["spec"]["affinity"], after);
        }
        let mut pod = json!({"spec": {}});
        mk_pool(GPU, 1).shape(&mut pod).unwrap();
        assert_eq!(
            pod.pointer(&format!("{TERMS}/0/matchExpressions/0")),
            Some(&json!({"key": "gpu", "operator": "DoesNotExist"}))
        );
    }

    #[test]
    fn a_pool_of_all_nodes_changes_nothing() {
        let mut pod = json!({"spec": {"x": 1}});
        Pool::default().shape(&mut pod).unwrap();
        assert_eq!(pod, json!({"spec": {"x": 1}}));
    }

    #[test]
    fn overrides_come_last() {
        let yaml = "nodes: [{name: a, selector: {matchLabels: {x: 'y'}}, overrides: [{patch: [{op: remove, path: /spec/affinity}]}]}]";
        let mut pod = json!({"metadata": {}, "spec": {"x": 1}});
        mk_pool(yaml, 0).shape(&mut pod).unwrap();
        assert_eq!(pod["spec"], json!({"x": 1}));
    }
}
