//! The serving certificate: one slot that handshakes read without a lock, filled from files, a Secret, a signed
//! request or a self-signed pair.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{TlsError, provider};

/// The certificate that new handshakes get. Connections that exist keep the one they began with.
#[derive(Debug, Default)]
pub struct ServingCert {
    current: ArcSwapOption<Loaded>,
}

#[derive(Debug)]
struct Loaded {
    key: Arc<CertifiedKey>,
    not_before: i64,
    not_after: i64,
}

// === impl ServingCert ===

impl ServingCert {
    /// Takes over a PEM certificate chain (leaf first) and its PEM private key.
    ///
    /// # Errors
    /// When either cannot be parsed, or the key is not the certificate's. What was served before stays.
    pub fn set_pem(&self, cert: &[u8], key: &[u8]) -> Result<(), TlsError> {
        self.current.store(Some(Arc::new(Loaded::from_pem(cert, key)?)));
        Ok(())
    }

    /// Whether handshakes can succeed.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.current.load().is_some()
    }

    /// End of the leaf certificate's validity, in seconds since 1970; `None` before the first certificate.
    #[must_use]
    pub fn not_after(&self) -> Option<i64> {
        self.current.load().as_ref().map(|loaded| loaded.not_after)
    }

    /// When `share` (0 to 1) of the leaf certificate's life is over; `None` before the first certificate.
    #[must_use]
    pub fn age_reached(&self, share: f64) -> Option<SystemTime> {
        let loaded = self.current.load();
        let loaded = loaded.as_ref()?;
        let start = UNIX_EPOCH + Duration::from_secs(u64::try_from(loaded.not_before).unwrap_or(0));
        let life = u64::try_from(loaded.not_after - loaded.not_before).unwrap_or(0);
        Some(start + Duration::from_secs(life).mul_f64(share.clamp(0.0, 1.0)))
    }
}

impl ResolvesServerCert for ServingCert {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current.load().as_ref().map(|loaded| Arc::clone(&loaded.key))
    }
}

// === impl Loaded ===

impl Loaded {
    fn from_pem(cert: &[u8], key: &[u8]) -> Result<Self, TlsError> {
        let chain = CertificateDer::pem_slice_iter(cert)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| TlsError::Pem {
                what: "certificate",
                source,
            })?;
        let Some(leaf) = chain.first() else {
            return Err(TlsError::NoCertificate { what: "certificate" });
        };
        let (not_before, not_after) = validity(leaf)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|source| TlsError::Pem {
            what: "private key",
            source,
        })?;
        // Also checks that the key belongs to the leaf.
        let key = CertifiedKey::from_der(chain, key, &provider())?;
        Ok(Self {
            key: Arc::new(key),
            not_before,
            not_after,
        })
    }
}

fn validity(leaf: &CertificateDer<'_>) -> Result<(i64, i64), TlsError> {
    let (_, parsed) = X509Certificate::from_der(leaf).map_err(|error| TlsError::X509(error.to_string()))?;
    let validity = parsed.validity();
    Ok((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::self_signed;

    fn mk_pair(name: &str) -> crate::tls::PemPair {
        self_signed(name, &[name.to_owned()], Duration::from_secs(3600)).unwrap()
    }

    #[test]
    fn a_bad_pair_is_refused_and_the_last_good_one_stays() {
        let cert = ServingCert::default();
        assert!(!cert.is_set());
        let (a, b) = (mk_pair("a"), mk_pair("b"));
        cert.set_pem(a.cert.as_bytes(), a.key.as_bytes()).unwrap();
        let before = cert.not_after();
        assert!(before.is_some());
        let cases: [(&str, &str, &str); 4] = [
            ("key of another certificate", &b.cert, &a.key),
            ("no certificate", "", &a.key),
            ("no key", &a.cert, ""),
            ("not PEM", "-----BEGIN CERTIFICATE-----\nx", &a.key),
        ];
        for (name, pem, key) in cases {
            assert!(cert.set_pem(pem.as_bytes(), key.as_bytes()).is_err(), "{name}");
            assert_eq!(cert.not_after(), before, "{name}");
        }
    }

    #[test]
    fn the_age_is_a_share_of_the_whole_life() {
        let cert = ServingCert::default();
        assert_eq!(cert.age_reached(0.8), None);
        let pair = mk_pair("a");
        cert.set_pem(pair.cert.as_bytes(), pair.key.as_bytes()).unwrap();
        let start = cert.age_reached(0.0).unwrap();
        let end = cert.age_reached(1.0).unwrap();
        let most = cert.age_reached(0.8).unwrap();
        let life = end.duration_since(start).unwrap();
        assert_eq!(most.duration_since(start).unwrap(), life.mul_f64(0.8));
        assert_eq!(
            end.duration_since(UNIX_EPOCH).unwrap().as_secs(),
            u64::try_from(cert.not_after().unwrap()).unwrap()
        );
    }
}
