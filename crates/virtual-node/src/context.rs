//! What one virtual node is, for all that work for it.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;

use tensile_core::translate::namespace::Mapping;
use tensile_core::translate::pod::Policy;
use tensile_core::translate::service_account::ServiceAccount;
use tensile_runtime::recorder::Recorder;

use crate::metrics::Metrics;
use crate::pools::Pool;
use crate::shared::Shared;
use crate::tokens::ApiAddress;

/// Clients, names and settings of one virtual node.
#[derive(Clone)]
pub struct Context {
    /// The upper cluster.
    pub upper: Client,
    /// The lower cluster.
    pub lower: Client,
    /// The indices and queues.
    pub shared: Arc<Shared>,
    /// Events on upper pods.
    pub recorder: Recorder,
    /// Counters.
    pub metrics: Metrics,
    /// What does not change.
    pub settings: Arc<Settings>,
}

/// What does not change while a virtual node runs.
#[derive(Debug)]
pub struct Settings {
    /// Its name.
    pub node_name: String,
    /// UID of the upper cluster's kube-system namespace.
    pub origin_cluster: String,
    /// Address that it publishes.
    pub node_ip: String,
    /// Labels that resolve the ignored keys of a stash.
    pub node_labels: BTreeMap<String, String>,
    /// Keys that select virtual nodes.
    pub ignored_keys: BTreeSet<String>,
    /// Labels of pods that stay above.
    pub ignore_labels: Vec<String>,
    /// What the lower cluster allows.
    pub policy: Policy,
    /// The lower nodes that it stands for.
    pub pool: Pool,
    /// What its namespaces are called below.
    pub mapping: Mapping,
    /// Whether Services of upper namespaces with pods of ours are copied.
    pub mirror_services: bool,
    /// Whose service account pods get that say nothing, and whose namespace says nothing.
    pub service_account: ServiceAccount,
    /// Where lower pods reach the upper API server, if that is known.
    pub upper_api: Option<ApiAddress>,
    /// How long a lower pod may be overdue on a dead node before it is removed without its kubelet; for ever if `None`.
    pub force_delete_after: Option<Duration>,
}

// === impl Settings ===

impl Settings {
    /// What the upper namespace is called below.
    #[must_use]
    pub fn below<'a>(&self, namespace: &'a str) -> Cow<'a, str> {
        self.mapping.lower(namespace)
    }
}
