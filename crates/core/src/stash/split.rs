//! Into the stash: what stays in the upper pod, and what goes below.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::{
    AMONG_PODS, Constraints, PREFERRED, REQUIRED, Stash, into_list, into_object, is_among_virtual_nodes,
    list_at, put_list, put_required_terms, required_terms, take_list, take_required_terms,
    terms::{Share, above, both, is_empty, necessary, share},
    topology_key,
};
use crate::{affinity::AffinityError, names};

/// Most terms that the stash's required node affinity may have after a hand-written one was joined with the
/// pod's: every term of one with every term of the other. Larger products are refused rather than written
/// into an annotation, whose total Kubernetes limits to 256 KiB.
const MAX_JOINED_TERMS: usize = 256;

/// A pod's constraints, divided between the two levels.
#[derive(Clone, Debug, PartialEq)]
pub struct Split {
    /// What the upper pod keeps.
    pub upper: Constraints,
    /// What the annotation holds from now on.
    pub stash: Stash,
}

/// Why a pod's constraints cannot be divided.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum SplitError {
    /// A field of the pod cannot be read.
    #[error("spec.{0}")]
    Unreadable(#[source] AffinityError),
    /// The pod and its annotation want different values of one label, so no node would do.
    #[error(
        "annotation clusterSelector, at nodeSelector: it wants {key}={annotation}, but spec.nodeSelector wants \
         {key}={spec}; remove one of the two"
    )]
    Contradiction {
        /// The label.
        key: String,
        /// The value that the annotation wants.
        annotation: String,
        /// The value that the pod's spec wants.
        spec: String,
    },
    /// The required node affinity of the annotation and that of the pod are too large to be joined.
    #[error(
        "annotation clusterSelector, at affinity.nodeAffinity: joined with the pod's own node affinity it has \
         {terms} terms, more than {MAX_JOINED_TERMS}; write the constraint in one of the two places"
    )]
    TooManyTerms {
        /// How many there would be.
        terms: usize,
    },
}

/// Divides a pod's constraints. `stash` is what the annotation holds already; the pod must satisfy it too.
///
/// - Node selector: ignored keys stay above, the others go below.
/// - Required node affinity: if every term is about ignored keys alone, it stays. Else whole terms go below,
///   and above stays the weakest condition on the ignored keys that they imply.
/// - Preferred node affinity: term by term the same.
/// - Tolerations act at both levels. Where an annotation was there before, `acts_above_only` tells which
///   of the pod's are not for the lower cluster.
/// - Pod anti-affinity and topology spread over `kubernetes.io/hostname` go below: above, a host is a whole
///   cluster. Pod affinity stays, and acts at both levels, as do other topology keys. Over an ignored key they
///   stay and act above only; what a hand-written annotation says about such a key comes up.
///
/// Dividing the result again changes nothing, when `acts_above_only` knows what was added above meanwhile.
///
/// # Errors
/// When a constraint cannot be read, or contradicts the annotation's.
pub fn split(
    pod: Constraints,
    stash: Option<Stash>,
    ignored_keys: &BTreeSet<String>,
    acts_above_only: impl Fn(&Value) -> bool,
) -> Result<Split, SplitError> {
    pod.check().map_err(SplitError::Unreadable)?;
    let first_time = stash.is_none();
    let mut stash = stash.unwrap_or_default();
    for toleration in pod
        .tolerations
        .as_ref()
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        let known = !first_time && (acts_above_only(toleration) || stash.tolerations.contains(toleration));
        if !known {
            stash.tolerations.push(toleration.clone());
        }
    }
    let node_selector = split_selector(pod.node_selector, &mut stash.node_selector, ignored_keys)?;
    let affinity = split_affinity(pod.affinity, &mut stash.affinity, ignored_keys)?;
    let spread = &mut stash.topology_spread_constraints;
    let topology_spread_constraints = split_spread(pod.topology_spread_constraints, spread, ignored_keys);
    let upper = Constraints {
        node_selector,
        affinity,
        tolerations: pod.tolerations,
        topology_spread_constraints,
    };
    Ok(Split { upper, stash })
}

/// Moves the node selector's other keys into the stash, and the stash's ignored keys (hand-written) up.
fn split_selector(
    spec: Option<Value>,
    stash: &mut Map<String, Value>,
    ignored: &BTreeSet<String>,
) -> Result<Option<Value>, SplitError> {
    let was_empty = is_vacant(spec.as_ref());
    let spec = into_object(spec.unwrap_or_default());
    let differs = |(key, value): &(&String, &Value)| stash.get(*key).is_some_and(|other| other != *value);
    if let Some((key, wanted)) = spec.iter().find(differs) {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let annotation = stash.get(key).map(text).unwrap_or_default();
        return Err(SplitError::Contradiction {
            key: key.clone(),
            annotation,
            spec: text(wanted),
        });
    }
    let all = std::mem::take(stash).into_iter().chain(spec);
    let (above, below): (Map<_, _>, Map<_, _>) = all.partition(|(key, _)| ignored.contains(key));
    *stash = below;
    Ok((was_empty || !above.is_empty()).then(|| above.into()))
}

fn split_affinity(
    spec: Option<Value>,
    stash: &mut Map<String, Value>,
    ignored: &BTreeSet<String>,
) -> Result<Option<Value>, SplitError> {
    let was_empty = is_vacant(spec.as_ref());
    let mut affinity = into_object(spec.unwrap_or_default());
    split_required(&mut affinity, stash, ignored)?;
    split_preferred(&mut affinity, stash, ignored);
    for field in [REQUIRED, PREFERRED] {
        split_anti_affinity(&mut affinity, stash, field);
        for kind in AMONG_PODS {
            lift_among_virtual_nodes(&mut affinity, stash, kind, field, ignored);
        }
    }
    Ok((was_empty || !affinity.is_empty()).then(|| affinity.into()))
}

fn split_spread(spec: Option<Value>, stash: &mut Vec<Value>, ignored: &BTreeSet<String>) -> Option<Value> {
    let was_empty = is_vacant(spec.as_ref());
    let all = into_list(spec.unwrap_or_default()).into_iter();
    let (below, mut kept): (Vec<_>, Vec<_>) = all.partition(is_per_host);
    let lifted = stash.extract_if(.., |constraint| is_among_virtual_nodes(constraint, ignored));
    add_new(&mut kept, lifted);
    stash.extend(below);
    (was_empty || !kept.is_empty()).then(|| kept.into())
}

/// Whether a member is there without content. Such a one stays as it is; one that is emptied is removed.
fn is_vacant(member: Option<&Value>) -> bool {
    member.is_some_and(|member| match member {
        Value::Object(map) => map.is_empty(),
        Value::Array(list) => list.is_empty(),
        _ => false,
    })
}

fn split_required(
    upper: &mut Map<String, Value>,
    stash: &mut Map<String, Value>,
    ignored: &BTreeSet<String>,
) -> Result<(), SplitError> {
    let terms = required_terms(upper).unwrap_or_default();
    if terms.iter().any(|term| share(term, ignored) != Share::Above) {
        let mut terms = take_required_terms(upper);
        terms.retain(|term| !is_empty(term));
        put_required_terms(upper, None);
        let joined = match required_terms(stash) {
            None => terms,
            Some(other) => join(other, &terms)?,
        };
        put_required_terms(stash, Some(joined));
    }
    if required_terms(upper).is_none() {
        let condition = required_terms(stash).and_then(|terms| necessary(terms, ignored));
        if let Some(terms) = condition.filter(|terms| !terms.is_empty()) {
            put_required_terms(upper, Some(terms));
        }
    }
    Ok(())
}

/// The terms that hold where one of `left` and one of `right` hold.
fn join(left: &[Value], right: &[Value]) -> Result<Vec<Value>, SplitError> {
    let left: Vec<&Value> = left.iter().filter(|term| !is_empty(term)).collect();
    let count = left.len() * right.len();
    if count > MAX_JOINED_TERMS {
        return Err(SplitError::TooManyTerms { terms: count });
    }
    Ok(left
        .iter()
        .flat_map(|left| right.iter().map(|right| both(left, right)))
        .collect())
}

fn split_preferred(
    upper: &mut Map<String, Value>,
    stash: &mut Map<String, Value>,
    ignored: &BTreeSet<String>,
) {
    let own = list_at(upper, "nodeAffinity", PREFERRED);
    let term = |preference: &'_ Value| {
        preference
            .get("preference")
            .map_or(Share::Above, |term| share(term, ignored))
    };
    if own.iter().all(|preference| term(preference) == Share::Above) {
        return;
    }
    let mut kept = Vec::new();
    let mut below = list_at(stash, "nodeAffinity", PREFERRED).to_vec();
    for preference in own {
        let share = term(preference);
        if share != Share::Above {
            below.push(preference.clone());
        }
        match share {
            Share::Above => kept.push(preference.clone()),
            Share::Below => {}
            Share::Mixed => {
                let mut wish = preference.clone();
                wish["preference"] = above(&preference["preference"], ignored);
                kept.push(wish);
            }
        }
    }
    put_list(upper, "nodeAffinity", PREFERRED, kept);
    put_list(stash, "nodeAffinity", PREFERRED, below);
}

fn split_anti_affinity(upper: &mut Map<String, Value>, stash: &mut Map<String, Value>, field: &str) {
    let own = list_at(upper, "podAntiAffinity", field);
    if !own.iter().any(is_per_host) {
        return;
    }
    let own = take_list(upper, "podAntiAffinity", field).into_iter();
    let (per_host, kept): (Vec<_>, Vec<_>) = own.partition(is_per_host);
    let mut below = take_list(stash, "podAntiAffinity", field);
    below.extend(per_host);
    put_list(upper, "podAntiAffinity", field, kept);
    put_list(stash, "podAntiAffinity", field, below);
}

/// Moves up what the stash (hand-written) says about pods in one domain of an ignored key.
fn lift_among_virtual_nodes(
    upper: &mut Map<String, Value>,
    stash: &mut Map<String, Value>,
    kind: &str,
    field: &str,
    ignored: &BTreeSet<String>,
) {
    let lifts = |entry: &Value| is_among_virtual_nodes(entry, ignored);
    if !list_at(stash, kind, field).iter().any(lifts) {
        return;
    }
    let (lifted, below): (Vec<_>, Vec<_>) = take_list(stash, kind, field).into_iter().partition(lifts);
    let mut kept = take_list(upper, kind, field);
    add_new(&mut kept, lifted);
    put_list(upper, kind, field, kept);
    put_list(stash, kind, field, below);
}

/// Adds what is not there yet.
fn add_new(list: &mut Vec<Value>, more: impl IntoIterator<Item = Value>) {
    for entry in more {
        if !list.contains(&entry) {
            list.push(entry);
        }
    }
}

/// Whether the topology of the constraint is the single host.
fn is_per_host(constraint: &Value) -> bool {
    topology_key(constraint) == Some(names::HOSTNAME)
}
