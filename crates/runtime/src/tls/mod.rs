//! TLS for every server of Tensile: a serving certificate that can be replaced at any time, and an optional
//! client CA bundle against which client certificates are verified once the handshake is over.
//!
//! ```text
//! files ──┐
//! Secret ─┼─▶ ServingCert ─┐
//! CSR ────┘                ├─▶ Tls ─▶ serve: handshake ─▶ ClientCas::verify ─▶ Peer
//! file or ConfigMap ─▶ ClientCas ┘
//! ```
//!
//! As in a kubelet, a client certificate is asked for and never required, and one that no CA vouches for
//! does not end the handshake: the request that follows may still carry a bearer token.

mod client_ca;
mod files;
mod self_signed;
mod serving;
#[cfg(test)]
pub(crate) mod testing;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use client_ca::{ClientCas, Peer};
pub use files::{POLL_INTERVAL, follow_files, read_files};
pub use self_signed::{PemPair, self_signed};
pub use serving::ServingCert;

use client_ca::AskForCertificate;

/// Which application protocols a server offers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Alpn {
    /// `http/1.1` only. A kubelet's callers upgrade connections, which HTTP/2 cannot.
    Http1,
    /// `h2`, then `http/1.1`.
    Http2AndHttp1,
}

/// What a server needs for its handshakes. Certificates and CAs are replaced through the [`ServingCert`] and
/// [`ClientCas`] it was made from; the value itself never changes.
#[derive(Clone, Debug)]
pub struct Tls {
    config: Arc<rustls::ServerConfig>,
    client_cas: Option<Arc<ClientCas>>,
}

/// Why TLS material was refused.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file could not be read.
    #[error("reading {path}: {source}; check that the file exists and is readable")]
    Read {
        /// The file.
        path: String,
        /// What the operating system said.
        #[source]
        source: std::io::Error,
    },
    /// The bytes are not PEM, or hold no block of the wanted kind.
    #[error("{what} is not usable PEM ({source}); it must hold at least one block of that kind")]
    Pem {
        /// `certificate`, `private key` or `client CA`.
        what: &'static str,
        /// What the parser said.
        #[source]
        source: rustls_pki_types::pem::Error,
    },
    /// There is no certificate in the PEM text.
    #[error("{what} holds no certificate that can be used; it must hold at least one PEM CERTIFICATE block")]
    NoCertificate {
        /// `certificate` or `client CA`.
        what: &'static str,
    },
    /// The certificate is not X.509.
    #[error("the certificate cannot be parsed: {0}")]
    X509(String),
    /// rustls refused the material: unknown key type, or the key is not the certificate's.
    #[error(
        "the certificate and its private key cannot be used together: {0}; both must come from one issue"
    )]
    Rustls(#[from] rustls::Error),
    /// The client CA bundle cannot be used.
    #[error("the client CA bundle cannot be used: {0}")]
    ClientCa(#[from] rustls::server::VerifierBuilderError),
    /// A self-signed certificate could not be made.
    #[error("making a self-signed certificate: {0}")]
    SelfSigned(#[from] rcgen::Error),
}

// === impl Alpn ===

impl Alpn {
    fn protocols(self) -> Vec<Vec<u8>> {
        match self {
            Self::Http1 => vec![b"http/1.1".to_vec()],
            Self::Http2AndHttp1 => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        }
    }
}

// === impl Tls ===

impl Tls {
    /// Server-side TLS 1.2 and 1.3 with the certificate that `cert` holds at each handshake. With `client_cas`,
    /// clients are asked for a certificate.
    ///
    /// # Errors
    /// When rustls cannot offer TLS 1.2 and 1.3 with its provider.
    pub fn new(
        cert: Arc<ServingCert>,
        client_cas: Option<Arc<ClientCas>>,
        alpn: Alpn,
    ) -> Result<Self, TlsError> {
        let builder = rustls::ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
        let builder = match client_cas {
            Some(_) => builder.with_client_cert_verifier(Arc::new(AskForCertificate::new())),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(cert);
        config.alpn_protocols = alpn.protocols();
        Ok(Self {
            config: Arc::new(config),
            client_cas,
        })
    }

    /// The acceptor for one handshake.
    pub(crate) fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        tokio_rustls::TlsAcceptor::from(Arc::clone(&self.config))
    }

    /// Who the client's certificate chain says it is, if a client CA vouches for it now.
    pub(crate) fn peer(&self, session: &rustls::ServerConnection) -> Option<Peer> {
        self.client_cas.as_ref()?.verify(session.peer_certificates()?)
    }
}

/// The crypto provider of this process: AWS-LC, as the whole workspace uses.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    CryptoProvider::get_default().map_or_else(
        || Arc::new(rustls::crypto::aws_lc_rs::default_provider()),
        Arc::clone,
    )
}
