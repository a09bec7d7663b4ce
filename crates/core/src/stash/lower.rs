//! Out of the stash again: the constraints of the lower pod, for the virtual node that its upper pod is on.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::{
    AMONG_PODS, Constraints, PREFERRED, REQUIRED, Stash, StashError, into_list, into_object,
    is_among_virtual_nodes,
    label_keys::settle,
    list_at, put_list, put_required_terms, required_terms,
    terms::{Resolved, resolve},
};
use crate::{affinity::AffinityError, labels::LabelLookup, names};

/// The constraints that the lower pod gets: those of the stash, with the ignored keys resolved against the
/// virtual node's own labels, and of the upper pod what acts at both levels.
///
/// The upper pod's node selector, tolerations and required node affinity never come down from its spec,
/// stash or no stash: above they speak about virtual nodes. (tensile-kube's rule; a pod that was bound by
/// `spec.nodeName` without the webhook therefore runs below without them.) Its preferred node affinity, pod
/// affinity, pod anti-affinity and topology spread constraints do, and those of the stash are added, but for
/// those whose topology is an ignored key: all nodes behind one virtual node are one domain of it, and no lower
/// node has the label, so that below the pod would never fit.
///
/// A required node affinity that cannot hold on this virtual node becomes one empty term, which the API
/// server accepts and which matches no node.
///
/// What comes out depends on no labels of the node but those that are looked up.
///
/// # Errors
/// When the annotation is there and cannot be read, or the pod's own preferences cannot.
pub fn lower_constraints(
    upper: &Value,
    node_labels: &impl LabelLookup,
    ignored_keys: &BTreeSet<String>,
) -> Result<Constraints, StashError> {
    let annotation = upper
        .pointer("/metadata/annotations")
        .and_then(|map| map.get(names::CLUSTER_SELECTOR));
    let annotation = annotation.and_then(Value::as_str).unwrap_or_default();
    let stash = Stash::decode(annotation)?;
    let upper = Constraints::of_spec(upper.get("spec").unwrap_or(&Value::Null));
    upper.check().map_err(StashError::Pod)?;
    let found = stash.is_some();
    let virtual_node = VirtualNode {
        labels: node_labels,
        ignored: ignored_keys,
    };
    let lower = virtual_node.lower(upper, stash.unwrap_or_default());
    lower.map_err(if found {
        StashError::from_annotation
    } else {
        StashError::Pod
    })
}

/// The virtual node that decides the ignored keys.
struct VirtualNode<'a, L> {
    labels: &'a L,
    ignored: &'a BTreeSet<String>,
}

// === impl VirtualNode ===

impl<L: LabelLookup> VirtualNode<'_, L> {
    fn lower(&self, upper: Constraints, stash: Stash) -> Result<Constraints, AffinityError> {
        let (here, node_selector): (Map<_, _>, Map<_, _>) = stash
            .node_selector
            .into_iter()
            .partition(|(key, _)| self.ignored.contains(key));
        let possible = here
            .iter()
            .all(|(key, value)| self.labels.label(key) == value.as_str());

        let above = into_object(upper.affinity.unwrap_or_default());
        let mut affinity = above.clone();
        put_required_terms(&mut affinity, self.required(&stash.affinity, possible)?);
        let mut preferred = self.preferred(&above)?;
        preferred.extend(self.preferred(&stash.affinity)?);
        put_list(&mut affinity, "nodeAffinity", PREFERRED, preferred);
        let acts_below = |constraint: &Value| !is_among_virtual_nodes(constraint, self.ignored);
        for kind in AMONG_PODS {
            for field in [REQUIRED, PREFERRED] {
                let mut both = list_at(&above, kind, field).to_vec();
                both.iter_mut()
                    .map(|entry| pod_affinity_term(entry, field))
                    .for_each(settle);
                both.extend_from_slice(list_at(&stash.affinity, kind, field));
                both.retain(acts_below);
                put_list(&mut affinity, kind, field, both);
            }
        }
        let mut spread = into_list(upper.topology_spread_constraints.unwrap_or_default());
        spread.iter_mut().for_each(settle);
        spread.extend(stash.topology_spread_constraints);
        spread.retain(acts_below);
        Ok(Constraints {
            node_selector: (!node_selector.is_empty()).then(|| node_selector.into()),
            affinity: (!affinity.is_empty()).then(|| affinity.into()),
            tolerations: (!stash.tolerations.is_empty()).then(|| stash.tolerations.into()),
            topology_spread_constraints: (!spread.is_empty()).then(|| spread.into()),
        })
    }

    /// The required terms that are left, `None` for no condition.
    fn required(
        &self,
        stash: &Map<String, Value>,
        possible: bool,
    ) -> Result<Option<Vec<Value>>, AffinityError> {
        if !possible {
            return Ok(Some(vec![json!({})]));
        }
        let Some(terms) = required_terms(stash) else {
            return Ok(None);
        };
        let mut left = Vec::with_capacity(terms.len());
        for term in terms {
            match resolve(term, self.labels, self.ignored)? {
                Resolved::Always => return Ok(None),
                Resolved::Never => {}
                Resolved::Rest(term) => left.push(term),
            }
        }
        if left.is_empty() {
            left.push(json!({}));
        }
        Ok(Some(left))
    }

    /// The preferences that can still tell lower nodes apart.
    fn preferred(&self, affinity: &Map<String, Value>) -> Result<Vec<Value>, AffinityError> {
        let mut left = Vec::new();
        for preference in list_at(affinity, "nodeAffinity", PREFERRED) {
            let term = preference.get("preference").unwrap_or(&Value::Null);
            if let Resolved::Rest(term) = resolve(term, self.labels, self.ignored)? {
                let mut preference = into_object(preference.clone());
                preference.insert("preference".to_owned(), term);
                left.push(preference.into());
            }
        }
        Ok(left)
    }
}

/// The term itself, which a preference wraps together with its weight.
fn pod_affinity_term<'a>(entry: &'a mut Value, field: &str) -> &'a mut Value {
    if field == PREFERRED && entry.get("podAffinityTerm").is_some() {
        &mut entry["podAffinityTerm"]
    } else {
        entry
    }
}
