//! What of an upper pod is translated: metadata and spec, kept only until the lower pod carries them out.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use tensile_core::hash::Fnv;

/// Metadata and spec as they came from the API server.
#[derive(Clone, Debug)]
pub struct Body {
    metadata: ObjectMeta,
    spec: Box<RawValue>,
}

// === impl Body ===

impl Body {
    /// Takes the parts of an upper pod.
    #[must_use]
    pub fn new(metadata: ObjectMeta, spec: Box<RawValue>) -> Self {
        Self { metadata, spec }
    }

    /// Changes when something changes that the lower pod is made from; a status update leaves it as it is.
    #[must_use]
    pub fn hash(&self) -> u64 {
        let mut hash = Fnv::default();
        hash.update(self.spec.get().as_bytes());
        let metadata = &self.metadata;
        // Writing to a hash cannot fail.
        let _ = serde_json::to_writer(&mut hash, &(&metadata.labels, &metadata.annotations));
        hash.finish()
    }

    /// The metadata.
    #[must_use]
    pub fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }

    /// The spec as JSON; null when it is none, which no API server sends.
    #[must_use]
    pub fn spec(&self) -> Value {
        serde_json::from_str(self.spec.get()).unwrap_or_default()
    }

    /// The pod as JSON.
    ///
    /// # Errors
    /// When the parts are not JSON objects, which no API server sends.
    pub fn value(&self) -> serde_json::Result<Value> {
        let spec: Value = serde_json::from_str(self.spec.get())?;
        Ok(
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": serde_json::to_value(&self.metadata)?, "spec": spec}),
        )
    }
}
