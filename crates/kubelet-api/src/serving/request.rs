//! What goes into a `CertificateSigningRequest`, and what comes out of it. Pure, but for the key.

use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use serde_json::{Value, json};

/// Where a request stands.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Outcome {
    Waiting,
    /// The PEM chain.
    Signed(String),
    /// Reason and message of the condition.
    Refused(String),
}

/// A new key (PKCS#8 PEM) and a PEM request for it, of the form that the kubelet-serving signer insists on: this subject
/// exactly, and DNS names and IP addresses only.
pub(super) fn key_and_request(node: &str, names: &[String]) -> Result<(String, String), rcgen::Error> {
    let mut params = CertificateParams::new(names.to_vec())?;
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::OrganizationName, "system:nodes");
    params
        .distinguished_name
        .push(DnType::CommonName, format!("system:node:{node}"));
    let key = KeyPair::generate()?;
    let request = params.serialize_request(&key)?.pem()?;
    Ok((key.serialize_pem(), request))
}

/// The object to create. The usages are those of an ECDSA key; `key encipherment` is for RSA.
pub(super) fn object(signer: &str, request: &str) -> CertificateSigningRequest {
    CertificateSigningRequest {
        metadata: ObjectMeta {
            generate_name: Some("csr-".to_owned()),
            ..ObjectMeta::default()
        },
        spec: CertificateSigningRequestSpec {
            signer_name: signer.to_owned(),
            request: ByteString(request.as_bytes().to_vec()),
            usages: Some(vec!["digital signature".to_owned(), "server auth".to_owned()]),
            ..CertificateSigningRequestSpec::default()
        },
        status: None,
    }
}

/// The patch of the approval subresource.
pub(super) fn approval() -> Value {
    json!({"status": {"conditions": [{
        "type": "Approved",
        "status": "True",
        "reason": "AutoApproved",
        "message": "approved by the node that asked for it",
    }]}})
}

/// Where `csr` stands. A refusal counts even beside a certificate.
pub(super) fn outcome(csr: &CertificateSigningRequest) -> Outcome {
    let Some(status) = &csr.status else {
        return Outcome::Waiting;
    };
    let refused = status.conditions.iter().flatten().find(|condition| {
        matches!(condition.type_.as_str(), "Denied" | "Failed") && condition.status != "False"
    });
    if let Some(condition) = refused {
        let part = |text: &Option<String>| text.clone().unwrap_or_default();
        return Outcome::Refused(format!(
            "{}: {}",
            part(&condition.reason),
            part(&condition.message)
        ));
    }
    match status
        .certificate
        .as_ref()
        .and_then(|cert| String::from_utf8(cert.0.clone()).ok())
    {
        Some(cert) if !cert.is_empty() => Outcome::Signed(cert),
        _ => Outcome::Waiting,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_csr(status: &Value) -> CertificateSigningRequest {
        let spec = json!({"request": "", "signerName": "s"});
        serde_json::from_value(json!({"metadata": {}, "spec": spec, "status": status})).unwrap()
    }

    #[test]
    fn only_a_certificate_without_a_refusal_counts() {
        let condition =
            |ty: &str, status: &str| json!([{"type": ty, "status": status, "reason": "R", "message": "m"}]);
        let refused = Outcome::Refused("R: m".to_owned());
        for (status, wanted) in [
            (json!(null), Outcome::Waiting),
            (json!({}), Outcome::Waiting),
            (
                json!({"conditions": condition("Approved", "True")}),
                Outcome::Waiting,
            ),
            (
                json!({"conditions": condition("Denied", "True")}),
                refused.clone(),
            ),
            (
                json!({"conditions": condition("Failed", "True"), "certificate": "UEVN"}),
                refused,
            ),
            (
                json!({"conditions": condition("Failed", "False"), "certificate": "UEVN"}),
                Outcome::Signed("PEM".to_owned()),
            ),
            (
                json!({"conditions": condition("Approved", "True"), "certificate": "UEVN"}),
                Outcome::Signed("PEM".to_owned()),
            ),
            (json!({"certificate": ""}), Outcome::Waiting),
        ] {
            assert_eq!(outcome(&mk_csr(&status)), wanted, "{status}");
        }
    }

    #[test]
    fn the_request_is_what_the_signer_insists_on() {
        let (key, pem) = key_and_request("vn", &["10.0.0.7".to_owned(), "vn.example".to_owned()]).unwrap();
        assert!(key.contains("PRIVATE KEY"));
        let parsed = rcgen::CertificateSigningRequestParams::from_pem(&pem)
            .unwrap()
            .params;
        let name = |ty: &DnType| parsed.distinguished_name.get(ty).cloned();
        assert_eq!(name(&DnType::CommonName), Some("system:node:vn".into()));
        assert_eq!(name(&DnType::OrganizationName), Some("system:nodes".into()));
        assert_eq!(parsed.subject_alt_names.len(), 2);
        let object = object("kubernetes.io/kubelet-serving", &pem);
        assert_eq!(object.spec.usages.unwrap(), ["digital signature", "server auth"]);
        assert_eq!(object.spec.request.0, pem.as_bytes());
    }
}
