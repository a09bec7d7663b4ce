//! What a cluster shall be like.

use serde_json::Value;

/// Environment variable: ends of the names of clusters whose control plane is of an older minor, separated by commas,
/// such as `-lower`.
const OLDER_VARIABLE: &str = "TENSILE_OLDER";

/// A cluster to start: by default a whole control plane on loopback, without nodes.
#[derive(Clone, Debug)]
pub struct ClusterSpec {
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) scheduler: bool,
    pub(crate) scheduler_config: Value,
    pub(crate) controller_manager: bool,
    pub(crate) audit_log: bool,
    pub(crate) verify_kubelets: bool,
    pub(crate) autoscaling: bool,
    pub(crate) api_server_args: Vec<String>,
    pub(crate) controller_manager_args: Vec<String>,
}

/// Where a cluster listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Loopback: only this machine's root namespace reaches it.
    Loopback,
    /// The root namespace's address on the fabric: pods of real nodes reach it too.
    Fabric,
    /// A network namespace of its own, with a real node in it.
    Namespace,
}

// === impl ClusterSpec ===

impl ClusterSpec {
    /// A cluster with a name, which also names its folder and its nodes.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            place: Place::Loopback,
            scheduler: true,
            scheduler_config: Value::Null,
            controller_manager: true,
            audit_log: false,
            verify_kubelets: false,
            autoscaling: false,
            api_server_args: Vec::new(),
            controller_manager_args: Vec::new(),
        }
    }

    /// Runs the whole cluster in a network namespace of its own, with one real node: containerd, kubelet, kube-proxy.
    #[must_use]
    pub fn with_real_node(mut self) -> Self {
        self.place = Place::Namespace;
        self
    }

    /// Listens where the pods of real nodes reach the API server, which loopback is not. Needs root.
    #[must_use]
    pub fn reachable_from_pods(mut self) -> Self {
        self.place = Place::Fabric;
        self
    }

    /// Starts no kube-scheduler: pods stay pending until something else binds them.
    #[must_use]
    pub fn without_scheduler(mut self) -> Self {
        self.scheduler = false;
        self
    }

    /// Fields of a `KubeSchedulerConfiguration`, such as `profiles` and `extenders`.
    #[must_use]
    pub fn scheduler_config(mut self, config: Value) -> Self {
        self.scheduler_config = config;
        self
    }

    /// Starts no kube-controller-manager: no namespace or owner is ever cleaned up, and pods that want a service
    /// account are refused.
    #[must_use]
    pub fn without_controller_manager(mut self) -> Self {
        self.controller_manager = false;
        self
    }

    /// Writes an audit log (level Metadata) to [`crate::Cluster::audit_log`].
    #[must_use]
    pub fn with_audit_log(mut self) -> Self {
        self.audit_log = true;
        self
    }

    /// Lets the API server verify the serving certificates of kubelets and virtual nodes with the cluster's CA.
    #[must_use]
    pub fn verify_kubelets(mut self) -> Self {
        self.verify_kubelets = true;
        self
    }

    /// Scales workloads by their usage, within seconds instead of minutes; needs [`crate::MetricsServer`].
    #[must_use]
    pub fn with_autoscaling(mut self) -> Self {
        self.autoscaling = true;
        self
    }

    /// Whether [`OLDER_VARIABLE`] names it.
    pub(crate) fn is_older(&self) -> bool {
        let ends = std::env::var(OLDER_VARIABLE).unwrap_or_default();
        is_named(&self.name, &ends)
    }

    /// Adds arguments of kube-apiserver.
    #[must_use]
    pub fn api_server_args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.api_server_args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Adds arguments of kube-controller-manager.
    #[must_use]
    pub fn controller_manager_args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.controller_manager_args
            .extend(args.into_iter().map(Into::into));
        self
    }
}

fn is_named(name: &str, ends: &str) -> bool {
    ends.split(',').any(|end| !end.is_empty() && name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_are_named_by_the_ends_of_their_names() {
        let cases = [
            ("", false),
            ("-lower", true),
            ("-upper", false),
            ("-upper,-lower", true),
            (",", false),
        ];
        for (ends, expected) in cases {
            assert_eq!(is_named("logs-lower", ends), expected, "{ends}");
        }
    }
}
