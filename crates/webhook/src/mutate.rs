//! What happens to a pod: a pure decision over the review and what is known of the pod's surroundings.

use std::collections::BTreeSet;

use json_patch::jsonptr::Pointer;
use serde_json::{Map, Value};
use tensile_core::names;
use tensile_core::stash::{SplitError, Stash, StashError, split};

use crate::avoid;
use crate::patch::Patch;
use crate::pod::{Pod, Text, Texts, changes};
use crate::review::{Answer, Request};
use crate::tolerations::{self, WhenUnreachable};

/// What the API server makes of a pod that names no scheduler.
const DEFAULT_SCHEDULER: &str = "default-scheduler";
const LABELS: &Pointer = Pointer::from_static("/metadata/labels");
const ANNOTATIONS: &Pointer = Pointer::from_static("/metadata/annotations");
const SCHEDULER_NAME: &Pointer = Pointer::from_static("/spec/schedulerName");

/// What the operator decided, the same for every pod.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Labels that only virtual nodes have.
    pub ignored_keys: BTreeSet<String>,
    /// For pods and namespaces that do not say.
    pub when_unreachable: WhenUnreachable,
    /// Namespace of Tensile's own objects; its pods are left alone.
    pub system_namespace: String,
    /// Who places the pods that name no scheduler.
    pub scheduler_name: Option<String>,
}

/// What is known of the pod's namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// Whether its pods take part.
    pub virtual_pods: bool,
    /// Its annotation `tensile.dev/when-unreachable`.
    pub when_unreachable: Option<String>,
}

/// What the webhook knows besides the review.
pub trait Surroundings {
    /// The namespace, empty if it is unknown.
    fn namespace(&self, name: &str) -> Namespace;
    /// Whether pods of any owner avoid a virtual node; nearly always none do.
    fn any_avoided(&self) -> bool;
    /// The virtual nodes that pods of this owner avoid now.
    fn avoided(&self, owner: &str) -> Vec<String>;
}

/// What was decided, for metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The pod was changed.
    Patched,
    /// The pod takes part and is as it should be.
    Unchanged,
    /// The pod does not take part.
    LeftAlone,
    /// The pod or the request cannot be understood; it is let in as it is, with a warning.
    NotUnderstood,
    /// The pod contradicts itself.
    Denied,
}

/// What stands against changing a pod.
enum Obstacle {
    LeftAlone,
    NotUnderstood(String),
    Denied(String),
}

// === impl Outcome ===

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Patched,
        Self::Unchanged,
        Self::LeftAlone,
        Self::NotUnderstood,
        Self::Denied,
    ];

    /// Its name in metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Patched => "patched",
            Self::Unchanged => "unchanged",
            Self::LeftAlone => "left_alone",
            Self::NotUnderstood => "not_understood",
            Self::Denied => "denied",
        }
    }
}

// === impl Obstacle ===

impl From<SplitError> for Obstacle {
    fn from(error: SplitError) -> Self {
        match error {
            SplitError::Unreadable(_) => Self::NotUnderstood(error.to_string()),
            SplitError::Contradiction { .. } | SplitError::TooManyTerms { .. } => {
                Self::Denied(error.to_string())
            }
        }
    }
}

impl From<StashError> for Obstacle {
    fn from(error: StashError) -> Self {
        Self::Denied(error.to_string())
    }
}

/// Decides about a request.
pub fn mutate(request: &Request<'_>, rules: &Rules, surroundings: &impl Surroundings) -> (Outcome, Answer) {
    match decide(request, rules, surroundings) {
        Ok(answer) if answer.patch.is_empty() => (Outcome::Unchanged, answer),
        Ok(answer) => (Outcome::Patched, answer),
        Err(Obstacle::LeftAlone) => (Outcome::LeftAlone, Answer::default()),
        Err(Obstacle::NotUnderstood(what)) => {
            let warnings = vec![format!("tensile: left as it is: {what}")];
            (
                Outcome::NotUnderstood,
                Answer {
                    warnings,
                    ..Answer::default()
                },
            )
        }
        Err(Obstacle::Denied(why)) => (
            Outcome::Denied,
            Answer {
                denial: Some(why),
                ..Answer::default()
            },
        ),
    }
}

fn decide(
    request: &Request<'_>,
    rules: &Rules,
    surroundings: &impl Surroundings,
) -> Result<Answer, Obstacle> {
    let name = request.namespace.as_deref().unwrap_or_default();
    let own = name == names::KUBE_SYSTEM || name == rules.system_namespace;
    if own
        || request.operation != "CREATE"
        || request
            .sub_resource
            .as_deref()
            .is_some_and(|part| !part.is_empty())
    {
        return Err(Obstacle::LeftAlone);
    }
    if (&*request.kind.group, &*request.kind.kind) != ("", "Pod") {
        return Err(Obstacle::NotUnderstood(format!(
            "request.kind is {}, not Pod",
            request.kind.kind
        )));
    }
    let object = request
        .object
        .as_ref()
        .ok_or_else(|| Obstacle::NotUnderstood("request.object is missing".to_owned()))?;
    let pod = Pod::parse(object).map_err(|error| Obstacle::NotUnderstood(error.to_string()))?;
    let namespace = surroundings.namespace(name);
    let takes_part = pod
        .label(names::VIRTUAL_POD)
        .map_or(namespace.virtual_pods, |value| value == "true");
    if !takes_part || pod.is_of_daemon_set() {
        return Err(Obstacle::LeftAlone);
    }
    let mut warnings = Vec::new();
    let policy = when_unreachable(&pod, &namespace, rules, &mut warnings);
    let avoided = pod
        .lineage()
        .map(|lineage| surroundings.avoided(lineage))
        .unwrap_or_default();
    Ok(Answer {
        patch: changed(&pod, rules, policy, &avoided)?.into_operations(),
        warnings,
        denial: None,
    })
}

/// The pod's own word, else its namespace's, else the operator's. A word that means nothing is warned about.
fn when_unreachable(
    pod: &Pod<'_>,
    namespace: &Namespace,
    rules: &Rules,
    warnings: &mut Vec<String>,
) -> WhenUnreachable {
    let words = [
        ("pod", pod.annotation(names::WHEN_UNREACHABLE)),
        ("namespace", namespace.when_unreachable.as_deref()),
    ];
    for (place, word) in words.into_iter().filter_map(|(place, word)| Some((place, word?))) {
        if let Some(policy) = WhenUnreachable::parse(word) {
            return policy;
        }
        warnings.push(format!(
            "tensile: annotation {} of the {place} is {word:?}, and not evict, stay or never-duplicate: not heeded",
            names::WHEN_UNREACHABLE
        ));
    }
    rules.when_unreachable
}

/// The operations that make the pod as it should be.
fn changed(
    pod: &Pod<'_>,
    rules: &Rules,
    policy: WhenUnreachable,
    avoided: &[String],
) -> Result<Patch, Obstacle> {
    let mut own = pod.constraints.clone();
    let avoided_before = pod.annotation(names::AVOIDED_NODES).unwrap_or_default();
    avoid::remove(&mut own.affinity, &avoided_before.split(',').collect::<Vec<_>>());

    let stashed = pod.annotation(names::CLUSTER_SELECTOR).unwrap_or_default();
    let before = Stash::decode(stashed)?;
    let done = split(own, before.clone(), &rules.ignored_keys, tolerations::is_ours)?;
    let mut upper = done.upper;
    upper.tolerations = tolerations::complete(upper.tolerations, policy)
        .map(Some)
        .map_err(|error| Obstacle::NotUnderstood(format!("spec.{error}")))?;
    avoid::add(
        &mut upper.affinity,
        &avoided.iter().map(String::as_str).collect::<Vec<_>>(),
    );

    let mut patch = Patch::default();
    let label = (names::VIRTUAL_POD, Some("true".to_owned()));
    put(&mut patch, LABELS, pod.labels.as_ref(), [label].into_iter());
    // The same stash in other words is left in the user's words.
    let stash = if before.as_ref() == Some(&done.stash) {
        stashed.to_owned()
    } else {
        done.stash.encode()
    };
    let noted = (!avoided.is_empty()).then(|| avoided.join(","));
    // What virtual nodes must know about the pod stands on it, whoever decided it.
    let unreachable = match policy {
        WhenUnreachable::NeverDuplicate => Some(names::NEVER_DUPLICATE.to_owned()),
        _ => pod.annotation(names::WHEN_UNREACHABLE).map(str::to_owned),
    };
    let annotations = [
        (names::WHEN_UNREACHABLE, unreachable),
        (names::CLUSTER_SELECTOR, Some(stash)),
        (names::AVOIDED_NODES, noted),
    ];
    put(
        &mut patch,
        ANNOTATIONS,
        pod.annotations.as_ref(),
        annotations.into_iter(),
    );
    for (path, before, after) in changes(&pod.constraints, &upper) {
        patch.change(path, before, after);
    }
    set_scheduler(&mut patch, pod, rules);
    Ok(patch)
}

/// The API server has filled in the default by now: a pod that names it, and one that names none, are alike.
fn set_scheduler(patch: &mut Patch, pod: &Pod<'_>, rules: &Rules) {
    let before = pod.scheduler_name.as_deref();
    let is_default = matches!(before, None | Some("" | DEFAULT_SCHEDULER));
    if let Some(name) = rules.scheduler_name.as_deref().filter(|_| is_default) {
        patch.change(
            SCHEDULER_NAME,
            before.map(Value::from).as_ref(),
            Some(&name.into()),
        );
    }
}

/// Sets or removes entries of `metadata.labels` or `.annotations`; the map is made if the pod has none.
fn put(
    patch: &mut Patch,
    path: &Pointer,
    before: Option<&Texts<'_>>,
    entries: impl Iterator<Item = (&'static str, Option<String>)>,
) {
    let Some(before) = before else {
        let entries = entries.filter_map(|(key, value)| Some((key.to_owned(), value?.into())));
        return patch.change(path, None, Some(&Value::Object(entries.collect::<Map<_, _>>())));
    };
    for (key, value) in entries {
        let before = before.get(key).map(Text::as_str);
        if before != value.as_deref() {
            let [before, after] = [before.map(Value::from), value.map(Value::from)];
            patch.change(&path.with_trailing_token(key), before.as_ref(), after.as_ref());
        }
    }
}
