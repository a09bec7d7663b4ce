//! The certificates and keys of one cluster, made by rcgen and written as PEM files.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};

/// The group that Kubernetes lets do everything.
pub(crate) const MASTERS: &str = "system:masters";

/// A certificate and its private key, both PEM.
pub(crate) struct Identity {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// A certificate authority.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// All keys of one cluster; the files lie in one folder.
pub(crate) struct Pki {
    folder: PathBuf,
    authority: Authority,
}

// === impl Authority ===

impl Authority {
    fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name = distinguished_name(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
        })
    }

    fn identity(&self) -> Identity {
        Identity {
            certificate: self.certificate.clone(),
            key: self.issuer.key().serialize_pem(),
        }
    }

    fn sign(&self, name: &str, groups: &[&str], hosts: &[String]) -> Result<Identity> {
        let mut params = CertificateParams::new(hosts)?;
        params.distinguished_name = distinguished_name(name, groups);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        let usage = if hosts.is_empty() {
            ExtendedKeyUsagePurpose::ClientAuth
        } else {
            ExtendedKeyUsagePurpose::ServerAuth
        };
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Identity {
            certificate,
            key: key.serialize_pem(),
        })
    }
}

// === impl Pki ===

impl Pki {
    /// Makes an authority alone, in `folder`.
    pub(crate) fn bare(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let pki = Self {
            folder: folder.to_owned(),
            authority: Authority::new("tensile-e2e")?,
        };
        pki.write("ca", &pki.authority.identity())?;
        Ok(pki)
    }

    /// Makes everything that an API server at `address` needs, in `folder`.
    pub(crate) fn create(folder: &Path, address: IpAddr) -> Result<Self> {
        let pki = Self::bare(folder)?;
        pki.write("apiserver", &pki.serving(&api_server_hosts(address))?)?;
        pki.write(
            "kubelet-client",
            &pki.client("kube-apiserver-kubelet-client", &[MASTERS])?,
        )?;
        let front_proxy = Authority::new("tensile-e2e-front-proxy")?;
        pki.write("front-proxy-ca", &front_proxy.identity())?;
        pki.write(
            "front-proxy-client",
            &front_proxy.sign("front-proxy-client", &[], &[])?,
        )?;
        let service_accounts = KeyPair::generate()?;
        fs::write(folder.join("sa.key"), service_accounts.serialize_pem())?;
        fs::write(folder.join("sa.pub"), service_accounts.public_key_pem())?;
        Ok(pki)
    }

    /// The certificate of the authority that signs for users, kubelets and the API server, as PEM.
    pub(crate) fn ca(&self) -> &str {
        &self.authority.certificate
    }

    /// A certificate for a user with groups.
    pub(crate) fn client(&self, user: &str, groups: &[&str]) -> Result<Identity> {
        self.authority.sign(user, groups, &[])
    }

    /// A serving certificate for DNS names and addresses.
    pub(crate) fn serving(&self, hosts: &[String]) -> Result<Identity> {
        let name = hosts.first().context("a serving certificate needs a host")?;
        self.authority.sign(name, &[], hosts)
    }

    /// Writes `<name>.crt` and `<name>.key`; returns their paths.
    pub(crate) fn write(&self, name: &str, identity: &Identity) -> Result<(PathBuf, PathBuf)> {
        let (certificate, key) = (
            self.path(&format!("{name}.crt")),
            self.path(&format!("{name}.key")),
        );
        fs::write(&certificate, &identity.certificate)?;
        fs::write(&key, &identity.key)?;
        Ok((certificate, key))
    }

    /// The path of a file, such as `ca.crt`.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.folder.join(file)
    }
}

fn distinguished_name(name: &str, groups: &[&str]) -> DistinguishedName {
    let mut distinguished_name = DistinguishedName::new();
    distinguished_name.push(DnType::CommonName, name);
    // rcgen holds one value per type, and Kubernetes reads each organisation as a group; one is what we need.
    for group in groups {
        distinguished_name.push(DnType::OrganizationName, *group);
    }
    distinguished_name
}

/// Names of an API server: its address, loopback for proxies, and how pods call it.
fn api_server_hosts(address: IpAddr) -> Vec<String> {
    let mut hosts: Vec<String> = [
        "127.0.0.1",
        "localhost",
        "10.96.0.1",
        "kubernetes",
        "kubernetes.default",
    ]
    .into_iter()
    .chain(["kubernetes.default.svc", "kubernetes.default.svc.cluster.local"])
    .map(str::to_owned)
    .collect();
    let address = address.to_string();
    if !hosts.contains(&address) {
        hosts.push(address);
    }
    hosts
}
