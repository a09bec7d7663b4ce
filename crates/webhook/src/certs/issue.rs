//! Makes CAs and serving certificates, and reads their dates and names.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use tensile_runtime::tls::PemPair;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;

/// Clocks differ: certificates are valid from this long before they were made. kube-controller-manager
/// backdates what it signs by the same five minutes.
const BACKDATE: Duration = Duration::from_secs(300);

/// Why a certificate cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A name is no DNS name or address, or the key is unusable.
    #[error("cannot make a certificate: {0}")]
    Make(#[from] rcgen::Error),
    /// Not PEM, or no certificate.
    #[error("cannot read a certificate: {0}")]
    Read(String),
}

/// What a certificate says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// When it was made.
    pub made: SystemTime,
    /// When it ends.
    pub end: SystemTime,
    /// DNS names and addresses that it is for.
    pub names: BTreeSet<String>,
}

/// A CA that is valid for `life` from `now`.
///
/// # Errors
/// When no key can be made.
pub fn mk_ca(now: SystemTime, life: Duration) -> Result<PemPair, CertificateError> {
    let key = KeyPair::generate()?;
    let cert = mk_ca_params(now, life)?.self_signed(&key)?;
    Ok(PemPair {
        cert: cert.pem(),
        key: key.serialize_pem(),
    })
}

/// A serving certificate for `names`, signed by `ca`.
///
/// # Errors
/// When a name is neither a DNS name nor an address, or the CA cannot be used.
pub fn issue(
    ca: &PemPair,
    names: &BTreeSet<String>,
    now: SystemTime,
    life: Duration,
) -> Result<PemPair, CertificateError> {
    let names: Vec<String> = names.iter().cloned().collect();
    let mut params = mk_params(&names, "tensile-webhook", now, life)?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    // All our CAs have the same name; which one signed is told by the key.
    let issuer = Issuer::new(mk_ca_params(now, life)?, KeyPair::from_pem(&ca.key)?);
    let cert = params.signed_by(&key, &issuer)?;
    Ok(PemPair {
        cert: cert.pem(),
        key: key.serialize_pem(),
    })
}

fn mk_ca_params(now: SystemTime, life: Duration) -> Result<CertificateParams, rcgen::Error> {
    let mut params = mk_params(&[], "tensile-webhook-ca", now, life)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    Ok(params)
}

fn mk_params(
    names: &[String],
    common_name: &str,
    now: SystemTime,
    life: Duration,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + life).into();
    Ok(params)
}

/// Reads the first certificate of a PEM text.
///
/// # Errors
/// When there is none.
pub fn facts(pem: &str) -> Result<Facts, CertificateError> {
    let wrong = |error: &dyn std::fmt::Display| CertificateError::Read(error.to_string());
    let block = Pem::iter_from_buffer(pem.as_bytes()).next();
    let block = block
        .ok_or_else(|| wrong(&"no PEM block"))?
        .map_err(|error| wrong(&error))?;
    let certificate = block.parse_x509().map_err(|error| wrong(&error))?;
    let alternative = certificate
        .subject_alternative_name()
        .map_err(|error| wrong(&error))?;
    let names = alternative.map(|names| names.value.general_names.iter().filter_map(name).collect());
    let time = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
    Ok(Facts {
        made: time(certificate.validity().not_before.timestamp()) + BACKDATE,
        end: time(certificate.validity().not_after.timestamp()),
        names: names.unwrap_or_default(),
    })
}

fn name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match <[u8; 4]>::try_from(*bytes) {
            Ok(bytes) => Some(std::net::Ipv4Addr::from(bytes).to_string()),
            Err(_) => <[u8; 16]>::try_from(*bytes)
                .ok()
                .map(|bytes| std::net::Ipv6Addr::from(bytes).to_string()),
        },
        _ => None,
    }
}

// === impl Facts ===

impl Facts {
    /// When it should be replaced: after two thirds of its life, as cert-manager does by default.
    #[must_use]
    pub fn renewal(&self) -> SystemTime {
        let life = self.end.duration_since(self.made).unwrap_or_default();
        self.made + life * 2 / 3
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_says_what_it_was_made_with() {
        let now = UNIX_EPOCH + Duration::from_secs(1_790_000_000);
        let life = Duration::from_secs(9_000);
        let names = BTreeSet::from(["127.0.0.1".to_owned(), "::1".to_owned(), "web.ns.svc".to_owned()]);
        let ca = mk_ca(now, life).unwrap();
        let leaf = facts(&issue(&ca, &names, now, life).unwrap().cert).unwrap();
        assert_eq!(
            leaf,
            Facts {
                made: now,
                end: now + life,
                names
            }
        );
        assert_eq!(leaf.renewal(), now + Duration::from_secs(6_000));
        assert!(facts(&ca.cert).unwrap().names.is_empty());
    }

    #[test]
    fn what_is_no_certificate_is_refused() {
        for text in [
            "",
            "nonsense",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        ] {
            assert!(facts(text).is_err(), "{text:?}");
        }
    }
}
