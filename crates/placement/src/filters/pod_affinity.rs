//! Required inter-pod affinity and anti-affinity, both directions.
//!
//! The rules are those of kube-scheduler's interpodaffinity plugin. Affinity: one existing pod must match all
//! terms, and it counts in each term's topology; the first pod of a kind, which no other pod matches, may go
//! anywhere that has the topologies. Anti-affinity: of the pod against those there, and of those there against
//! the pod.

use std::collections::HashSet;
use std::sync::Arc;

use super::refuse;
use crate::candidate::Candidate;
use crate::cluster::Cluster;
use crate::labels::{SharedLabels, TextId};
use crate::node::Node;
use crate::pod::Shape;
use crate::reason::{Reason, Refusal, Tally};
use crate::terms::AffinityTerm;

/// Where the pods are that matter to one pod.
#[derive(Debug)]
pub(super) struct PodAffinity<'a> {
    /// For each affinity term, where pods are that all affinity terms select.
    wanted: Vec<Places<'a>>,
    /// Whether no such pod is anywhere, and the pod is of the kind that it wants to be near.
    first_of_its_kind: bool,
    /// For each anti-affinity term of the pod, where pods are that it selects.
    unwanted: Vec<Places<'a>>,
    /// Where pods keep this one out.
    forbidden: Vec<Places<'a>>,
}

/// Places in one topology: the nodes whose label has one of these values.
#[derive(Debug)]
struct Places<'a> {
    /// `None` if no node has the label.
    key: Option<&'a Arc<str>>,
    values: HashSet<TextId>,
}

// === impl PodAffinity ===

impl<'a> PodAffinity<'a> {
    pub(super) fn prepare(cluster: &'a Cluster, candidate: &'a Candidate) -> Self {
        let pod = &candidate.pod;
        let terms = &candidate.affinity;
        let labels = cluster.namespace_labels(&pod.namespace);
        let wanted = wanted(cluster, terms);
        let wants_own_kind = terms
            .iter()
            .all(|term| term.selects(&pod.namespace, &labels, &pod.labels));
        Self {
            first_of_its_kind: wants_own_kind && wanted.iter().all(|places| places.values.is_empty()),
            wanted,
            unwanted: unwanted(cluster, &pod.anti_affinity),
            forbidden: forbidden(cluster, candidate, &labels),
        }
    }

    /// Whether no pod wants or is wanted near, or far, anywhere.
    pub(super) fn is_empty(&self) -> bool {
        [&self.wanted, &self.unwanted, &self.forbidden]
            .into_iter()
            .all(Vec::is_empty)
    }

    pub(super) fn check(&self, node: &Node<'_>, tally: &mut Tally) -> Option<Refusal> {
        let labels = &node.facts.labels;
        let near = |places: &Places<'_>| {
            places
                .value_of(labels)
                .is_some_and(|value| self.first_of_its_kind || places.values.contains(&value))
        };
        if !self.wanted.iter().all(near) {
            return refuse(Reason::PodAffinity, Refusal::Never, tally);
        }
        if self.unwanted.iter().any(|places| places.include(labels)) {
            return refuse(Reason::PodAntiAffinity, Refusal::Now, tally);
        }
        if self.forbidden.iter().any(|places| places.include(labels)) {
            return refuse(Reason::ExistingAntiAffinity, Refusal::Now, tally);
        }
        None
    }
}

// === impl Places ===

impl<'a> Places<'a> {
    fn of(cluster: &'a Cluster, term: &AffinityTerm) -> Self {
        Self {
            key: cluster.shared(&term.topology_key),
            values: HashSet::new(),
        }
    }

    fn add(&mut self, node: &Node<'_>) {
        self.values.extend(self.value_of(&node.facts.labels));
    }

    fn include(&self, labels: &SharedLabels) -> bool {
        !self.values.is_empty()
            && self
                .value_of(labels)
                .is_some_and(|value| self.values.contains(&value))
    }

    fn value_of(&self, labels: &SharedLabels) -> Option<TextId> {
        labels.of(self.key?).map(TextId::of)
    }
}

/// Where the pods are that all of `terms` select, in the topology of each term.
fn wanted<'a>(cluster: &'a Cluster, terms: &[AffinityTerm]) -> Vec<Places<'a>> {
    let mut places: Vec<Places<'_>> = terms.iter().map(|term| Places::of(cluster, term)).collect();
    let Some(first) = terms.first() else { return places };
    for_each_selected(cluster, first, |shape, namespace_labels, node| {
        if terms
            .iter()
            .all(|term| term.selects(&shape.namespace, namespace_labels, &shape.labels))
        {
            places.iter_mut().for_each(|places| places.add(&node));
        }
    });
    places
}

/// Where the pods are that each of `terms` selects.
fn unwanted<'a>(cluster: &'a Cluster, terms: &[AffinityTerm]) -> Vec<Places<'a>> {
    let places = |term| {
        let mut places = Places::of(cluster, term);
        for_each_selected(cluster, term, |_, _, node| places.add(&node));
        places
    };
    terms.iter().map(places).collect()
}

/// Where the pods are that do not want the candidate near.
fn forbidden<'a>(
    cluster: &'a Cluster,
    candidate: &Candidate,
    namespace_labels: &SharedLabels,
) -> Vec<Places<'a>> {
    let pod = &candidate.pod;
    let mut all: Vec<Places<'_>> = Vec::new();
    for (shape, nodes) in cluster.repelling() {
        let terms = shape.anti_affinity.iter();
        let against = terms.filter(|term| term.selects(&pod.namespace, namespace_labels, &pod.labels));
        let mut against: Vec<Places<'_>> = against.map(|term| Places::of(cluster, term)).collect();
        if !against.is_empty() {
            nodes.for_each(|node| against.iter_mut().for_each(|places| places.add(&node)));
        }
        for places in against {
            match all.iter_mut().find(|known| known.key == places.key) {
                Some(known) => known.values.extend(places.values),
                None => all.push(places),
            }
        }
    }
    all
}

/// Calls `found` for each shape that `term` selects, with the labels of its namespace, and each of its nodes.
fn for_each_selected<'a>(
    cluster: &'a Cluster,
    term: &AffinityTerm,
    mut found: impl FnMut(&'a Arc<Shape>, &SharedLabels, Node<'a>),
) {
    for (namespace, labels) in cluster
        .namespaces()
        .filter(|(name, labels)| term.covers_namespace(name, *labels))
    {
        for (shape, nodes) in cluster.pods_in(namespace) {
            if term.selects(namespace, labels, &shape.labels) {
                nodes.for_each(|(node, _)| found(shape, labels, node));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tensile_core::labels::Labels;

    use crate::candidate::Candidate;
    use crate::testing::{mk_candidate, mk_cluster, refusals};

    const WANTED: &str = "node(s) didn't match pod affinity rules";
    const UNWANTED: &str = "node(s) didn't match pod anti-affinity rules";
    const FORBIDDEN: &str = "node(s) didn't satisfy existing pods anti-affinity rules";

    fn mk_node(name: &str, zone: Option<&str>) -> Value {
        let mut labels = json!({"host": name});
        if let Some(zone) = zone {
            labels["zone"] = json!(zone);
        }
        json!({"metadata": {"name": name, "labels": labels}, "status": {"allocatable": {"pods": "99"}}})
    }

    fn mk_pod(namespace: &str, app: &str, node: &str, affinity: &Value) -> Value {
        json!({
            "metadata": {"name": format!("{app}-{node}"), "namespace": namespace, "labels": {"app": app}},
            "spec": {"nodeName": node, "affinity": affinity}
        })
    }

    fn mk_term(app: &str, key: &str) -> Value {
        json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key})
    }

    fn near(terms: &[Value]) -> Value {
        json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}})
    }

    fn away(terms: &[Value]) -> Value {
        json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}})
    }

    fn mk_own(affinity: &Value) -> Candidate {
        mk_candidate(
            &json!({"namespace": "ns", "labels": {"app": "own", "hash": "1"}}),
            &json!({"affinity": affinity}),
        )
    }

    /// Nodes a1, a2 (zone a), b1 (zone b), u (no zone), beside `pods`; namespace `team` is labelled `team: x`.
    fn refused(candidate: &Candidate, pods: &[Value]) -> Vec<(String, String)> {
        let nodes = [
            mk_node("a1", Some("a")),
            mk_node("a2", Some("a")),
            mk_node("b1", Some("b")),
            mk_node("u", None),
        ];
        let mut cluster = mk_cluster(&nodes, pods);
        let labels: Labels = [("team", "x")].into_iter().collect();
        cluster.apply_namespace("team", &labels);
        refusals(&cluster, candidate)
    }

    fn all(nodes: &[&str], why: &str) -> Vec<(String, String)> {
        nodes
            .iter()
            .map(|node| ((*node).to_owned(), why.to_owned()))
            .collect()
    }

    #[test]
    fn the_pod_goes_near_the_pods_that_it_wants() {
        let web = mk_pod("ns", "web", "a1", &json!({}));
        let db = mk_pod("ns", "db", "a2", &json!({}));
        let elsewhere = mk_pod("team", "web", "b1", &json!({}));
        let mut with_selector = mk_term("web", "zone");
        with_selector["namespaceSelector"] = json!({"matchLabels": {"team": "x"}});
        let mut with_namespace = mk_term("web", "zone");
        with_namespace["namespaces"] = json!(["team"]);
        let mut everywhere = mk_term("web", "zone");
        everywhere["namespaceSelector"] = json!({});
        let no_selector = json!({"topologyKey": "zone"});
        let both = [mk_term("web", "zone"), mk_term("db", "zone")];
        for (what, terms, pods, refused_nodes) in [
            (
                "same zone",
                vec![mk_term("web", "zone")],
                vec![&web],
                vec!["b1", "u"],
            ),
            (
                "same host",
                vec![mk_term("web", "host")],
                vec![&web],
                vec!["a2", "b1", "u"],
            ),
            (
                "no such pod",
                vec![mk_term("web", "zone")],
                vec![&db],
                vec!["a1", "a2", "b1", "u"],
            ),
            (
                "another namespace",
                vec![mk_term("web", "zone")],
                vec![&elsewhere],
                vec!["a1", "a2", "b1", "u"],
            ),
            (
                "namespace by name",
                vec![with_namespace],
                vec![&elsewhere],
                vec!["a1", "a2", "u"],
            ),
            (
                "namespace by label",
                vec![with_selector],
                vec![&web, &elsewhere],
                vec!["a1", "a2", "u"],
            ),
            (
                "all namespaces",
                vec![everywhere],
                vec![&web, &elsewhere],
                vec!["u"],
            ),
            (
                "a term without selector",
                vec![no_selector],
                vec![&web],
                vec!["a1", "a2", "b1", "u"],
            ),
            (
                "one pod must match all terms",
                both.to_vec(),
                vec![&web, &db],
                vec!["a1", "a2", "b1", "u"],
            ),
        ] {
            let pods: Vec<Value> = pods.into_iter().cloned().collect();
            assert_eq!(
                refused(&mk_own(&near(&terms)), &pods),
                all(&refused_nodes, WANTED),
                "{what}"
            );
        }
    }

    #[test]
    fn the_first_of_its_kind_may_go_anywhere_that_has_the_topology() {
        let own = mk_own(&near(&[mk_term("own", "zone")]));
        assert_eq!(refused(&own, &[]), all(&["u"], WANTED));
        let second = [mk_pod("ns", "own", "b1", &json!({}))];
        assert_eq!(
            refused(&own, &second),
            all(&["a1", "a2", "u"], WANTED),
            "the second must follow"
        );
    }

    #[test]
    fn the_pod_stays_away_from_the_pods_that_it_does_not_want() {
        let web = [mk_pod("ns", "web", "a1", &json!({}))];
        assert_eq!(
            refused(&mk_own(&away(&[mk_term("web", "zone")])), &web),
            all(&["a1", "a2"], UNWANTED)
        );
        assert_eq!(
            refused(&mk_own(&away(&[mk_term("web", "host")])), &web),
            all(&["a1"], UNWANTED)
        );
        assert_eq!(refused(&mk_own(&away(&[mk_term("db", "host")])), &web), []);
    }

    #[test]
    fn pods_that_are_there_keep_the_pod_away() {
        let hostile = |namespace, key| [mk_pod(namespace, "web", "a1", &away(&[mk_term("own", key)]))];
        let own = mk_own(&json!({}));
        assert_eq!(
            refused(&own, &hostile("ns", "zone")),
            all(&["a1", "a2"], FORBIDDEN)
        );
        assert_eq!(refused(&own, &hostile("ns", "host")), all(&["a1"], FORBIDDEN));
        assert_eq!(
            refused(&own, &hostile("elsewhere", "zone")),
            [],
            "they speak of their own namespace"
        );
    }

    #[test]
    fn label_keys_narrow_a_term_to_pods_with_the_same_or_other_values() {
        let mut same = mk_pod("ns", "own", "a1", &json!({}));
        same["metadata"]["labels"]["hash"] = json!("1");
        let mut other = mk_pod("ns", "own", "b1", &json!({}));
        other["metadata"]["labels"]["hash"] = json!("2");
        let term = |keys: &str| {
            let mut term = mk_term("own", "host");
            term[keys] = json!(["hash"]);
            term
        };
        let pods = [same, other];
        assert_eq!(
            refused(&mk_own(&away(&[term("matchLabelKeys")])), &pods),
            all(&["a1"], UNWANTED)
        );
        assert_eq!(
            refused(&mk_own(&away(&[term("mismatchLabelKeys")])), &pods),
            all(&["b1"], UNWANTED)
        );
    }
}
