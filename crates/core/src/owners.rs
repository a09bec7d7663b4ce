//! Who makes an object again.

use serde_json::Value;

/// The ownerReference of the owner that controls the object with this metadata.
#[must_use]
pub fn controller(metadata: &Value) -> Option<&Value> {
    let owners = metadata["ownerReferences"].as_array()?;
    owners.iter().find(|owner| owner["controller"] == true)
}
