//! Upgraded connections, made by hand.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use e2e::Cluster;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Connects as a cluster's administrator. Whom it connects to is not verified: a kubelet port may be self-signed.
pub(crate) struct Dialer {
    connector: TlsConnector,
}

/// Trusts everybody; it is for measuring only.
#[derive(Debug)]
struct TrustAll(Arc<rustls::crypto::CryptoProvider>);

// === impl Dialer ===

impl Dialer {
    pub(crate) fn new(cluster: &Cluster) -> Result<Self> {
        // The harness writes its kubeconfigs as JSON, with all keys in them.
        let kubeconfig: Value = serde_json::from_slice(&std::fs::read(cluster.kubeconfig())?)?;
        let data = |name: &str| -> Result<Vec<u8>> {
            let text = kubeconfig["users"][0]["user"][name].as_str();
            Ok(BASE64_STANDARD.decode(text.with_context(|| format!("no {name}"))?)?)
        };
        let certificate = CertificateDer::from_pem_slice(&data("client-certificate-data")?)?;
        let key = PrivateKeyDer::from_pem_slice(&data("client-key-data")?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(TrustAll(provider)))
            .with_client_auth_cert(vec![certificate], key)?;
        Ok(Self {
            connector: TlsConnector::from(Arc::new(config)),
        })
    }

    /// The stream after an upgrade; `head` are its request line and headers, each ended by a newline.
    pub(crate) async fn open(&self, address: SocketAddr, head: &str) -> Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::from(address.ip());
        let mut stream = self.connector.connect(name, stream).await?;
        let head = format!("{head}Host: {address}\nConnection: Upgrade\n\n").replace('\n', "\r\n");
        stream.write_all(head.as_bytes()).await?;
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            answer.push(stream.read_u8().await?);
        }
        let answer = String::from_utf8_lossy(&answer);
        ensure!(answer.starts_with("HTTP/1.1 101"), "{answer}");
        Ok(stream)
    }
}

// === impl TrustAll ===

impl rustls::client::danger::ServerCertVerifier for TrustAll {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
