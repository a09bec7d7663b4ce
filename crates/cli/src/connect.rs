//! Connections to the upper cluster, as kubectl makes them, and to lower ones from their kubeconfigs.

use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Namespace;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config};
use serde::Serialize;
use tensile_core::names;

use crate::args::UpperArgs;
use crate::error::{CliError, reason};

/// How long an API server may take to answer a person who waits.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The upper cluster.
#[derive(Clone)]
pub(crate) struct Upper {
    pub(crate) client: Client,
    /// Namespace of Tensile's own objects.
    pub(crate) namespace: String,
}

/// What a cluster says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Identity {
    /// UID of the kube-system namespace: what makes a cluster that cluster.
    pub(crate) uid: String,
    /// `gitVersion`, such as `v1.36.3`.
    pub(crate) version: String,
}

// === impl Upper ===

impl Upper {
    pub(crate) async fn connect(args: &UpperArgs) -> Result<Self, CliError> {
        let config = match (&args.kubeconfig, &args.context) {
            // As kubectl: the usual file, else the service account of the pod that we run in.
            (None, None) => Config::infer()
                .await
                .map_err(|error| CliError::Kubeconfig(error.to_string()))?,
            (path, context) => config(read(path.as_deref())?, context.as_deref()).await?,
        };
        Ok(Self {
            client: client_of(config)?,
            namespace: args.system_namespace.clone(),
        })
    }
}

/// Reads a kubeconfig, without a path what kubectl would take.
pub(crate) fn read(path: Option<&Path>) -> Result<Kubeconfig, CliError> {
    let read = path.map_or_else(Kubeconfig::read, Kubeconfig::read_from);
    read.map_err(|error| CliError::Kubeconfig(error.to_string()))
}

/// A client for one context of a kubeconfig. Nothing is sent yet.
pub(crate) async fn client(kubeconfig: Kubeconfig, context: Option<&str>) -> Result<Client, CliError> {
    client_of(config(kubeconfig, context).await?)
}

async fn config(kubeconfig: Kubeconfig, context: Option<&str>) -> Result<Config, CliError> {
    let options = KubeConfigOptions {
        context: context.map(str::to_owned),
        ..KubeConfigOptions::default()
    };
    Config::from_custom_kubeconfig(kubeconfig, &options)
        .await
        .map_err(|error| CliError::Kubeconfig(error.to_string()))
}

fn client_of(mut config: Config) -> Result<Client, CliError> {
    config.connect_timeout = Some(TIMEOUT);
    config.read_timeout = Some(TIMEOUT);
    // kube would send even a POST again.
    config.default_retry = false;
    Client::try_from(config).map_err(|error| CliError::Kubeconfig(error.to_string()))
}

/// Asks a cluster who it is; the error is what a person reads.
pub(crate) async fn identify(client: &Client) -> Result<Identity, String> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let (system, version) = tokio::try_join!(namespaces.get(names::KUBE_SYSTEM), client.apiserver_version())
        .map_err(|error| reason(&error))?;
    Ok(Identity {
        uid: system.metadata.uid.unwrap_or_default(),
        version: version.git_version,
    })
}
