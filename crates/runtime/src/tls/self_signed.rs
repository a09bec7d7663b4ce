//! Certificates that nobody else signs: the start of a server without files, and the webhook's own pair.

use std::time::{Duration, SystemTime};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, KeyPair, KeyUsagePurpose,
};

use super::TlsError;

/// Clocks of client and server may differ; a certificate is valid from this long before it was made.
/// kube-controller-manager backdates what it signs by the same five minutes.
const BACKDATE: Duration = Duration::from_secs(300);

/// A certificate chain and its private key, both PEM.
#[derive(Clone)]
pub struct PemPair {
    /// The chain, leaf first. Of a self-signed pair this is also the CA bundle to trust.
    pub cert: String,
    /// The private key, PKCS#8.
    pub key: String,
}

/// A self-signed server certificate for `names` (DNS names and IP addresses), valid for `life` from now.
///
/// # Errors
/// When a name is neither a DNS name nor an address, or the key cannot be made.
pub fn self_signed(common_name: &str, names: &[String], life: Duration) -> Result<PemPair, TlsError> {
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.key_usages = vec![
        KeyUsagePurpose::DigitalSignature,
        KeyUsagePurpose::KeyEncipherment,
    ];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    let now = SystemTime::now();
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + life).into();
    let key = KeyPair::generate()?;
    let cert = params.self_signed(&key)?;
    Ok(PemPair {
        cert: cert.pem(),
        key: key.serialize_pem(),
    })
}

// === impl PemPair ===

impl std::fmt::Debug for PemPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PemPair")
            .field("cert", &self.cert)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_private_key_does_not_show_in_logs() {
        let pair = self_signed(
            "n",
            &["n".to_owned(), "127.0.0.1".to_owned()],
            Duration::from_secs(60),
        )
        .unwrap();
        assert!(!format!("{pair:?}").contains("PRIVATE KEY"));
        assert!(pair.key.contains("PRIVATE KEY"));
    }
}
