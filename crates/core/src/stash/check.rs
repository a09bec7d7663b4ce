//! Whether constraints can be read, before anything is done with them.
//!
//! What goes below is no longer seen by the upper API server. So what that would refuse is refused here: the
//! webhook then leaves the pod as it is, and its user hears at once what is wrong with it.

use serde_json::Value;

use super::{Constraints, PREFERRED, REQUIRED, list_at, required_terms};
use crate::{
    affinity::{AffinityError, PreferredNodeAffinity, RequiredNodeAffinity, is_label_value},
    read::{Under, entries, list, member, object, present},
    taints::Toleration,
};

/// Longest prefix of a label's key, and longest name after it (apimachinery `IsQualifiedName`).
const PREFIX_MAX: usize = 253;
const NAME_MAX: usize = 63;

// === impl Constraints ===

impl Constraints {
    /// Checks that everything in it that Tensile decides on can be read.
    pub(super) fn check(&self) -> Result<(), AffinityError> {
        RequiredNodeAffinity::parse(self.node_selector.as_ref(), self.affinity.as_ref())?;
        PreferredNodeAffinity::parse(self.affinity.as_ref())?;
        Toleration::parse_list(self.tolerations.as_ref()).map_err(|error| AffinityError {
            path: error.path,
            problem: error.source.to_string(),
        })?;
        let affinity = present(self.affinity.as_ref())
            .map(object)
            .transpose()
            .under("affinity")?;
        for kind in ["podAffinity", "podAntiAffinity"] {
            let Some(affinity) = affinity else { continue };
            let read = |terms| {
                let terms = object(terms)?;
                list(terms, REQUIRED, object)?;
                list(terms, PREFERRED, object).map(drop)
            };
            member(affinity, kind, read).under("affinity")?;
        }
        if let Some(spread) = present(self.topology_spread_constraints.as_ref()) {
            entries(spread, object).under("topologySpreadConstraints")?;
        }
        self.check_labels()
    }

    /// Checks keys and values that should be those of labels. The shape is known to be right.
    fn check_labels(&self) -> Result<(), AffinityError> {
        for (key, value) in self
            .node_selector
            .as_ref()
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
        {
            check_label(key, [value], || format!("nodeSelector[{key}]"))?;
        }
        let Some(affinity) = self.affinity.as_ref().and_then(Value::as_object) else {
            return Ok(());
        };
        let required = required_terms(affinity).unwrap_or_default().iter();
        let preferred = list_at(affinity, "nodeAffinity", PREFERRED).iter();
        let preferred = preferred.filter_map(|preference| preference.get("preference"));
        for (kind, term) in required
            .map(|term| (REQUIRED, term))
            .chain(preferred.map(|term| (PREFERRED, term)))
        {
            for requirement in term
                .get("matchExpressions")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                let key = requirement.get("key").and_then(Value::as_str).unwrap_or_default();
                let values = requirement
                    .get("values")
                    .and_then(Value::as_array)
                    .into_iter()
                    .flatten();
                check_label(key, values, || {
                    format!("affinity.nodeAffinity.{kind}, requirement on {key:?}")
                })?;
            }
        }
        Ok(())
    }
}

fn check_label<'a>(
    key: &str,
    values: impl IntoIterator<Item = &'a Value>,
    path: impl Fn() -> String,
) -> Result<(), AffinityError> {
    if !is_label_key(key) {
        return Err(AffinityError {
            path: path(),
            problem: format!("{key:?} is no label key"),
        });
    }
    match values
        .into_iter()
        .filter_map(Value::as_str)
        .find(|value| !is_label_value(value))
    {
        None => Ok(()),
        Some(value) => Err(AffinityError {
            path: path(),
            problem: format!("{value:?} is no label value"),
        }),
    }
}

/// Whether Kubernetes accepts the text as a label's key: a name, or a DNS domain, a slash and a name.
fn is_label_key(key: &str) -> bool {
    let (prefix, name) = key
        .split_once('/')
        .map_or((None, key), |(prefix, name)| (Some(prefix), name));
    !name.is_empty() && name.len() <= NAME_MAX && is_label_value(name) && prefix.is_none_or(is_domain)
}

fn is_domain(text: &str) -> bool {
    let inner = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || *byte == b'-';
    let part = |part: &str| {
        let bytes = part.as_bytes();
        !part.starts_with('-') && !part.ends_with('-') && !part.is_empty() && bytes.iter().all(inner)
    };
    text.len() <= PREFIX_MAX && text.split('.').all(part)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn accepts_the_label_keys_that_kubernetes_accepts() {
        for key in ["a", "A.b_c-9", "a.example.com/b", "9/9", &"x".repeat(63)] {
            assert!(is_label_key(key), "{key}");
        }
        for key in [
            "",
            "/a",
            "a/",
            "a/b/c",
            "A/b",
            "a..b/c",
            "-a/b",
            "-a",
            "a b",
            "é",
            &"x".repeat(64),
        ] {
            assert!(!is_label_key(key), "{key}");
        }
    }

    #[test]
    fn what_the_upper_api_server_would_refuse_is_not_moved_out_of_its_sight() {
        let required = |requirement: Value| json!({"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{"matchExpressions": [requirement]}]}}}});
        for (spec, named) in [
            (
                json!({"nodeSelector": {"a b": "c"}}),
                "nodeSelector[a b]: \"a b\" is no label key",
            ),
            (
                json!({"nodeSelector": {"a": "c d"}}),
                "nodeSelector[a]: \"c d\" is no label value",
            ),
            (
                required(json!({"key": "/", "operator": "Exists"})),
                "\"/\" is no label key",
            ),
            (
                required(json!({"key": "a", "operator": "In", "values": ["b", "-"]})),
                "\"-\" is no label value",
            ),
        ] {
            let error = Constraints::of_spec(&spec).check().expect_err(named).to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
