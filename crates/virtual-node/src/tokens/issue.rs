//! Asks the upper cluster for what a pod's volumes want.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;

use tensile_core::hash::Fnv;
use tensile_core::names;
use tensile_core::translate::service_account::tokens::{self, Wanted};
use tensile_runtime::key::Key;

use super::until;
use crate::api::{self, ApiError};
use crate::context::Context;
use crate::objects::{Kind, ObjectKey};

/// ConfigMap and key of the CA, which every cluster keeps in every namespace.
const ROOT_CA: (&str, &str) = ("kube-root-ca.crt", "ca.crt");
/// Service account of a pod that names none, which no API server leaves so.
const DEFAULT_ACCOUNT: &str = "default";

/// Shortest time between two requests for one pod; API servers grant at least ten minutes.
const SOONEST: Duration = Duration::from_secs(60);

/// Asks for tokens, and remembers the CA.
#[derive(Clone)]
pub struct Issuer {
    context: Context,
    ca: Arc<Mutex<Option<KnownCa>>>,
}

/// What a Secret is made from.
#[derive(Clone)]
pub struct Issued {
    /// The tokens, in the order of [`Wanted::tokens`].
    pub tokens: Vec<String>,
    /// The CA, if it is wanted.
    pub ca: Option<String>,
    /// When to ask again.
    pub refresh_at: Timestamp,
}

#[derive(Clone)]
struct KnownCa {
    version: Box<str>,
    pem: String,
}

// === impl Issuer ===

impl Issuer {
    /// For one virtual node.
    #[must_use]
    pub fn new(context: Context) -> Self {
        Self {
            context,
            ca: Arc::default(),
        }
    }

    /// What the upper `pod` asks for; `None` when it asks for nothing.
    ///
    /// # Errors
    /// When the upper cluster refuses a token or does not answer.
    pub async fn issue(&self, pod: &Value) -> Result<Option<Issued>, ApiError> {
        let wanted = Wanted::of(&pod["spec"]);
        if wanted.is_nothing() {
            return Ok(None);
        }
        let now = Timestamp::now();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (name, uid) = (text(&pod["metadata"]["name"]), text(&pod["metadata"]["uid"]));
        let account = pod["spec"]["serviceAccountName"]
            .as_str()
            .unwrap_or(DEFAULT_ACCOUNT);
        let accounts = api::collection(&text(&pod["metadata"]["namespace"]), "serviceaccounts");
        let path = format!("{accounts}/{account}/token");
        let mut issued = Issued {
            tokens: Vec::new(),
            ca: None,
            refresh_at: now + tokens::refresh_after(Duration::MAX, jitter(&uid)),
        };
        for token in &wanted.tokens {
            let answer: Value = api::create(&self.context.upper, &path, &token.request(&name, &uid)).await?;
            let expires = answer["status"]["expirationTimestamp"].as_str();
            let expires: Option<Timestamp> = expires.and_then(|text| text.parse().ok());
            let life = expires.map_or(Duration::ZERO, |at| until(at, now));
            let due = now + tokens::refresh_after(life, jitter(&uid)).max(SOONEST);
            issued.refresh_at = issued.refresh_at.min(due);
            issued.tokens.push(text(&answer["status"]["token"]));
        }
        if wanted.ca {
            issued.ca = Some(self.ca().await?);
        }
        Ok(Some(issued))
    }

    /// The CA of the upper API server, read again when its ConfigMap has changed.
    async fn ca(&self) -> Result<String, ApiError> {
        let key = ObjectKey {
            kind: Kind::ConfigMap,
            key: Key::new(names::KUBE_SYSTEM, ROOT_CA.0),
        };
        let version = {
            let state = self.context.shared.lock();
            let side = state.objects.get(&key).and_then(|object| object.upper.as_ref());
            side.map(|side| side.version.clone())
        };
        let known = self.ca.lock().clone();
        if let (Some(known), Some(version)) = (&known, &version)
            && known.version == *version
        {
            return Ok(known.pem.clone());
        }
        let path = api::collection(&key.key.namespace, "configmaps");
        let map: Option<Value> = api::get(&self.context.upper, &path, ROOT_CA.0).await?;
        let map = map.unwrap_or_default();
        let pem = map["data"][ROOT_CA.1]
            .as_str()
            .map(str::to_owned)
            .ok_or_else(|| ApiError::Transient(format!("{key} of the upper cluster has no CA yet")))?;
        let version = map["metadata"]["resourceVersion"]
            .as_str()
            .unwrap_or_default()
            .into();
        *self.ca.lock() = Some(KnownCa {
            version,
            pem: pem.clone(),
        });
        Ok(pem)
    }
}

/// Spreads renewals; the same for the same pod, from 0 to 1.
fn jitter(uid: &str) -> f64 {
    // The last digits of a hash are spread best.
    f64::from(u8::try_from(Fnv::of(uid.as_bytes()) & 0xff).unwrap_or_default()) / 255.0
}
