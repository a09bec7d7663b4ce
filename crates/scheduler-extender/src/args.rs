//! Command line of `tensile-scheduler-extender`.

use std::net::SocketAddr;
use std::path::PathBuf;

use tensile_core::names;
use tensile_runtime::args::{CommonArgs, entries};

use tensile_world::source::SourceArgs;
use tensile_world::{Settings, Strategy, UnknownPolicy};

/// Answers kube-scheduler from exact snapshots of all lower clusters.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "tensile-scheduler-extender", version)]
pub struct Args {
    /// Flags that all components share.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Address to serve POST /scheduler/{filter,prioritize,preempt,bind} on; without a certificate this must be a
    /// loopback address.
    #[arg(long, env = "LISTEN", default_value = "127.0.0.1:9444")]
    pub listen: SocketAddr,
    /// Certificate chain, PEM, leaf first.
    #[arg(long, env = "TLS_CERT_FILE", requires = "tls_private_key_file")]
    pub tls_cert_file: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, env = "TLS_PRIVATE_KEY_FILE", requires = "tls_cert_file")]
    pub tls_private_key_file: Option<PathBuf>,
    /// Where the lower clusters are told.
    #[command(flatten)]
    pub clusters: SourceArgs,
    /// What a cluster that cannot be judged means: nothing is placed there, or the node's own status decides.
    #[arg(long, env = "UNKNOWN", value_enum, default_value = "exclude")]
    pub unknown: UnknownPolicy,
    /// Which of the nodes that fit are preferred.
    #[arg(long, env = "STRATEGY", value_enum, default_value = "least-stranded")]
    pub strategy: Strategy,
    /// Label keys that only virtual nodes have, separated by commas; as the webhook's flag.
    #[arg(long, env = "IGNORE_SELECTOR_KEYS", value_delimiter = ',', default_value = names::CLUSTER_ID)]
    pub ignore_selector_keys: Vec<String>,
}

// === impl Args ===

impl Args {
    /// The decisions among the flags.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings {
            unknown: self.unknown,
            strategy: self.strategy,
            ignored_keys: entries(&self.ignore_selector_keys),
        }
    }
}
