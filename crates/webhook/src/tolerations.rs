//! The tolerations that an upper pod gets besides its own: for the taint of virtual nodes, and for virtual
//! nodes that cannot be reached.

use serde_json::{Value, json};
use tensile_core::names;
use tensile_core::taints::{Effect, Taint, TaintError, Toleration};

/// What happens to a pod while its lower cluster cannot be reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum WhenUnreachable {
    /// Kubernetes' own rule: evicted after 300 s, replaced elsewhere.
    #[default]
    Evict,
    /// It stays where it is, however long that takes.
    Stay,
    /// It stays, and nothing may replace it before it is known to be gone.
    NeverDuplicate,
}

// === impl WhenUnreachable ===

impl WhenUnreachable {
    /// Reads the value of the annotation; `None` if it is none of them.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "evict" => Some(Self::Evict),
            "stay" => Some(Self::Stay),
            names::NEVER_DUPLICATE => Some(Self::NeverDuplicate),
            _ => None,
        }
    }

    /// Whether taints of an unreachable node must not evict the pod. An evicted pod's replacement starts as
    /// soon as the pod is marked for deletion, long before it is known to be gone, hence also for
    /// [`NeverDuplicate`](Self::NeverDuplicate).
    fn outlasts(self) -> bool {
        self != Self::Evict
    }
}

/// Completes the tolerations of an upper pod.
///
/// # Errors
/// When the pod's own cannot be read.
pub fn complete(own: Option<Value>, when_unreachable: WhenUnreachable) -> Result<Value, TaintError> {
    let parsed = Toleration::parse_list(own.as_ref())?;
    let mut list = match own {
        Some(Value::Array(list)) => list,
        _ => Vec::new(),
    };
    let mut add = Vec::new();
    if !bears_provider(&parsed) {
        add.push(provider());
    }
    if when_unreachable.outlasts() {
        for key in [names::TAINT_NOT_READY, names::TAINT_UNREACHABLE] {
            outlast(key, &parsed, &mut list, &mut add);
        }
    }
    // In front: taint-eviction-controller goes by the first toleration that matches a taint.
    let generic = parsed
        .iter()
        .any(|toleration| toleration.key.is_empty() && toleration.toleration_seconds.is_some());
    let at = if generic { 0 } else { list.len() };
    list.splice(at..at, add);
    Ok(list.into())
}

/// Whether [`complete`] may have made the toleration. It speaks about virtual nodes, not about lower ones.
#[must_use]
pub fn is_ours(toleration: &Value) -> bool {
    *toleration == provider()
        || *toleration == unlimited(names::TAINT_NOT_READY)
        || *toleration == unlimited(names::TAINT_UNREACHABLE)
}

/// Makes the pod bear the NoExecute taint `key` without limit.
fn outlast(key: &str, parsed: &[Toleration], list: &mut [Value], add: &mut Vec<Value>) {
    let taint = Taint {
        key: key.into(),
        value: "".into(),
        effect: Effect::NoExecute,
    };
    let first = parsed.iter().position(|toleration| toleration.tolerates(&taint));
    match first.map(|index| (index, &parsed[index])) {
        Some((_, toleration)) if toleration.toleration_seconds.is_none() => {}
        Some((index, toleration)) if *toleration.key == *key => list[index] = unlimited(key),
        _ => add.push(unlimited(key)),
    }
}

fn bears_provider(tolerations: &[Toleration]) -> bool {
    let mut taint = Taint {
        key: names::PROVIDER_TAINT.into(),
        value: names::PROVIDER_TAINT_VALUE.into(),
        effect: Effect::NoSchedule,
    };
    [Effect::NoSchedule, Effect::PreferNoSchedule, Effect::NoExecute]
        .into_iter()
        .all(|effect| {
            taint.effect = effect;
            tolerations.iter().any(|toleration| toleration.tolerates(&taint))
        })
}

/// Only Tensile's value: other providers' nodes carry the same key.
fn provider() -> Value {
    json!({"key": names::PROVIDER_TAINT, "operator": "Equal", "value": names::PROVIDER_TAINT_VALUE})
}

fn unlimited(key: &str) -> Value {
    json!({"key": key, "operator": "Exists", "effect": "NoExecute"})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn not_ready(seconds: Option<i64>) -> Value {
        let mut toleration = unlimited(names::TAINT_NOT_READY);
        if let Some(seconds) = seconds {
            toleration["tolerationSeconds"] = seconds.into();
        }
        toleration
    }

    #[test]
    fn completes_as_the_policy_says_and_changes_nothing_more() {
        use WhenUnreachable::{Evict, NeverDuplicate, Stay};
        let unreachable = unlimited(names::TAINT_UNREACHABLE);
        let all = json!({"operator": "Exists"});
        let all_for_a_while = json!({"operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5});
        let other_effect =
            json!({"key": names::TAINT_NOT_READY, "operator": "Exists", "effect": "NoSchedule"});
        for (own, policy, completed) in [
            (None, Evict, json!([provider()])),
            (Some(json!([all])), Stay, json!([all])),
            (
                Some(json!([not_ready(Some(300))])),
                Evict,
                json!([not_ready(Some(300)), provider()]),
            ),
            (
                Some(json!([not_ready(Some(300)), {"key": "x", "new": 1}])),
                Stay,
                json!([not_ready(None), {"key": "x", "new": 1}, provider(), unreachable]),
            ),
            (
                Some(json!([])),
                NeverDuplicate,
                json!([provider(), not_ready(None), unreachable]),
            ),
            (
                Some(json!([other_effect])),
                Stay,
                json!([other_effect, provider(), not_ready(None), unreachable]),
            ),
            (
                Some(json!([all_for_a_while])),
                Stay,
                json!([provider(), not_ready(None), unreachable, all_for_a_while]),
            ),
        ] {
            let once = complete(own.clone(), policy).unwrap();
            assert_eq!(once, completed, "{own:?} {policy:?}");
            assert_eq!(
                complete(Some(once.clone()), policy).unwrap(),
                once,
                "twice is once"
            );
        }
    }

    #[test]
    fn knows_its_own() {
        let completed = complete(None, WhenUnreachable::Stay).unwrap();
        assert!(completed.as_array().unwrap().iter().all(is_ours), "{completed}");
        assert!(!is_ours(&not_ready(Some(300))));
    }

    #[test]
    fn another_providers_taint_is_not_borne() {
        let list = complete(None, WhenUnreachable::Evict).unwrap();
        let taint = |value: &str| Taint {
            key: names::PROVIDER_TAINT.into(),
            value: value.into(),
            effect: Effect::NoSchedule,
        };
        let tolerations = Toleration::parse_list(Some(&list)).unwrap();
        assert!(
            tolerations
                .iter()
                .any(|one| one.tolerates(&taint(names::PROVIDER_TAINT_VALUE)))
        );
        assert!(!tolerations.iter().any(|one| one.tolerates(&taint("azure"))));
    }
}
