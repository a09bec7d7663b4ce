//! Client certificates: asked for in the handshake, verified right after it against the CA bundle of that moment.
//!
//! The handshake itself only checks that the client holds the private key of what it shows. That is what a
//! kubelet does too, and it has two effects: an unknown certificate beside a good bearer token is no obstacle,
//! and a resumed session is verified against today's CAs, not those of the day it began.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{TlsError, provider};

/// Who a verified client certificate names.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Peer {
    /// The subject's common name; with several, the last one (as Go's crypto/x509 reads it).
    pub user: String,
    /// The subject's organizations, in order.
    pub groups: Vec<String>,
}

/// The client CA bundle. Empty until the first [`ClientCas::set_pem`]; then nobody is verified.
#[derive(Debug, Default)]
pub struct ClientCas {
    verifier: ArcSwapOption<Arc<dyn ClientCertVerifier>>,
}

/// The handshake's part: ask, require nothing, and let [`ClientCas::verify`] judge the chain later.
#[derive(Debug)]
pub(super) struct AskForCertificate {
    provider: Arc<CryptoProvider>,
}

// === impl ClientCas ===

impl ClientCas {
    /// Replaces the bundle by the certificates of a PEM text. Blocks that cannot be parsed are left out.
    ///
    /// # Errors
    /// When no certificate is left. The bundle of before stays.
    pub fn set_pem(&self, bundle: &[u8]) -> Result<(), TlsError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(CertificateDer::pem_slice_iter(bundle).filter_map(Result::ok));
        if roots.is_empty() {
            return Err(TlsError::NoCertificate { what: "client CA" });
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider()).build()?;
        self.verifier.store(Some(Arc::new(verifier)));
        Ok(())
    }

    /// Whether there is a bundle.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.verifier.load().is_some()
    }

    /// The peer that `chain` (leaf first) names, if a CA of the bundle vouches for it now and it has a name.
    #[must_use]
    pub fn verify(&self, chain: &[CertificateDer<'_>]) -> Option<Peer> {
        let verifier = self.verifier.load();
        let (leaf, intermediates) = chain.split_first()?;
        match verifier
            .as_ref()?
            .verify_client_cert(leaf, intermediates, UnixTime::now())
        {
            Ok(_) => peer_of(leaf),
            Err(error) => {
                tracing::debug!(%error, "client certificate not accepted");
                None
            }
        }
    }
}

/// The names in a certificate. `None` without a common name: a user must have a name.
fn peer_of(leaf: &CertificateDer<'_>) -> Option<Peer> {
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let subject = parsed.subject();
    let user = subject.iter_common_name().last()?.as_str().ok()?.to_owned();
    let groups = subject
        .iter_organization()
        .filter_map(|name| name.as_str().ok())
        .map(str::to_owned)
        .collect();
    (!user.is_empty()).then_some(Peer { user, groups })
}

// === impl AskForCertificate ===

impl AskForCertificate {
    pub(super) fn new() -> Self {
        Self { provider: provider() }
    }
}

impl ClientCertVerifier for AskForCertificate {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        // No hints: the bundle may change, and clients then offer whatever certificate they have.
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(
            message,
            cert,
            dss,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::testing::{mk_ca, mk_client};

    #[test]
    fn a_client_is_who_its_certificate_names_once_its_ca_is_known() {
        let (ca, other) = (mk_ca("ca"), mk_ca("other"));
        let client = mk_client(&ca, "apiserver", &["system:masters", "devs"]);
        let cas = ClientCas::default();
        assert_eq!(cas.verify(&client.chain), None, "no bundle yet");
        cas.set_pem(other.pem.as_bytes()).unwrap();
        assert_eq!(cas.verify(&client.chain), None, "another CA");
        cas.set_pem(format!("{}{}", other.pem, ca.pem).as_bytes())
            .unwrap();
        let peer = cas.verify(&client.chain).unwrap();
        assert_eq!(peer.user, "apiserver");
        assert_eq!(peer.groups, ["system:masters", "devs"]);
    }

    #[test]
    fn a_certificate_without_a_name_is_nobody() {
        let ca = mk_ca("ca");
        let cas = ClientCas::default();
        cas.set_pem(ca.pem.as_bytes()).unwrap();
        assert_eq!(cas.verify(&mk_client(&ca, "", &["system:masters"]).chain), None);
        assert_eq!(cas.verify(&[]), None);
    }

    #[test]
    fn an_unusable_bundle_leaves_the_old_one_in_place() {
        let ca = mk_ca("ca");
        let cas = ClientCas::default();
        assert!(!cas.is_set());
        cas.set_pem(ca.pem.as_bytes()).unwrap();
        for bad in [
            "",
            "text",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            assert!(cas.set_pem(bad.as_bytes()).is_err(), "{bad:?}");
        }
        assert!(cas.verify(&mk_client(&ca, "u", &[]).chain).is_some());
    }
}
