//! The command lines of a control plane's components.

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Result;
use serde_json::{Value, json};

use crate::{
    binaries::Binaries,
    leases::PortLease,
    pki::Pki,
    process::Invocation,
    real::{Attachment, Fabric},
    run::Folder,
    spec::{ClusterSpec, Place},
};

/// Requests per second and burst of controller-manager and scheduler: far above their defaults (20 and 50), so that
/// a benchmark measures the machine and not a client's own limit.
const CLIENT_QPS: u32 = 1000;
const CLIENT_BURST: u32 = 2000;

/// The autoscaler of a test must not take the minutes that it takes by default.
const AUTOSCALING: [(&str, &str); 4] = [
    ("horizontal-pod-autoscaler-sync-period", "3s"),
    ("horizontal-pod-autoscaler-downscale-stabilization", "6s"),
    ("horizontal-pod-autoscaler-initial-readiness-delay", "5s"),
    ("horizontal-pod-autoscaler-cpu-initialization-period", "5s"),
];

/// The Services of every cluster.
const SERVICE_RANGE: &str = "10.96.0.0/16";

/// Where the control plane listens.
pub(crate) struct Endpoint {
    pub(crate) address: IpAddr,
    pub(crate) api_server: u16,
    pub(crate) etcd_client: u16,
    etcd_peer: u16,
    /// The network namespace of all processes; the caller's when not set.
    pub(crate) attachment: Option<Attachment>,
    /// Keeps the root namespace's address, when that is where the control plane listens.
    _fabric: Option<Arc<Fabric>>,
    /// Ports of the root namespace are shared with the machine; in a namespace of our own every port is free.
    _leases: Vec<PortLease>,
}

/// All that the command lines are made from.
pub(crate) struct Plan<'a> {
    pub(crate) spec: &'a ClusterSpec,
    pub(crate) binaries: &'a Binaries,
    pub(crate) endpoint: &'a Endpoint,
    pub(crate) pki: &'a Pki,
    pub(crate) folder: &'a Path,
    pub(crate) kubeconfig: &'a Path,
}

// === impl Endpoint ===

impl Endpoint {
    /// Makes the place that a cluster wants; what outlives this process is registered in its folder.
    pub(crate) async fn create(place: Place, folder: &Folder) -> Result<Self> {
        match place {
            Place::Loopback => Self::with_leased_ports(IpAddr::from([127, 0, 0, 1]), None),
            Place::Fabric => {
                let fabric = Fabric::obtain().await?;
                Self::with_leased_ports(fabric.root(), Some(fabric))
            }
            Place::Namespace => {
                let attachment = Fabric::obtain().await?.attach(folder).await?;
                let address = attachment.address();
                let attachment = Some(attachment);
                let (api_server, etcd_client, etcd_peer) = (6443, 2379, 2380);
                Ok(Self {
                    address,
                    api_server,
                    etcd_client,
                    etcd_peer,
                    attachment,
                    _fabric: None,
                    _leases: Vec::new(),
                })
            }
        }
    }

    fn with_leased_ports(address: IpAddr, fabric: Option<Arc<Fabric>>) -> Result<Self> {
        let leases = (0..3).map(|_| PortLease::take()).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            address,
            api_server: leases[0].port(),
            etcd_client: leases[1].port(),
            etcd_peer: leases[2].port(),
            attachment: None,
            _fabric: fabric,
            _leases: leases,
        })
    }

    /// The name of the network namespace of all processes, when it is not the caller's.
    pub(crate) fn netns(&self) -> Option<String> {
        self.attachment.as_ref().map(Attachment::namespace)
    }

    pub(crate) fn api_server_url(&self) -> String {
        format!("https://{}:{}", self.address, self.api_server)
    }

    fn etcd_client_url(&self) -> String {
        format!("http://{}:{}", self.address, self.etcd_client)
    }

    fn etcd_peer_url(&self) -> String {
        format!("http://{}:{}", self.address, self.etcd_peer)
    }
}

// === impl Plan ===

impl Plan<'_> {
    pub(crate) fn etcd(&self) -> Invocation {
        let (client, peer) = (self.endpoint.etcd_client_url(), self.endpoint.etcd_peer_url());
        self.invocation(
            "etcd",
            vec![
                flag("data-dir", self.folder.join("etcd").display()),
                // The data dies with the test, so a crash of the machine need not be survived.
                "--unsafe-no-fsync".to_owned(),
                flag("listen-client-urls", &client),
                flag("advertise-client-urls", &client),
                flag("listen-peer-urls", &peer),
                flag("initial-advertise-peer-urls", &peer),
                flag("initial-cluster", format!("default={peer}")),
                flag("log-level", "warn"),
            ],
        )
    }

    pub(crate) fn api_server(&self) -> Result<Invocation> {
        let issuer = "https://kubernetes.default.svc";
        let mut args = vec![
            flag("etcd-servers", self.endpoint.etcd_client_url()),
            flag("bind-address", self.endpoint.address),
            flag("secure-port", self.endpoint.api_server),
            flag("advertise-address", self.endpoint.address),
            flag("tls-cert-file", self.pem("apiserver.crt")),
            flag("tls-private-key-file", self.pem("apiserver.key")),
            flag("client-ca-file", self.pem("ca.crt")),
            flag("service-account-issuer", issuer),
            flag("api-audiences", issuer),
            flag("service-account-key-file", self.pem("sa.pub")),
            flag("service-account-signing-key-file", self.pem("sa.key")),
            flag("service-cluster-ip-range", SERVICE_RANGE),
            flag("authorization-mode", "Node,RBAC"),
            flag("enable-admission-plugins", "NodeRestriction"),
            flag("allow-privileged", true),
            flag("kubelet-client-certificate", self.pem("kubelet-client.crt")),
            flag("kubelet-client-key", self.pem("kubelet-client.key")),
            flag("kubelet-preferred-address-types", "InternalIP"),
            flag("proxy-client-cert-file", self.pem("front-proxy-client.crt")),
            flag("proxy-client-key-file", self.pem("front-proxy-client.key")),
            flag("requestheader-client-ca-file", self.pem("front-proxy-ca.crt")),
            flag("requestheader-allowed-names", "front-proxy-client"),
            flag("requestheader-username-headers", "X-Remote-User"),
            flag("requestheader-group-headers", "X-Remote-Group"),
            flag("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
        ];
        if self.endpoint.address.is_loopback() {
            // The Service `kubernetes` cannot have an endpoint on loopback.
            args.push(flag("endpoint-reconciler-type", "none"));
        }
        if self.spec.verify_kubelets {
            args.push(flag("kubelet-certificate-authority", self.pem("ca.crt")));
        }
        if self.spec.audit_log {
            let policy = self.write_json("audit-policy.json", &audit_policy())?;
            args.push(flag("audit-policy-file", policy.display()));
            args.push(flag("audit-log-path", audit_log(self.folder).display()));
        }
        args.extend(self.spec.api_server_args.iter().cloned());
        Ok(self.invocation("kube-apiserver", args))
    }

    pub(crate) fn controller_manager(&self) -> Invocation {
        let mut args = vec![
            flag("kubeconfig", self.kubeconfig.display()),
            flag("leader-elect", false),
            flag("secure-port", 0),
            flag("service-account-private-key-file", self.pem("sa.key")),
            flag("root-ca-file", self.pem("ca.crt")),
            flag("cluster-signing-cert-file", self.pem("ca.crt")),
            flag("cluster-signing-key-file", self.pem("ca.key")),
            flag("kube-api-qps", CLIENT_QPS),
            flag("kube-api-burst", CLIENT_BURST),
        ];
        // What needs a metrics server or a cloud is left out.
        let mut controllers = "*,-persistentvolume-attach-detach-controller".to_owned();
        if self.spec.autoscaling {
            args.extend(AUTOSCALING.map(|(name, value)| flag(name, value)));
        } else {
            controllers.push_str(",-horizontal-pod-autoscaler-controller");
        }
        args.push(flag("controllers", controllers));
        args.extend(self.spec.controller_manager_args.iter().cloned());
        self.invocation("kube-controller-manager", args)
    }

    pub(crate) fn scheduler(&self) -> Result<Invocation> {
        let config = scheduler_config(&self.spec.scheduler_config, self.kubeconfig);
        let config = self.write_json("scheduler.json", &config)?;
        Ok(self.invocation(
            "kube-scheduler",
            vec![flag("config", config.display()), flag("secure-port", 0)],
        ))
    }

    fn invocation(&self, name: &str, args: Vec<String>) -> Invocation {
        let mut invocation = Invocation::new(name, self.binaries.path(name), args);
        invocation.netns = self.endpoint.netns();
        invocation
    }

    fn pem(&self, file: &str) -> String {
        self.pki.path(file).display().to_string()
    }

    fn write_json(&self, file: &str, value: &Value) -> Result<PathBuf> {
        let path = self.folder.join(file);
        fs::write(&path, value.to_string())?;
        Ok(path)
    }
}

/// `--name=value`.
pub(crate) fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}

/// Where the API server of the cluster in `folder` writes its audit log.
pub(crate) fn audit_log(folder: &Path) -> PathBuf {
    folder.join("logs").join("audit.log")
}

fn audit_policy() -> Value {
    json!({
        "apiVersion": "audit.k8s.io/v1",
        "kind": "Policy",
        "omitStages": ["RequestReceived"],
        "rules": [{"level": "Metadata"}],
    })
}

/// The caller's fields, completed by those that the harness decides.
fn scheduler_config(fields: &Value, kubeconfig: &Path) -> Value {
    let mut config = json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "leaderElection": {"leaderElect": false},
        "clientConnection": {"kubeconfig": kubeconfig, "qps": CLIENT_QPS, "burst": CLIENT_BURST},
    });
    for (name, value) in fields.as_object().into_iter().flatten() {
        config[name] = value.clone();
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scheduler_config_keeps_the_callers_fields_and_gets_a_client() {
        let config = scheduler_config(
            &json!({"profiles": [{"schedulerName": "x"}]}),
            Path::new("/admin"),
        );
        assert_eq!(config["profiles"][0]["schedulerName"], "x");
        assert_eq!(config["clientConnection"]["kubeconfig"], "/admin");
        assert_eq!(config["leaderElection"]["leaderElect"], false);
    }
}
