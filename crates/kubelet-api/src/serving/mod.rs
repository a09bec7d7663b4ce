//! A serving certificate from the cluster: requested with a `CertificateSigningRequest`, approved by hand or by us, and
//! renewed before it ends.
//!
//! The private key never leaves the process and is not stored: a restart asks for a new certificate. Connections and
//! streams that exist are not touched by a renewal; see [`ServingCert`].

mod request;
#[cfg(test)]
mod tests;

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::runtime::{WatchStreamExt as _, watcher};
use tensile_runtime::tls::{PemPair, ServingCert, TlsError, self_signed};
use tokio::sync::watch;
use tokio::time::timeout;

use request::Outcome;

/// The signer of kubelet serving certificates.
pub const KUBELET_SERVING: &str = "kubernetes.io/kubelet-serving";
/// How long one request may wait for approval and signing: what client-go's certificate manager allows, 15 min.
const SIGNING_TIMEOUT: Duration = Duration::from_secs(15 * 60);
/// Longest wait for an answer of the API server.
const API_TIMEOUT: Duration = Duration::from_secs(30);
/// First and longest pause after a failed request. A refused one will hardly be granted soon.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LAST_PAUSE: Duration = Duration::from_secs(600);
/// Share of a certificate's life after which it is renewed; kubelets take 70 to 90 %.
const RENEW_AT: f64 = 0.8;
/// Life of a self-signed certificate: what kube-controller-manager gives kubelets by default, one year.
const SELF_SIGNED_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);
/// Shortest time between two certificates, should a signer hand out ones that are nearly over.
const SHORTEST: Duration = Duration::from_secs(60);
/// Longest nap while waiting for the renewal: timers stand still while a machine sleeps, wall clocks do not.
const NAP: Duration = Duration::from_secs(600);

/// What a certificate is asked for.
#[derive(Clone, Debug)]
pub struct ServingRequest {
    /// The node; the certificate's subject is `O=system:nodes, CN=system:node:<name>`.
    pub node: String,
    /// The signer, usually [`KUBELET_SERVING`].
    pub signer: String,
    /// Approve our own requests. Needs `patch` on `certificatesigningrequests/approval` and `approve` on the signer;
    /// without these rights the request waits for somebody else's approval.
    pub approve: bool,
}

/// Why there is no new certificate.
#[derive(Debug, thiserror::Error)]
pub enum ServingError {
    /// The names or the key cannot be put into a request.
    #[error("making the certificate request: {0}; addresses must be IP addresses or DNS names")]
    Request(#[from] rcgen::Error),
    /// The API server refused or could not be reached.
    #[error("asking the API server for a certificate: {0}")]
    Api(#[source] Box<kube::Error>),
    /// The API server did not answer.
    #[error("asking the API server for a certificate: no answer within {} s", API_TIMEOUT.as_secs())]
    Timeout,
    /// Nobody approved it, or the signer does not run.
    #[error(
        "CertificateSigningRequest {0} was not signed in time; approve it with kubectl certificate approve"
    )]
    NotSigned(String),
    /// Denied by an approver or failed at the signer.
    #[error("CertificateSigningRequest {name} was refused: {reason}")]
    Refused {
        /// The request.
        name: String,
        /// The condition's reason and message.
        reason: String,
    },
    /// What was signed cannot be served.
    #[error("the signed certificate: {0}")]
    Unusable(#[from] TlsError),
}

/// Asks for certificates.
struct Signing {
    api: Api<CertificateSigningRequest>,
    request: ServingRequest,
}

/// Keeps a certificate for `addresses` (IP addresses and DNS names, at least one) in `cert`, until dropped: a new one at
/// 80 % of its life and whenever the addresses change. While the first one is not there, `cert` keeps what it had.
pub async fn keep(
    client: kube::Client,
    request: ServingRequest,
    mut addresses: watch::Receiver<Vec<String>>,
    cert: Arc<ServingCert>,
) {
    let signing = Signing {
        api: Api::all(client),
        request,
    };
    let mut pause = FIRST_PAUSE;
    loop {
        let names = addresses.borrow_and_update().clone();
        let wait = match signing.renew(&names, &cert).await {
            Ok(()) => {
                pause = FIRST_PAUSE;
                tracing::info!(?names, not_after = cert.not_after(), "serving certificate signed");
                until_age(&cert, RENEW_AT)
            }
            Err(error) => {
                tracing::warn!(%error, "no serving certificate; the one before stays");
                let until = SystemTime::now() + pause;
                pause = (pause * 2).min(LAST_PAUSE);
                until
            }
        };
        tokio::select! {
            () = sleep_until(wait) => {}
            Ok(()) = addresses.changed() => {}
        }
    }
}

/// Puts a certificate into `cert` that nobody else signs.
///
/// # Errors
/// When one of `names` is neither a DNS name nor an address.
pub fn self_sign(node: &str, names: &[String], cert: &ServingCert) -> Result<(), TlsError> {
    let pair = self_signed(&format!("system:node:{node}"), names, SELF_SIGNED_LIFE)?;
    cert.set_pem(pair.cert.as_bytes(), pair.key.as_bytes())
}

/// Keeps a self-signed certificate for `addresses` in `cert`, which has one already, until dropped: a new one at 80 % of
/// its life and whenever the addresses change.
pub async fn keep_self_signed(node: &str, mut addresses: watch::Receiver<Vec<String>>, cert: &ServingCert) {
    loop {
        tokio::select! {
            () = sleep_until(until_age(cert, RENEW_AT)) => {}
            Ok(()) = addresses.changed() => {}
        }
        let names = addresses.borrow_and_update().clone();
        if let Err(error) = self_sign(node, &names, cert) {
            tracing::warn!(%error, ?names, "no new serving certificate; the one before stays");
        }
    }
}

/// When `share` of the certificate's life is over, and not sooner than [`SHORTEST`] from now.
fn until_age(cert: &ServingCert, share: f64) -> SystemTime {
    let soonest = SystemTime::now() + SHORTEST;
    cert.age_reached(share).map_or(soonest, |time| time.max(soonest))
}

async fn sleep_until(time: SystemTime) {
    while let Ok(left) = time.duration_since(SystemTime::now()) {
        // At least a moment: a clock that was read just before the end must not spin.
        tokio::time::sleep(left.clamp(Duration::from_millis(10), NAP)).await;
    }
}

// === impl Signing ===

impl Signing {
    /// One request, from the key to the certificate in place.
    async fn renew(&self, names: &[String], cert: &ServingCert) -> Result<(), ServingError> {
        let pair = self.sign(names).await?;
        Ok(cert.set_pem(pair.cert.as_bytes(), pair.key.as_bytes())?)
    }

    async fn sign(&self, names: &[String]) -> Result<PemPair, ServingError> {
        let (key, pem) = request::key_and_request(&self.request.node, names)?;
        let object = request::object(&self.request.signer, &pem);
        let created = bounded(self.api.create(&PostParams::default(), &object)).await?;
        let name = created.metadata.name.clone().unwrap_or_default();
        if self.request.approve {
            self.approve(&name).await;
        }
        let signed = timeout(SIGNING_TIMEOUT, self.signed(&name)).await;
        let cert = signed.map_err(|_| ServingError::NotSigned(name))??;
        Ok(PemPair { cert, key })
    }

    /// Approves `name`, if we may; if not, somebody else will have to.
    async fn approve(&self, name: &str) {
        let patch = Patch::Strategic(request::approval());
        if let Err(error) = bounded(self.api.patch_approval(name, &PatchParams::default(), &patch)).await {
            tracing::warn!(%error, name, "the request for a serving certificate waits for somebody's approval");
        }
    }

    /// The certificate of `name`, once it is there.
    async fn signed(&self, name: &str) -> Result<String, ServingError> {
        let config = watcher::Config::default().fields(&format!("metadata.name={name}"));
        let mut seen = pin!(
            watcher(self.api.clone(), config)
                .default_backoff()
                .applied_objects()
        );
        while let Some(csr) = seen.next().await {
            match csr.as_ref().map(request::outcome) {
                Ok(Outcome::Signed(cert)) => return Ok(cert),
                Ok(Outcome::Refused(reason)) => {
                    return Err(ServingError::Refused {
                        name: name.to_owned(),
                        reason,
                    });
                }
                Ok(Outcome::Waiting) => {}
                Err(error) => tracing::debug!(%error, name, "watching the certificate request"),
            }
        }
        Err(ServingError::NotSigned(name.to_owned()))
    }
}

async fn bounded<T>(request: impl Future<Output = kube::Result<T>>) -> Result<T, ServingError> {
    let answer = timeout(API_TIMEOUT, request)
        .await
        .map_err(|_| ServingError::Timeout)?;
    answer.map_err(|error| ServingError::Api(Box::new(error)))
}
