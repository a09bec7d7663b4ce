//! Kubeconfig files and the clients made from them.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_STANDARD};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::json;

use crate::{
    cluster::Cluster,
    pki::{Identity, MASTERS},
};

// === impl Cluster ===

impl Cluster {
    /// A new client with the rights of an administrator. A client belongs to the tokio runtime that made it.
    ///
    /// # Errors
    /// The kubeconfig cannot be used.
    pub async fn client(&self) -> Result<Client> {
        client_of(&self.kubeconfig).await
    }

    /// The administrator's kubeconfig file; all keys are in it.
    pub fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Writes a kubeconfig for another user, known by a client certificate.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn kubeconfig_for(&self, user: &str, groups: &[&str]) -> Result<PathBuf> {
        self.write_kubeconfig(
            user,
            &self.endpoint.api_server_url(),
            &self.pki.client(user, groups)?,
        )
    }

    /// Writes an administrator's kubeconfig that goes to another address of the API server, such as a fault proxy on
    /// loopback.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn kubeconfig_through(&self, address: SocketAddr) -> Result<PathBuf> {
        let user = format!("through-{}", address.port());
        self.write_kubeconfig(
            &user,
            &format!("https://{address}"),
            &self.pki.client(&user, &[MASTERS])?,
        )
    }

    fn write_kubeconfig(&self, user: &str, server: &str, identity: &Identity) -> Result<PathBuf> {
        let path = self
            .folder()
            .join(format!("{}.kubeconfig", user.replace([':', '/'], "-")));
        write(&path, self.name(), server, self.pki.ca(), identity)?;
        Ok(path)
    }
}

/// A client for a kubeconfig file.
pub(crate) async fn client_of(kubeconfig: &Path) -> Result<Client> {
    let file = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// Writes a kubeconfig; JSON is YAML, so no YAML library is needed.
pub(crate) fn write(path: &Path, name: &str, server: &str, ca: &str, identity: &Identity) -> Result<()> {
    let encode = |pem: &str| BASE64_STANDARD.encode(pem);
    let kubeconfig = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {"server": server, "certificate-authority-data": encode(ca)}}],
        "users": [{"name": name, "user": {
            "client-certificate-data": encode(&identity.certificate),
            "client-key-data": encode(&identity.key),
        }}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
    });
    fs::write(path, kubeconfig.to_string()).with_context(|| format!("cannot write {}", path.display()))
}
