//! Changes that a lower cluster needs on pods that run there: RFC 6902 patches for the pods that a selector matches.

use json_patch::{Patch, PatchOperation};
use serde::Deserialize;
use serde_json::Value;

use tensile_core::labels::Selector;
use tensile_core::names;

/// What makes a lower pod ours; a patch that could take it away would lose the pod.
const IDENTITY: [&str; 6] = [
    "/apiVersion",
    "/kind",
    "/metadata/name",
    "/metadata/namespace",
    "/metadata/labels",
    "/metadata/annotations",
];
/// As a JSON pointer writes `tensile.dev/`.
const OUR_PREFIX: &str = "tensile.dev~1";

/// One patch for the lower pods that the selector matches.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Override {
    /// Labels of the pods; without it, all.
    #[serde(default)]
    pub selector: Selector,
    /// What is changed.
    pub patch: Patch,
}

/// A patch that does not apply to a pod.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("overrides[{index}] of the lower cluster does not apply to this pod: {reason}")]
pub struct NotApplied {
    /// Which one.
    pub index: usize,
    /// What does not fit.
    pub reason: String,
}

// === impl Override ===

/// `Patch` has no total equality only because JSON numbers are floats somewhere; here it is compared with itself.
impl Eq for Override {}

impl Override {
    /// Whether the patch leaves alone what makes a lower pod ours.
    ///
    /// # Errors
    /// The operation and the path that it must not change.
    pub fn check(&self) -> Result<(), String> {
        for operation in &self.patch.0 {
            for path in written(operation) {
                if !allowed(path) {
                    return Err(format!(
                        "path {path:?} is needed to recognise the pod; change single labels and annotations, or fields of /spec"
                    ));
                }
            }
        }
        Ok(())
    }

    /// Applies the patches whose selectors match to a lower pod, one after another. Labels are those of the pod as
    /// translated, so that the order of the patches does not decide which of them match.
    ///
    /// # Errors
    /// The first patch that does not apply; the pod is then as it was.
    pub fn apply_all(overrides: &[Self], pod: &mut Value) -> Result<(), NotApplied> {
        let labels = serde_json::from_value(pod["metadata"]["labels"].clone()).unwrap_or_default();
        let labels: tensile_core::labels::Labels = labels;
        let mut patched = None;
        for (index, one) in overrides.iter().enumerate() {
            if one.selector.matches(&labels) {
                let target = patched.get_or_insert_with(|| pod.clone());
                json_patch::patch(target, &one.patch).map_err(|error| NotApplied {
                    index,
                    reason: error.to_string(),
                })?;
            }
        }
        if let Some(patched) = patched {
            *pod = patched;
        }
        Ok(())
    }
}

/// Paths that an operation changes.
fn written(operation: &PatchOperation) -> Vec<&str> {
    let path = operation.path().as_str();
    match operation {
        PatchOperation::Test(_) => Vec::new(),
        PatchOperation::Move(operation) => vec![path, operation.from.as_str()],
        _ => vec![path],
    }
}

fn allowed(path: &str) -> bool {
    let ancestor = |of: &str| path.is_empty() || of == path || of.starts_with(&format!("{path}/"));
    let ours = ["/metadata/labels/", "/metadata/annotations/"].iter().any(|map| {
        path.strip_prefix(map).is_some_and(|key| {
            key.starts_with(OUR_PREFIX) || key == names::VIRTUAL_POD || key == names::TRIPPED_LABELS
        })
    });
    !ours && !IDENTITY.iter().any(|identity| ancestor(identity))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_override(value: Value) -> Override {
        serde_json::from_value(value).unwrap()
    }

    fn mk_pod() -> Value {
        json!({
            "metadata": {"name": "p", "labels": {"app": "web"}, "annotations": {}},
            "spec": {"containers": [{"name": "c", "image": "docker.io/a"}]},
        })
    }

    #[test]
    fn patches_change_the_pods_that_their_selectors_match() {
        let overrides = [
            mk_override(json!({"selector": {"matchLabels": {"app": "web"}},
                "patch": [{"op": "replace", "path": "/spec/containers/0/image", "value": "mirror/a"}]})),
            mk_override(json!({"selector": {"matchLabels": {"app": "other"}},
                "patch": [{"op": "remove", "path": "/spec/containers"}]})),
            mk_override(json!({"patch": [{"op": "add", "path": "/metadata/annotations/x", "value": "y"}]})),
        ];
        let mut pod = mk_pod();
        Override::apply_all(&overrides, &mut pod).unwrap();
        assert_eq!(pod["spec"]["containers"][0]["image"], "mirror/a");
        assert_eq!(pod["metadata"]["annotations"]["x"], "y");
    }

    #[test]
    fn a_patch_that_does_not_apply_is_named_and_changes_nothing() {
        let overrides = [
            mk_override(json!({"patch": [{"op": "add", "path": "/metadata/annotations/x", "value": "y"}]})),
            mk_override(json!({"patch": [{"op": "remove", "path": "/spec/runtimeClassName"}]})),
        ];
        let mut pod = mk_pod();
        let error = Override::apply_all(&overrides, &mut pod).unwrap_err();
        assert_eq!((error.index, pod), (1, mk_pod()));
    }

    #[test]
    fn what_makes_a_pod_ours_cannot_be_patched() {
        for (op, path, allowed) in [
            ("remove", "/metadata", false),
            ("remove", "", false),
            ("replace", "/metadata/name", false),
            ("remove", "/metadata/labels", false),
            ("remove", "/metadata/labels/tensile.dev~1origin-uid", false),
            ("remove", "/metadata/annotations/tensile.dev~1intent", false),
            ("remove", "/metadata/labels/virtual-pod", false),
            ("remove", "/metadata/labels/mine", true),
            ("remove", "/spec/containers/0/image", true),
        ] {
            let one = mk_override(json!({"patch": [{"op": op, "path": path, "value": 1}]}));
            assert_eq!(one.check().is_ok(), allowed, "{path}");
        }
        let moved =
            mk_override(json!({"patch": [{"op": "move", "from": "/metadata/name", "path": "/spec/x"}]}));
        assert!(moved.check().is_err());
    }
}
