//! Flags of `tensile-virtual-node`; those of tensile-kube keep their names and meaning.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use tensile_core::names;
use tensile_core::translate::namespace::Mapping;
use tensile_core::translate::service_account::ServiceAccount;
use tensile_kubelet_api::serving::KUBELET_SERVING;
use tensile_runtime::args::{CommonArgs, entries};
use tensile_runtime::clusters::{ClusterArgs, NodeConfig};

use crate::certificate::ServingCertificate;
use crate::tokens::ApiAddress;
use crate::usage::UsageSource;

/// Shows a lower cluster as a Node of the upper cluster and runs the pods bound to it there.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "tensile-virtual-node", version)]
pub struct Args {
    /// Flags that all binaries share.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Where lower clusters come from, if not from the next two flags.
    #[command(flatten)]
    pub clusters: ClusterArgs,
    /// Name of the virtual node, for one lower cluster.
    #[arg(long, env = "DEFAULTNODE_NAME", default_value = "", hide_default_value = true)]
    pub nodename: String,
    /// Kubeconfig of that lower cluster.
    #[arg(long, env = "CLIENT_KUBECONFIG")]
    pub client_kubeconfig: Option<PathBuf>,
    /// Value of the node label clusterID; the node's name if not given.
    #[arg(long, env = "CLUSTER_ID")]
    pub cluster_id: Option<String>,
    /// Address of the kubelet API.
    #[arg(long, env = "LISTEN", default_value_t = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 10250))]
    pub listen: SocketAddr,
    /// Port of the kubelet API, over that of --listen.
    #[arg(long, env = "KUBELET_PORT", hide = true)]
    pub kubelet_port: Option<u16>,
    /// Address that the Node publishes, reachable from the upper API server; that of --listen if it is one.
    #[arg(long, env = "VKUBELET_POD_IP")]
    pub node_ip: Option<IpAddr>,
    /// ExternalIP that the Node publishes.
    #[arg(long, env = "VKUBELET_EXTERNAL_POD_IP", hide = true)]
    pub external_ip: Option<IpAddr>,
    /// A further label of the Node, as key:value.
    #[arg(long, env = "VKUBELET_NODE_LABEL", value_parser = label)]
    pub node_label: Option<(String, String)>,
    /// Labels of a virtual node out of a Secret.
    #[arg(skip)]
    pub node_labels: BTreeMap<String, String>,
    /// Key of the Node's taint.
    #[arg(long, env = "VKUBELET_TAINT_KEY", default_value = names::PROVIDER_TAINT)]
    pub taint_key: String,
    /// Value of the Node's taint.
    #[arg(long, env = "VKUBELET_TAINT_VALUE", default_value = names::PROVIDER_TAINT_VALUE)]
    pub taint_value: String,
    /// Effect of the Node's taint.
    #[arg(long, env = "VKUBELET_TAINT_EFFECT", default_value = "NoSchedule",
          value_parser = ["NoSchedule", "NoExecute", "PreferNoSchedule"])]
    pub taint_effect: String,
    /// Certificate of the kubelet API (PEM); if not given, as --serving-certificate says.
    #[arg(long, env = "APISERVER_CERT_LOCATION", requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Its private key (PEM).
    #[arg(long, env = "APISERVER_KEY_LOCATION", requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
    /// Who makes the certificate of the kubelet API when no files are given.
    #[arg(long, env = "SERVING_CERTIFICATE", value_enum, default_value_t)]
    pub serving_certificate: ServingCertificate,
    /// Signer that certificates are requested from.
    #[arg(long, env = "SERVING_SIGNER", default_value = KUBELET_SERVING)]
    pub serving_signer: String,
    /// Approve our own requests for certificates, which needs the right to.
    #[arg(long, env = "APPROVE_SERVING_CERTIFICATE")]
    pub approve_serving_certificate: bool,
    /// CA of client certificates (PEM); that of the upper API server if not given.
    #[arg(long, env = "APISERVER_CA_CERT_LOCATION")]
    pub client_ca_file: Option<PathBuf>,
    /// How long open streams (exec, attach, port-forward, followed logs) may go on after a signal to end, in seconds.
    #[arg(long, env = "STREAM_DRAIN", value_parser = seconds, default_value = "30")]
    pub stream_drain: Duration,
    /// Where figures of CPU and memory come from: the lower nodes, through their API server, or its metrics API.
    #[arg(long, env = "USAGE_SOURCE", value_enum, default_value_t)]
    pub usage_source: UsageSource,
    /// Pod labels that stay in the upper cluster.
    #[arg(
        long,
        env = "IGNORE_LABELS",
        value_delimiter = ',',
        default_value = "pod-group.scheduling.sigs.k8s.io"
    )]
    pub ignore_labels: Vec<String>,
    /// Label keys that select virtual nodes, as the webhook's flag of this name.
    #[arg(long, env = "IGNORE_SELECTOR_KEYS", value_delimiter = ',', default_value = names::CLUSTER_ID)]
    pub ignore_selector_keys: Vec<String>,
    /// How long the lower cluster may be silent before the Node is not ready, in seconds.
    #[arg(long, env = "UNREACHABLE_GRACE", value_parser = seconds, default_value = "40")]
    pub unreachable_grace: Duration,
    /// Requests to the lower cluster that run at a time for pods.
    #[arg(long, env = "POD_WORKERS", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub pod_workers: u16,
    /// Where lower pods reach the upper API server, as host:port; that of --kubeconfig unless it is loopback.
    #[arg(long, env = "UPPER_API_ADDRESS")]
    pub upper_api_address: Option<ApiAddress>,
    /// Whether pods have their upper service account where neither they nor their namespace say something else.
    #[arg(long, env = "ENABLE_SERVICEACCOUNT", default_value_t = true, action = clap::ArgAction::Set,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub enable_serviceaccount: bool,
    /// Whether Services of namespaces with pods of ours are copied to the lower cluster, with their endpoints.
    #[arg(long, env = "MIRROR_SERVICES", default_value_t = true, action = clap::ArgAction::Set,
          num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub mirror_services: bool,
    /// How long a lower pod that should have ended may stay on a node that is dead before it is removed without its
    /// kubelet, in seconds; for ever if not given.
    #[arg(long, env = "FORCE_DELETE_AFTER", value_parser = seconds)]
    pub force_delete_after: Option<Duration>,
    /// Goes in front of the names of lower namespaces, with a hyphen; for several upper clusters on one lower cluster.
    #[arg(long, env = "NAMESPACE_PREFIX", value_parser = prefix)]
    pub namespace_prefix: Option<String>,
}

/// The flags contradict each other or leave something open.
#[derive(Debug, thiserror::Error)]
pub enum ArgsError {
    /// Neither one cluster nor many.
    #[error("--nodename and --client-kubeconfig are needed, or --clusters-from-secrets")]
    NoCluster,
    /// Both.
    #[error(
        "--clusters-from-secrets takes names and kubeconfigs from Secrets; leave out --nodename, --client-kubeconfig and --cluster-id"
    )]
    TwoSources,
    /// No address to publish.
    #[error("--node-ip is missing: --listen {listen} is no address that the upper API server could reach")]
    NodeIp {
        /// What `--listen` says.
        listen: SocketAddr,
    },
}

// === impl Args ===

impl Args {
    /// Checks that it is told once where lower clusters come from.
    ///
    /// # Errors
    /// When it is not, or twice.
    pub fn check(&self) -> Result<(), ArgsError> {
        let (name, kubeconfig) = (!self.nodename.is_empty(), self.client_kubeconfig.is_some());
        match self.clusters.clusters_from_secrets {
            true if name || kubeconfig || self.cluster_id.is_some() => Err(ArgsError::TwoSources),
            false if !(name && kubeconfig) => Err(ArgsError::NoCluster),
            _ => Ok(()),
        }
    }

    /// These flags for one virtual node of the lower cluster `id`.
    #[must_use]
    pub fn of_node(&self, id: &str, node: &NodeConfig, port: u16) -> Self {
        Self {
            nodename: node.name.clone(),
            cluster_id: Some(id.to_owned()),
            kubelet_port: Some(port),
            node_labels: node.labels.clone(),
            ..self.clone()
        }
    }

    /// Who sends events: the virtual node, or the process if it has several.
    #[must_use]
    pub fn recorder_instance(&self) -> String {
        if self.nodename.is_empty() {
            "clusters".to_owned()
        } else {
            self.nodename.clone()
        }
    }

    /// Where the kubelet API listens.
    #[must_use]
    pub fn listen(&self) -> SocketAddr {
        let mut listen = self.listen;
        if let Some(port) = self.kubelet_port {
            listen.set_port(port);
        }
        listen
    }

    /// The address that the Node publishes.
    ///
    /// # Errors
    /// When neither `--node-ip` nor `--listen` tells it.
    pub fn node_ip(&self) -> Result<IpAddr, ArgsError> {
        let listen = self.listen.ip();
        match self.node_ip {
            Some(ip) => Ok(ip),
            None if !listen.is_unspecified() => Ok(listen),
            None => Err(ArgsError::NodeIp { listen: self.listen }),
        }
    }

    /// The Node's taint.
    #[must_use]
    pub fn taint(&self) -> Value {
        json!({"key": self.taint_key, "value": self.taint_value, "effect": self.taint_effect})
    }

    /// Further labels of the Node.
    #[must_use]
    pub fn labels(&self) -> BTreeMap<String, String> {
        let one = self.node_label.iter().cloned();
        one.chain(self.node_labels.clone()).collect()
    }

    /// Keys that select virtual nodes.
    #[must_use]
    pub fn ignored_keys(&self) -> BTreeSet<String> {
        entries(&self.ignore_selector_keys)
    }

    /// What namespaces are called below.
    #[must_use]
    pub fn mapping(&self) -> Mapping {
        self.namespace_prefix
            .clone()
            .map_or(Mapping::SameName, Mapping::Prefix)
    }

    /// Whose service account pods get by default.
    #[must_use]
    pub fn service_account(&self) -> ServiceAccount {
        if self.enable_serviceaccount {
            ServiceAccount::Upper
        } else {
            ServiceAccount::None
        }
    }

    /// Labels that stay above.
    #[must_use]
    pub fn ignored_labels(&self) -> Vec<String> {
        entries(&self.ignore_labels)
    }
}

fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once(':') {
        Some((key, value)) if !key.trim().is_empty() && !value.contains(':') => {
            Ok((key.trim().to_owned(), value.trim().to_owned()))
        }
        _ => Err("give one label as key:value".to_owned()),
    }
}

/// Leaves room for the names behind it; a namespace's name has at most 63 characters.
fn prefix(text: &str) -> Result<String, String> {
    let is_inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let starts = text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
    if starts && text.chars().all(is_inside) && text.len() <= 30 {
        Ok(text.to_owned())
    } else {
        Err("give at most 30 lower-case letters, digits and hyphens, starting with no hyphen".to_owned())
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    text.parse()
        .map(Duration::from_secs)
        .map_err(|_| "give a whole number of seconds".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    fn mk_args(more: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(
            ["x", "--nodename", "vn", "--client-kubeconfig", "f"]
                .iter()
                .chain(more),
        )
    }

    #[test]
    fn the_published_address_is_told_by_one_of_two_flags() {
        assert!(
            mk_args(&[])
                .unwrap()
                .node_ip()
                .unwrap_err()
                .to_string()
                .contains("--node-ip")
        );
        assert_eq!(
            mk_args(&["--listen", "10.0.0.1:1"])
                .unwrap()
                .node_ip()
                .unwrap()
                .to_string(),
            "10.0.0.1"
        );
        assert_eq!(
            mk_args(&["--node-ip", "10.0.0.2"])
                .unwrap()
                .node_ip()
                .unwrap()
                .to_string(),
            "10.0.0.2"
        );
    }

    #[test]
    fn clusters_come_from_flags_or_from_secrets() {
        for (flags, works) in [
            (&["x", "--nodename", "vn", "--client-kubeconfig", "f"][..], true),
            (&["x", "--nodename", "vn"], false),
            (&["x"], false),
            (&["x", "--clusters-from-secrets"], true),
            (&["x", "--clusters-from-secrets", "--nodename", "vn"], false),
        ] {
            assert_eq!(
                Args::try_parse_from(flags).unwrap().check().is_ok(),
                works,
                "{flags:?}"
            );
        }
    }

    #[test]
    fn wrong_values_are_refused_by_flag() {
        for wrong in [
            ["--node-label", "a"],
            ["--node-label", "a:b:c"],
            ["--taint-effect", "Never"],
            ["--tls-cert-file", "only-half"],
            ["--unreachable-grace", "soon"],
            ["--stream-drain", "soon"],
            ["--namespace-prefix", "A_b"],
            ["--upper-api-address", "https://a"],
        ] {
            let error = mk_args(&wrong).unwrap_err().to_string();
            assert!(error.contains(&wrong[0][..6]), "{error}");
        }
    }

    #[test]
    fn lists_are_trimmed_and_empty_ones_are_empty() {
        let args = mk_args(&["--ignore-labels", "", "--ignore-selector-keys", "a, b"]).unwrap();
        assert!(args.ignored_labels().is_empty());
        assert_eq!(
            args.ignored_keys(),
            BTreeSet::from(["a".to_owned(), "b".to_owned()])
        );
    }
}
