//! Volumes that cannot cross clusters, or only if the lower cluster's owner allows it.

use serde_json::Value;

use super::json::{Object, objects_mut, text};
use super::pod::Policy;
use super::{Note, TranslateError};

/// Projected sources that name signers or objects of the upper control plane.
const UPPER_SOURCES: [&str; 2] = ["clusterTrustBundle", "podCertificate"];

/// Checks `hostPath` against the policy and leaves out what has no meaning below.
pub(super) fn adapt(spec: &mut Object, policy: &Policy, notes: &mut Vec<Note>) -> Result<(), TranslateError> {
    for volume in objects_mut(spec, "volumes") {
        let name = text(volume, "name").to_owned();
        if volume.contains_key("hostPath") && !policy.host_path {
            return Err(TranslateError::Refused {
                field: format!("hostPath of volume {name}"),
            });
        }
        if let Some(projected) = volume.get_mut("projected").and_then(Value::as_object_mut) {
            drop_upper_sources(projected, &name, notes);
        }
    }
    Ok(())
}

fn drop_upper_sources(projected: &mut Object, volume: &str, notes: &mut Vec<Note>) {
    let Some(sources) = projected.get_mut("sources").and_then(Value::as_array_mut) else {
        return;
    };
    sources.retain(|source| {
        let kind = UPPER_SOURCES.into_iter().find(|kind| source.get(kind).is_some());
        notes.extend(kind.map(|source_kind| Note::ProjectedSource {
            volume: volume.to_owned(),
            source_kind,
        }));
        kind.is_none()
    });
}
