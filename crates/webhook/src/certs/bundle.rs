//! The certificates as the Secret keeps them.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use tensile_runtime::tls::PemPair;

use super::issue::{CertificateError, facts};

/// Name of the Secret in the system namespace. Its type is `kubernetes.io/tls`, unless somebody else made it for us.
pub const SECRET: &str = "tensile-webhook-tls";

const CERT: &str = "tls.crt";
const KEY: &str = "tls.key";
/// All CAs that are trusted: the current one first.
const CA_CERTS: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const NEXT_CA_CERT: &str = "next-ca.crt";
const NEXT_CA_KEY: &str = "next-ca.key";

/// Everything that the replicas share.
#[derive(Clone, Debug)]
pub struct Bundle {
    /// What is served.
    pub leaf: PemPair,
    /// What signs.
    pub ca: PemPair,
    /// What will sign once every API server trusts it.
    pub next_ca: Option<PemPair>,
    /// Certificates of the CA before, still trusted while a replica may serve what it signed.
    pub old_ca: Option<String>,
}

// === impl Bundle ===

impl Bundle {
    /// Reads the data of the Secret.
    ///
    /// # Errors
    /// When something is missing or no certificate.
    pub fn decode(data: &BTreeMap<String, ByteString>) -> Result<Self, CertificateError> {
        let optional = |key: &str| {
            data.get(key)
                .and_then(|bytes| String::from_utf8(bytes.0.clone()).ok())
        };
        let text = |key: &str| {
            optional(key).ok_or_else(|| CertificateError::Read(format!("Secret {SECRET} has no text {key}")))
        };
        let trusted = text(CA_CERTS)?;
        let next_ca = optional(NEXT_CA_CERT)
            .zip(optional(NEXT_CA_KEY))
            .map(|(cert, key)| PemPair { cert, key });
        let mut cas = certificates(&trusted).into_iter();
        let ca = cas.next().unwrap_or_default();
        let old_ca = cas.find(|cert| {
            next_ca
                .as_ref()
                .is_none_or(|next| next.cert.trim() != cert.trim())
        });
        let bundle = Self {
            leaf: PemPair {
                cert: text(CERT)?,
                key: text(KEY)?,
            },
            ca: PemPair {
                cert: ca,
                key: text(CA_KEY)?,
            },
            next_ca,
            old_ca,
        };
        for cert in [&bundle.leaf.cert, &bundle.ca.cert]
            .into_iter()
            .chain(bundle.next_ca.as_ref().map(|ca| &ca.cert))
        {
            facts(cert)?;
        }
        Ok(bundle)
    }

    /// The data of the Secret.
    #[must_use]
    pub fn encode(&self) -> BTreeMap<String, ByteString> {
        let text = |text: &str| ByteString(text.as_bytes().to_vec());
        let mut data = BTreeMap::from([
            (CERT.to_owned(), text(&self.leaf.cert)),
            (KEY.to_owned(), text(&self.leaf.key)),
            (CA_CERTS.to_owned(), text(&self.trusted())),
            (CA_KEY.to_owned(), text(&self.ca.key)),
        ]);
        if let Some(next) = &self.next_ca {
            data.insert(NEXT_CA_CERT.to_owned(), text(&next.cert));
            data.insert(NEXT_CA_KEY.to_owned(), text(&next.key));
        }
        data
    }

    /// The CAs that API servers must trust: the `caBundle`.
    #[must_use]
    pub fn trusted(&self) -> String {
        let next = self.next_ca.as_ref().map(|ca| &ca.cert);
        [Some(&self.ca.cert), next, self.old_ca.as_ref()]
            .into_iter()
            .flatten()
            .cloned()
            .collect()
    }
}

/// The blocks of a PEM text, each with its closing line.
fn certificates(pem: &str) -> Vec<String> {
    const END: &str = "-----END CERTIFICATE-----";
    pem.split_inclusive(END)
        .filter(|block| block.contains(END))
        .map(|block| format!("{}\n", block.trim()))
        .collect()
}
