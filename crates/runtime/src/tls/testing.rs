//! Certificates for tests.

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair,
};
use rustls_pki_types::CertificateDer;

pub(crate) struct Ca {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

pub(crate) struct Client {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: Vec<u8>,
}

pub(crate) fn mk_ca(name: &str) -> Ca {
    let mut params = CertificateParams::default();
    params.distinguished_name = mk_name(name, &[]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let pem = params.self_signed(&key).unwrap().pem();
    Ca {
        pem,
        issuer: Issuer::new(params, key),
    }
}

pub(crate) fn mk_client(ca: &Ca, user: &str, groups: &[&str]) -> Client {
    let mut params = CertificateParams::default();
    params.distinguished_name = mk_name(user, groups);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, &ca.issuer).unwrap();
    Client {
        chain: vec![cert.der().clone()],
        key: key.serialize_der(),
    }
}

fn mk_name(user: &str, groups: &[&str]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    if !user.is_empty() {
        name.push(DnType::CommonName, user);
    }
    // rcgen keeps one value per type; the number of the same type is another key for it.
    let types = [DnType::OrganizationName, DnType::CustomDnType(vec![2, 5, 4, 10])];
    assert!(groups.len() <= types.len(), "two groups at most");
    for (ty, group) in types.into_iter().zip(groups) {
        name.push(ty, *group);
    }
    name
}
