//! metrics-server beside a cluster: what `kubectl top` and autoscaling ask.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    binaries, cluster::Cluster, control_plane::flag, leases::PortLease, process::Invocation,
    support::await_condition,
};

/// Its name, its namespace, and the group that it serves.
const NAME: &str = "metrics-server";
const NAMESPACE: &str = "kube-system";
const API_SERVICE: &str = "v1beta1.metrics.k8s.io";

/// How often it asks the kubelets: the shortest that it accepts.
const RESOLUTION: &str = "10s";

/// How long it waits for a kubelet; it insists on less than the resolution.
const REQUEST_TIMEOUT: &str = "8s";

/// Two scrapes, each within the resolution, and the time to start.
const DEADLINE: Duration = Duration::from_secs(120);

/// A running metrics-server; its process belongs to the cluster.
pub struct MetricsServer {
    port: PortLease,
}

// === impl Cluster ===

impl Cluster {
    /// Starts metrics-server with the rights of its released manifests. It verifies serving certificates of nodes with
    /// the cluster's CA, and shows itself with a token.
    ///
    /// # Errors
    /// The cluster is in a network namespace of its own, or the binary cannot be had.
    pub async fn start_metrics_server(&self) -> Result<MetricsServer> {
        ensure!(
            self.netns().is_none(),
            "metrics-server listens on loopback, which a cluster in a network namespace of its own does not reach"
        );
        let server = MetricsServer {
            port: PortLease::take()?,
        };
        let objects = json!({"apiVersion": "v1", "kind": "List", "items": server.objects()});
        self.apply(&objects.to_string()).await?;
        let token = self
            .kubectl(&["create", "token", "--namespace", NAMESPACE, NAME])
            .await?
            .ok()?;
        let kubeconfig = self.folder().join("metrics-server.kubeconfig");
        fs::write(&kubeconfig, self.token_kubeconfig(token.trim()).to_string())?;
        let kubeconfig = kubeconfig.display();
        let args = vec![
            flag("kubeconfig", &kubeconfig),
            flag("authentication-kubeconfig", &kubeconfig),
            flag("authorization-kubeconfig", &kubeconfig),
            flag("bind-address", "127.0.0.1"),
            flag("secure-port", server.port.port()),
            flag("cert-dir", self.folder().join(NAME).display()),
            flag("kubelet-preferred-address-types", "InternalIP"),
            "--kubelet-use-node-status-port".to_owned(),
            flag("kubelet-certificate-authority", self.client_ca_file().display()),
            flag("metric-resolution", RESOLUTION),
            flag("kubelet-request-timeout", REQUEST_TIMEOUT),
        ];
        self.launch(Invocation::new(NAME, binaries::extra(NAME).await?, args))?;
        Ok(server)
    }

    /// Waits until metrics-server has figures of a node.
    ///
    /// # Errors
    /// It has none in time.
    pub async fn await_node_metrics(&self, node: &str) -> Result<Value> {
        let path = format!("/apis/metrics.k8s.io/v1beta1/nodes/{node}");
        await_condition(&format!("figures of node {node}"), DEADLINE, || async {
            self.process(NAME)?.check_running()?;
            let text = self.kubectl(&["get", "--raw", &path]).await?.ok()?;
            Ok(Some(serde_json::from_str(&text)?))
        })
        .await
    }

    fn token_kubeconfig(&self, token: &str) -> Value {
        let server = self.endpoint.api_server_url();
        json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "c", "cluster": {"server": server, "certificate-authority": self.client_ca_file()}}],
            "users": [{"name": "u", "user": {"token": token}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "c",
        })
    }
}

// === impl MetricsServer ===

impl MetricsServer {
    /// Account, rights, and where the API server finds it. A Service cannot have an endpoint on loopback, but a name.
    fn objects(&self) -> Vec<Value> {
        let rules = json!([
            {"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]},
            {"apiGroups": [""], "resources": ["pods", "nodes"], "verbs": ["get", "list", "watch"]},
        ]);
        let mut objects = vec![
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME, "namespace": NAMESPACE}}),
            json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
                "metadata": {"name": NAME}, "rules": rules}),
            json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME, "namespace": NAMESPACE},
                "spec": {"type": "ExternalName", "externalName": "localhost"}}),
            json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService", "metadata": {"name": API_SERVICE},
                "spec": {"group": "metrics.k8s.io", "version": "v1beta1", "groupPriorityMinimum": 100,
                    "versionPriority": 100, "insecureSkipTLSVerify": true,
                    "service": {"name": NAME, "namespace": NAMESPACE, "port": self.port.port()}}}),
        ];
        objects.extend([
            binding("ClusterRoleBinding", NAME, "ClusterRole", NAME),
            binding(
                "ClusterRoleBinding",
                "metrics-server:system:auth-delegator",
                "ClusterRole",
                "system:auth-delegator",
            ),
            binding(
                "RoleBinding",
                "metrics-server-auth-reader",
                "Role",
                "extension-apiserver-authentication-reader",
            ),
        ]);
        objects
    }
}

fn binding(kind: &str, name: &str, role_kind: &str, role: &str) -> Value {
    let mut binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": {"name": name},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role_kind, "name": role},
        "subjects": [{"kind": "ServiceAccount", "name": NAME, "namespace": NAMESPACE}],
    });
    if kind == "RoleBinding" {
        binding["metadata"]["namespace"] = NAMESPACE.into();
    }
    binding
}
