//! What all lower clusters of one process share.

use tensile_core::translate::pod::Policy;
use tensile_runtime::cluster::{self, Cluster};
use tensile_runtime::lease::process_identity;
use tensile_runtime::recorder::Recorder;

use crate::args::Args;
use crate::context::Settings;
use crate::node::{AllDown, Identity};
use crate::pools::Pool;
use crate::registries::Registries;
use crate::tokens::ApiAddress;

/// The upper cluster, and how this process works.
pub struct Process {
    /// Its flags.
    pub args: Args,
    /// Address that its virtual nodes publish.
    pub node_ip: String,
    /// The upper cluster.
    pub upper: Cluster,
    /// Who that is.
    pub upper_id: cluster::Identity,
    /// Events on upper pods.
    pub recorder: Recorder,
    /// Differs between processes, also between two on one host.
    pub identity: String,
    /// Metrics of the virtual nodes.
    pub registries: Registries,
    /// Whether every lower cluster seems dead, so that it is rather we who are cut off.
    pub all_down: AllDown,
    /// Where lower pods reach the upper API server.
    pub upper_api: Option<ApiAddress>,
}

// === impl Process ===

impl Process {
    /// Opens the upper cluster.
    ///
    /// # Errors
    /// When a flag is wrong or the upper cluster does not answer.
    pub async fn open(args: Args) -> anyhow::Result<Self> {
        let node_ip = args.node_ip()?.to_string();
        let upper = Cluster::open_upper(args.common.kubeconfig.as_deref()).await?;
        let upper_id = upper.identity().await?;
        let identity = process_identity();
        Ok(Self {
            recorder: Recorder::spawn(
                upper.client.clone(),
                "tensile-virtual-node",
                &args.recorder_instance(),
            ),
            upper_api: upper_api(&args, &upper),
            node_ip,
            upper,
            upper_id,
            identity,
            registries: Registries::default(),
            all_down: AllDown::default(),
            args,
        })
    }

    /// What a Node says of itself; `args` are those of its virtual node.
    #[must_use]
    pub fn node(&self, args: &Args, taints: Option<&Vec<serde_json::Value>>, version: &str) -> Identity {
        Identity {
            name: args.nodename.clone(),
            cluster_id: args.cluster_id.clone().unwrap_or_else(|| args.nodename.clone()),
            ip: self.node_ip.clone(),
            external_ip: args.external_ip.map(|ip| ip.to_string()),
            port: args.listen().port(),
            labels: args.labels(),
            taints: taints.cloned().unwrap_or_else(|| vec![args.taint()]),
            namespace_prefix: args.namespace_prefix.clone(),
            version: version.to_owned(),
            upper_minor: self.upper_id.minor,
        }
    }

    /// What does not change while a virtual node runs.
    #[must_use]
    pub fn settings(&self, args: &Args, node: &Identity, pool: Pool) -> Settings {
        Settings {
            node_name: args.nodename.clone(),
            origin_cluster: self.upper_id.uid.clone(),
            node_ip: self.node_ip.clone(),
            node_labels: node.labels(),
            ignored_keys: args.ignored_keys(),
            ignore_labels: args.ignored_labels(),
            policy: Policy::default(),
            pool,
            mapping: args.mapping(),
            mirror_services: args.mirror_services,
            service_account: args.service_account(),
            upper_api: self.upper_api.clone(),
            force_delete_after: args.force_delete_after,
        }
    }
}

/// Where lower pods reach the upper API server. In a pod, our own way to it is an address inside the upper cluster.
fn upper_api(args: &Args, upper: &Cluster) -> Option<ApiAddress> {
    let from_kubeconfig = args
        .common
        .kubeconfig
        .as_ref()
        .and_then(|_| ApiAddress::of(&upper.server));
    let address = args.upper_api_address.clone().or(from_kubeconfig);
    if address.is_none() {
        tracing::warn!(
            "--upper-api-address is missing: programs in lower pods get tokens, but look for the API server in the \
             lower cluster"
        );
    }
    address
}
