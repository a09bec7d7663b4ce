//! What one Secret says about its lower cluster. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use k8s_openapi::ByteString;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::config::{AuthInfo, Kubeconfig as File};

use super::NodeConfig;
use super::nodes::check_name;
use crate::key::Key;

/// Key of the Secret that holds the kubeconfig.
const KUBECONFIG: &str = "kubeconfig";
/// Key of the Secret that holds the virtual nodes.
const NODES: &str = "nodes.yaml";

/// A lower cluster as its Secret tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The cluster's id.
    pub id: Arc<str>,
    /// The Secret.
    pub secret: SecretRef,
    /// How to reach it.
    pub kubeconfig: Kubeconfig,
    /// Its virtual nodes; at least one.
    pub nodes: Vec<NodeConfig>,
    /// Whether it goes without being touched, once it goes.
    pub abandon: bool,
}

/// Which Secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRef {
    /// Namespace and name.
    pub key: Key,
    /// UID.
    pub uid: String,
}

/// A kubeconfig that needs no file, program or environment beside itself. Never shown in logs.
#[derive(Clone, PartialEq, Eq)]
pub struct Kubeconfig {
    text: String,
    endpoint: String,
}

/// Why a Secret cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The id is not usable as a name.
    #[error("label tensile.dev/cluster: {0}")]
    Id(String),
    /// A key is missing.
    #[error("key {0} is missing; add it")]
    Missing(&'static str),
    /// The kubeconfig cannot be used.
    #[error("key kubeconfig: {0}")]
    Kubeconfig(String),
    /// The nodes cannot be read.
    #[error("key nodes.yaml: {0}")]
    Nodes(String),
    /// Another Secret has the id.
    #[error("label tensile.dev/cluster: {id:?} is the cluster of Secret {other} already; choose another id")]
    IdTaken {
        /// The id.
        id: String,
        /// Who has it.
        other: Key,
    },
    /// Another cluster has a node of the same name.
    #[error(
        "key nodes.yaml: virtual node {node:?} belongs to cluster {other:?} already; choose another name"
    )]
    NodeTaken {
        /// The node.
        node: String,
        /// Who has it.
        other: String,
    },
}

// === impl SecretRef ===

impl SecretRef {
    /// As the owner of what goes with the cluster.
    #[must_use]
    pub fn as_owner(&self) -> OwnerReference {
        OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Secret".to_owned(),
            name: self.key.name.to_string(),
            uid: self.uid.clone(),
            ..OwnerReference::default()
        }
    }
}

// === impl Config ===

impl Config {
    /// Reads what a Secret holds.
    ///
    /// # Errors
    /// The first thing that cannot be used, by key and field.
    pub fn read(
        id: &str,
        secret: SecretRef,
        data: &BTreeMap<String, ByteString>,
        abandon: bool,
    ) -> Result<Self, ConfigError> {
        check_name(id).map_err(ConfigError::Id)?;
        let text = |key: &'static str| {
            let bytes = data.get(key)?;
            Some(String::from_utf8(bytes.0.clone()).map_err(|_| format!("no UTF-8 text in {key}")))
        };
        let kubeconfig = text(KUBECONFIG)
            .ok_or(ConfigError::Missing(KUBECONFIG))?
            .and_then(Kubeconfig::read)
            .map_err(ConfigError::Kubeconfig)?;
        let nodes = text(NODES)
            .unwrap_or_else(|| Ok(String::new()))
            .and_then(|text| NodeConfig::read_file(id, &text))
            .map_err(ConfigError::Nodes)?;
        Ok(Self {
            id: id.into(),
            secret,
            kubeconfig,
            nodes,
            abandon,
        })
    }

    /// Whether what runs with `other` can go on with this one, but for credentials.
    #[must_use]
    pub fn runs_like(&self, other: &Self) -> bool {
        self.kubeconfig.endpoint == other.kubeconfig.endpoint && self.nodes == other.nodes
    }
}

// === impl Kubeconfig ===

impl fmt::Debug for Kubeconfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kubeconfig")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}

impl Kubeconfig {
    /// Checks a kubeconfig out of a Secret: whoever may write the Secret must not make us read files or run
    /// programs.
    ///
    /// # Errors
    /// The field that is missing or not allowed. Never any content.
    pub fn read(text: String) -> Result<Self, String> {
        let file = File::from_yaml(&text).map_err(|_| "no kubeconfig in YAML or JSON".to_owned())?;
        let current = file
            .current_context
            .as_deref()
            .filter(|name| !name.is_empty())
            .ok_or("current-context is missing; set it")?;
        let context = file.contexts.iter().find(|context| context.name == current);
        let context = context
            .and_then(|named| named.context.as_ref())
            .ok_or_else(|| format!("contexts has no {current:?}; add it or correct current-context"))?;
        let cluster = file
            .clusters
            .iter()
            .find(|cluster| cluster.name == context.cluster);
        let cluster = cluster.and_then(|named| named.cluster.as_ref()).ok_or_else(|| {
            format!(
                "clusters has no {:?}; add it or correct the context",
                context.cluster
            )
        })?;
        let server = cluster
            .server
            .as_deref()
            .ok_or("server of the cluster is missing; set it")?;
        if cluster.certificate_authority.is_some() {
            return Err("certificate-authority is a file; use certificate-authority-data".to_owned());
        }
        for user in &file.auth_infos {
            let wrong = user.auth_info.as_ref().and_then(outside);
            if let Some(wrong) = wrong {
                return Err(format!("users {:?}: {wrong}", user.name));
            }
        }
        let endpoint = [
            Some(server),
            cluster.tls_server_name.as_deref(),
            cluster.proxy_url.as_deref(),
        ]
        .map(Option::unwrap_or_default)
        .join(" ");
        Ok(Self {
            endpoint: endpoint.trim_end().to_owned(),
            text,
        })
    }

    /// The file's content.
    #[must_use]
    pub fn content(&self) -> &str {
        &self.text
    }
}

/// What of a user's credentials lies outside of the kubeconfig.
fn outside(user: &AuthInfo) -> Option<&'static str> {
    [
        (
            user.exec.is_some(),
            "exec runs a program; use token or client-certificate-data",
        ),
        (
            user.auth_provider.is_some(),
            "auth-provider runs a program; use token or client-certificate-data",
        ),
        (user.token_file.is_some(), "tokenFile is a file; use token"),
        (
            user.client_certificate.is_some(),
            "client-certificate is a file; use client-certificate-data",
        ),
        (
            user.client_key.is_some(),
            "client-key is a file; use client-key-data",
        ),
    ]
    .into_iter()
    .find_map(|(is_so, what)| is_so.then_some(what))
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A kubeconfig for `server` with further lines for its user.
    pub(crate) fn mk_kubeconfig(server: &str, user: &str) -> String {
        format!(
            "{{current-context: c, contexts: [{{name: c, context: {{cluster: k, user: u}}}}], \
             clusters: [{{name: k, cluster: {{server: '{server}'}}}}], users: [{{name: u, user: {{{user}}}}}]}}"
        )
    }

    fn mk_config(data: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let data = data
            .iter()
            .map(|(key, text)| ((*key).to_owned(), ByteString(text.as_bytes().to_vec())));
        let secret = SecretRef {
            key: Key::new("tensile-system", "a"),
            uid: "u".into(),
        };
        Config::read("a", secret, &data.collect(), false)
    }

    #[test]
    fn a_kubeconfig_alone_is_enough() {
        let config = mk_config(&[("kubeconfig", &mk_kubeconfig("https://a", "token: t"))]).unwrap();
        assert_eq!(config.nodes, [NodeConfig::new("a")]);
        assert!(
            !format!("{config:?}").contains("token"),
            "credentials stay out of logs"
        );
    }

    #[test]
    fn what_cannot_be_used_is_named_by_key_and_field_without_its_content() {
        let good = mk_kubeconfig("https://a", "token: s3cret");
        for (data, expected) in [
            (vec![], "key kubeconfig is missing"),
            (
                vec![("kubeconfig", "s3cret: [")],
                "key kubeconfig: no kubeconfig in YAML",
            ),
            (
                vec![("kubeconfig", "{}")],
                "key kubeconfig: current-context is missing",
            ),
            (
                vec![("kubeconfig", "{current-context: x}")],
                "key kubeconfig: contexts has no \"x\"",
            ),
            (
                vec![(
                    "kubeconfig",
                    &*mk_kubeconfig("https://a", "exec: {command: s3cret}"),
                )],
                "key kubeconfig: users \"u\": exec runs a program",
            ),
            (
                vec![("kubeconfig", &*mk_kubeconfig("https://a", "tokenFile: /s3cret"))],
                "key kubeconfig: users \"u\": tokenFile is a file",
            ),
            (
                vec![("kubeconfig", &*good), ("nodes.yaml", "nodes: [{}]")],
                "key nodes.yaml: nodes[0]: missing field `name`",
            ),
        ] {
            let error = mk_config(&data).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn only_credentials_may_change_under_what_runs() {
        let mk = |server: &str, user: &str, nodes: &str| {
            mk_config(&[
                ("kubeconfig", &mk_kubeconfig(server, user)),
                ("nodes.yaml", nodes),
            ])
            .unwrap()
        };
        let before = mk("https://a", "token: t", "");
        for (after, same) in [
            (mk("https://a", "token: other", ""), true),
            (mk("https://a", "token: t", "# a remark"), true),
            (mk("https://b", "token: t", ""), false),
            (
                mk("https://a", "token: t", "nodes: [{name: a, labels: {x: y}}]"),
                false,
            ),
        ] {
            assert_eq!(after.runs_like(&before), same, "{after:?}");
        }
    }
}
