//! Flags that all four binaries share.

use std::net::SocketAddr;
use std::path::PathBuf;

use tensile_core::names;

use crate::telemetry::{self, LogFormat, TelemetryError};

/// The common flags; each is also an environment variable.
#[derive(Clone, Debug, clap::Args)]
pub struct CommonArgs {
    /// Kubeconfig of the upper cluster; without it, the service account of the pod that we run in.
    #[arg(long, env = "KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Address of /metrics, /livez and /readyz.
    #[arg(long, env = "ADMIN_LISTEN", default_value = "0.0.0.0:9090")]
    pub admin_listen: SocketAddr,
    /// How log lines look.
    #[arg(long, env = "LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// What is logged: error, warn, info, debug, trace, or target=level,…
    #[arg(long, env = "LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    /// Namespace of Tensile's own objects.
    #[arg(long, env = "SYSTEM_NAMESPACE", default_value = names::SYSTEM_NAMESPACE)]
    pub system_namespace: String,
}

/// The entries of a flag that is a list, without empty ones and the spaces around them.
pub fn entries<C: FromIterator<String>>(list: &[String]) -> C {
    list.iter()
        .map(|entry| entry.trim().to_owned())
        .filter(|entry| !entry.is_empty())
        .collect()
}

// === impl CommonArgs ===

impl CommonArgs {
    /// Starts logging and the TLS library, once per process.
    ///
    /// # Errors
    /// When the log level cannot be parsed.
    pub fn init_process(&self) -> Result<(), TelemetryError> {
        let _already_installed = rustls::crypto::aws_lc_rs::default_provider().install_default();
        telemetry::init(self.log_format, &self.log_level)
    }
}
