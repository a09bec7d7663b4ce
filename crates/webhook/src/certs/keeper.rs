//! Does what [`step`](super::step) says, while the lease is held, and serves what the Secret holds.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::admissionregistration::v1::{MutatingWebhookConfiguration, WebhookClientConfig};
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tensile_runtime::admin::Condition;
use tensile_runtime::lease::Leadership;
use tensile_runtime::tls::ServingCert;
use tensile_runtime::watch::Change;
use tokio::sync::{Notify, watch};

use super::bundle::{Bundle, SECRET};
use super::issue::CertificateError;
use super::step::{Situation, Step, next};

/// Rest after a failed write. The watch usually wakes us earlier.
const RETRY: Duration = Duration::from_secs(2);
/// Longest rest: system clocks may be set, and a missed event should not matter for long.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// What to keep, and where.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace of the Secret.
    pub namespace: String,
    /// Name of the MutatingWebhookConfiguration.
    pub configuration: String,
    /// Life of a serving certificate.
    pub life: Duration,
}

/// Keeps the certificates.
pub struct Keeper {
    client: Client,
    settings: Settings,
    serving: Arc<ServingCert>,
    ready: Condition,
    seen: Mutex<Seen>,
    changed: Notify,
}

#[derive(Default)]
struct Seen {
    /// Last readable content of the Secret.
    bundle: Option<Bundle>,
    /// Metadata and type of the Secret as it is now; `None` if it does not exist.
    stored: Option<Stored>,
    secret_listed: bool,
    configuration: Option<MutatingWebhookConfiguration>,
    configuration_listed: bool,
    /// Since when every entry of the configuration trusts this.
    published: Option<(String, Instant)>,
}

/// What a Secret must keep when its content is replaced: a type can never be changed, and who made the empty Secret for us
/// chose it.
#[derive(Clone)]
struct Stored {
    metadata: ObjectMeta,
    type_: Option<String>,
}

/// Why a step was not done.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    #[error("cannot write Secret {SECRET}: {0}")]
    Store(#[source] kube::Error),
    #[error("cannot write the caBundle of the MutatingWebhookConfiguration: {0}")]
    Publish(#[source] kube::Error),
}

// === impl Keeper ===

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Keeper {
    /// Keeps the certificates that `serving` hands out; `ready` is met with the first.
    #[must_use]
    pub fn new(client: Client, settings: Settings, serving: Arc<ServingCert>, ready: Condition) -> Self {
        Self {
            client,
            settings,
            serving,
            ready,
            seen: Mutex::default(),
            changed: Notify::new(),
        }
    }

    /// Takes over a change of the Secret: what it holds is served from now on.
    pub fn secret_changed(&self, change: Change<Secret>) {
        let mut seen = self.seen.lock();
        match change {
            Change::Apply(secret) => {
                match self.serve(&secret) {
                    Ok(bundle) => seen.bundle = Some(bundle),
                    // Made for us to fill.
                    Err(_) if secret.data.is_none() => {}
                    Err(error) => {
                        tracing::warn!(%error, "Secret {SECRET} is not usable, serving what was there");
                    }
                }
                seen.stored = Some(Stored {
                    metadata: secret.metadata,
                    type_: secret.type_,
                });
            }
            Change::Delete(_) => seen.stored = None,
            Change::Reset(keys) => {
                if keys.is_empty() {
                    seen.stored = None;
                }
                seen.secret_listed = true;
            }
        }
        drop(seen);
        self.changed.notify_one();
    }

    fn serve(&self, secret: &Secret) -> Result<Bundle, CertificateError> {
        let bundle = Bundle::decode(secret.data.as_ref().unwrap_or(&std::collections::BTreeMap::new()))?;
        let (cert, key) = (bundle.leaf.cert.as_bytes(), bundle.leaf.key.as_bytes());
        self.serving
            .set_pem(cert, key)
            .map_err(|error| CertificateError::Read(error.to_string()))?;
        self.ready.set(true);
        tracing::info!("serving the certificate of Secret {SECRET}");
        Ok(bundle)
    }

    /// Takes over a change of the webhook configuration.
    pub fn configuration_changed(&self, change: Change<MutatingWebhookConfiguration>) {
        let mut seen = self.seen.lock();
        match change {
            Change::Apply(configuration) => seen.configuration_applied(configuration),
            Change::Delete(_) => seen.configuration = None,
            Change::Reset(keys) => {
                if keys.is_empty() {
                    seen.configuration = None;
                }
                seen.configuration_listed = true;
            }
        }
        drop(seen);
        self.changed.notify_one();
    }

    /// Makes, renews and publishes the certificates while `leadership` is held, until the future is dropped.
    pub async fn keep(&self, mut leadership: watch::Receiver<Leadership>) {
        loop {
            let rest = if leadership.borrow_and_update().held() {
                self.step().await
            } else {
                LOOK_AGAIN
            };
            tokio::select! {
                () = self.changed.notified() => {}
                () = tokio::time::sleep(rest) => {}
                changed = leadership.changed() => if changed.is_err() { return },
            }
        }
    }

    /// Does one step and says how long to rest.
    async fn step(&self) -> Duration {
        let Some(situation) = self.situation() else {
            return LOOK_AGAIN;
        };
        match self.attempt(&situation).await {
            Ok(rest) => rest,
            Err(error) => {
                tracing::warn!(%error, "trying on");
                RETRY
            }
        }
    }

    async fn attempt(&self, situation: &Situation) -> Result<Duration, StepError> {
        match next(situation, self.settings.life)? {
            Step::Wait(rest) => return Ok(rest.min(LOOK_AGAIN)),
            Step::Store(bundle) => self.store(&bundle).await.map_err(StepError::Store)?,
            Step::Publish(trusted) => self.publish(&trusted).await.map_err(StepError::Publish)?,
        }
        // The watch brings what was written, and that wakes us.
        Ok(RETRY)
    }

    /// `None` until both objects have been looked for.
    fn situation(&self) -> Option<Situation> {
        let seen = self.seen.lock();
        if !seen.secret_listed || !seen.configuration_listed {
            return None;
        }
        let trusted = seen.bundle.as_ref().map(Bundle::trusted);
        let since = seen
            .published
            .as_ref()
            .filter(|(published, _)| Some(published) == trusted.as_ref());
        Some(Situation {
            stored: seen.stored.is_some(),
            names: self.names(seen.configuration.as_ref()),
            published: since.map(|(_, since)| since.elapsed()),
            now: SystemTime::now(),
            bundle: seen.bundle.clone(),
        })
    }

    /// How API servers call us: as the configuration says, or as the chart names the Service.
    fn names(&self, configuration: Option<&MutatingWebhookConfiguration>) -> BTreeSet<String> {
        let entries = configuration
            .and_then(|configuration| configuration.webhooks.as_deref())
            .unwrap_or_default();
        let mut names: BTreeSet<String> = entries
            .iter()
            .filter_map(|entry| host(&entry.client_config))
            .collect();
        if names.is_empty() {
            names.insert(format!("tensile-webhook.{}.svc", self.settings.namespace));
        }
        names
    }

    async fn store(&self, bundle: &Bundle) -> kube::Result<()> {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.settings.namespace);
        let stored = self.seen.lock().stored.clone();
        let exists = stored.is_some();
        let Stored { metadata, type_ } = stored.unwrap_or_else(Stored::new);
        let secret = Secret {
            metadata,
            data: Some(bundle.encode()),
            type_,
            ..Secret::default()
        };
        // With the resourceVersion that we saw: what another replica wrote meanwhile is not overwritten.
        if exists {
            api.replace(SECRET, &PostParams::default(), &secret).await?;
        } else {
            api.create(&PostParams::default(), &secret).await?;
        }
        tracing::info!("wrote Secret {SECRET}");
        Ok(())
    }

    async fn publish(&self, trusted: &str) -> kube::Result<()> {
        let Some(configuration) = self.seen.lock().configuration.clone() else {
            tracing::warn!(
                name = self.settings.configuration,
                "there is no such MutatingWebhookConfiguration (--webhook-configuration); create it, and the CA \
                 is published there"
            );
            return Ok(());
        };
        let bundle = ByteString(trusted.as_bytes().to_vec());
        let entries = configuration.webhooks.unwrap_or_default();
        let operations: Vec<Value> = entries
            .iter()
            .enumerate()
            .flat_map(|(index, entry)| {
                [
                    json!({"op": "test", "path": format!("/webhooks/{index}/name"), "value": entry.name}),
                    json!({"op": "add", "path": format!("/webhooks/{index}/clientConfig/caBundle"), "value": bundle}),
                ]
            })
            .collect();
        let api: Api<MutatingWebhookConfiguration> = Api::all(self.client.clone());
        let patch =
            Patch::<Value>::Json(serde_json::from_value(operations.into()).map_err(kube::Error::SerdeError)?);
        api.patch(&self.settings.configuration, &PatchParams::default(), &patch)
            .await?;
        tracing::info!(name = self.settings.configuration, "published the CA");
        Ok(())
    }
}

// === impl Stored ===

impl Stored {
    /// As we make it ourselves.
    fn new() -> Self {
        Self {
            metadata: ObjectMeta {
                name: Some(SECRET.to_owned()),
                ..ObjectMeta::default()
            },
            type_: Some("kubernetes.io/tls".to_owned()),
        }
    }
}

// === impl Seen ===

impl Seen {
    fn configuration_applied(&mut self, configuration: MutatingWebhookConfiguration) {
        let entries = configuration.webhooks.as_deref().unwrap_or_default();
        let mut bundles = entries.iter().map(|entry| entry.client_config.ca_bundle.as_ref());
        let first = bundles
            .next()
            .flatten()
            .and_then(|bundle| String::from_utf8(bundle.0.clone()).ok());
        let agreed = first
            .filter(|first| bundles.all(|bundle| bundle.is_some_and(|bundle| bundle.0 == first.as_bytes())));
        match (&self.published, agreed) {
            (Some((known, _)), Some(new)) if *known == new => {}
            (_, new) => self.published = new.map(|new| (new, Instant::now())),
        }
        self.configuration = Some(configuration);
    }
}

/// The name in the certificate that an API server looks for.
fn host(client: &WebhookClientConfig) -> Option<String> {
    if let Some(service) = &client.service {
        return Some(format!("{}.{}.svc", service.name, service.namespace));
    }
    let uri: http::Uri = client.url.as_deref()?.parse().ok()?;
    uri.host().map(|host| host.trim_matches(['[', ']']).to_owned())
}
