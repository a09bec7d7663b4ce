//! Terms of inter-pod affinity and anti-affinity, compiled.

use serde::{Deserialize, Deserializer};
use tensile_core::labels::{LabelLookup, Labels, Operator, Requirement, Selector};

/// One required term: which pods it speaks of, and within which topology.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AffinityTerm {
    /// Namespaces by name.
    pub namespaces: Box<[Box<str>]>,
    /// Namespaces by their labels, beside those by name; `None` selects none.
    pub namespace_selector: Option<Selector>,
    /// Which pods; `None` selects none.
    pub selector: Option<Selector>,
    /// The node label whose value two nodes share to be in the same place.
    pub topology_key: Box<str>,
}

/// `spec.affinity`, as far as it speaks of other pods and is required.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct RawPodAffinities {
    pod_affinity: Option<RawTerms>,
    pod_anti_affinity: Option<RawTerms>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct RawTerms {
    #[serde(
        rename = "requiredDuringSchedulingIgnoredDuringExecution",
        deserialize_with = "or_default"
    )]
    required: Vec<RawTerm>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RawTerm {
    label_selector: Option<Selector>,
    namespace_selector: Option<Selector>,
    #[serde(deserialize_with = "or_default")]
    namespaces: Vec<Box<str>>,
    topology_key: Box<str>,
    #[serde(deserialize_with = "or_default")]
    match_label_keys: Vec<Box<str>>,
    #[serde(deserialize_with = "or_default")]
    mismatch_label_keys: Vec<Box<str>>,
}

// === impl AffinityTerm ===

impl AffinityTerm {
    /// Whether the term speaks of a pod with these labels in this namespace, whose own labels are
    /// `namespace_labels`.
    pub fn selects(
        &self,
        namespace: &str,
        namespace_labels: &(impl LabelLookup + ?Sized),
        labels: &(impl LabelLookup + ?Sized),
    ) -> bool {
        self.selector
            .as_ref()
            .is_some_and(|selector| selector.matches(labels))
            && self.covers_namespace(namespace, namespace_labels)
    }

    /// Whether the term speaks of pods in this namespace, whose own labels are `namespace_labels`.
    pub fn covers_namespace(&self, namespace: &str, namespace_labels: &(impl LabelLookup + ?Sized)) -> bool {
        self.namespaces.iter().any(|name| **name == *namespace)
            || self
                .namespace_selector
                .as_ref()
                .is_some_and(|selector| selector.matches(namespace_labels))
    }
}

// === impl RawPodAffinities ===

impl RawPodAffinities {
    /// The required affinity terms of a pod with these labels in this namespace.
    pub(crate) fn affinity(&self, namespace: &str, labels: &Labels) -> Box<[AffinityTerm]> {
        compile(self.pod_affinity.as_ref(), namespace, labels)
    }

    /// The required anti-affinity terms of a pod with these labels in this namespace.
    pub(crate) fn anti_affinity(&self, namespace: &str, labels: &Labels) -> Box<[AffinityTerm]> {
        compile(self.pod_anti_affinity.as_ref(), namespace, labels)
    }
}

impl RawTerm {
    fn compile(&self, namespace: &str, labels: &Labels) -> AffinityTerm {
        let own_namespace = self.namespaces.is_empty() && self.namespace_selector.is_none();
        let selector = self.label_selector.clone().map(|selector| {
            with_label_keys(
                with_label_keys(selector, &self.match_label_keys, Operator::In, labels),
                &self.mismatch_label_keys,
                Operator::NotIn,
                labels,
            )
        });
        AffinityTerm {
            namespaces: if own_namespace {
                [namespace.into()].into()
            } else {
                self.namespaces.clone().into()
            },
            namespace_selector: self.namespace_selector.clone(),
            selector,
            topology_key: self.topology_key.clone(),
        }
    }
}

fn compile(terms: Option<&RawTerms>, namespace: &str, labels: &Labels) -> Box<[AffinityTerm]> {
    let terms = terms.map(|terms| terms.required.as_slice()).unwrap_or_default();
    terms.iter().map(|term| term.compile(namespace, labels)).collect()
}

/// `selector` with one more requirement for each of `keys` that the pod has as a label: what the API server
/// makes of `matchLabelKeys` and `mismatchLabelKeys` when a pod is created. Doing it again changes nothing.
pub(crate) fn with_label_keys(
    selector: Selector,
    keys: &[Box<str>],
    operator: Operator,
    labels: &Labels,
) -> Selector {
    if keys.is_empty() {
        return selector;
    }
    let requirement = |key: &str| Requirement::new(key, operator, [labels.get(key)?]).ok();
    selector.and(keys.iter().filter_map(|key| requirement(key)))
}

/// Reads `null` as the default, as Go does.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
