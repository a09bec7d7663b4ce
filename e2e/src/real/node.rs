//! One real node: containerd, kubelet and kube-proxy, side by side with others on one machine.
//!
//! What a kubelet changes for the whole machine stays changed: the kernel options `vm.overcommit_memory`,
//! `kernel.panic` and `kernel.panic_on_oops`, as on any Kubernetes node.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::{
    availability::cni_folder,
    images::{self, PAUSE_IMAGE},
    shell::run,
};
use crate::{cluster::Cluster, control_plane::flag, process::Invocation, real::Attachment};

/// How long a node may take to become Ready; seven seconds are usual on a quiet machine.
const NODE_DEADLINE: Duration = Duration::from_secs(120);

/// A node's files and settings, before and while it runs.
pub(crate) struct RealNode<'a> {
    cluster: &'a Cluster,
    attachment: &'a Attachment,
    name: String,
    folder: PathBuf,
}

// === impl RealNode ===

impl<'a> RealNode<'a> {
    pub(crate) fn new(cluster: &'a Cluster, attachment: &'a Attachment) -> Self {
        let name = format!("{}-0", cluster.name());
        Self {
            cluster,
            attachment,
            name,
            folder: cluster.folder().to_owned(),
        }
    }

    /// Starts containerd and gives it the images; the API server is not needed yet.
    pub(crate) async fn start_runtime(&self) -> Result<()> {
        self.create_cgroups()?;
        fs::create_dir_all(self.folder.join("cni"))?;
        fs::write(
            self.folder.join("cni/10-bridge.conflist"),
            self.cni_config().to_string(),
        )?;
        let config = self.folder.join("containerd.toml");
        fs::write(
            &config,
            self.containerd_config(cni_folder()?, snapshotter(&self.folder).await?),
        )?;
        let args = vec!["--config".to_owned(), config.display().to_string()];
        self.launch("containerd", "containerd".into(), args)?;
        let image_folder = self.folder.join("images");
        let ready = self
            .cluster
            .await_component("containerd", || async { self.ctr(&["version"]).await });
        let (archives, ()) = tokio::try_join!(images::build(&image_folder), ready)?;
        for archive in archives {
            self.ctr(&[
                "--namespace",
                "k8s.io",
                "images",
                "import",
                &archive.display().to_string(),
            ])
            .await?;
        }
        Ok(())
    }

    /// Starts kubelet and kube-proxy and waits until the node is Ready.
    pub(crate) async fn start_kubelet(&self) -> Result<()> {
        let user = format!("system:node:{}", self.name);
        let kubeconfig = self.cluster.kubeconfig_for(&user, &["system:nodes"])?;
        let config = self.write_json("kubelet.json", &self.kubelet_config()?)?;
        let kubelet = vec![
            flag("config", config.display()),
            flag("kubeconfig", kubeconfig.display()),
            flag("root-dir", self.folder.join("kubelet").display()),
            flag("cert-dir", self.folder.join("pki").display()),
            flag("hostname-override", &self.name),
            flag("node-ip", self.attachment.address()),
        ];
        self.launch("kubelet", self.cluster.binaries.path("kubelet"), kubelet)?;
        let config = self.write_json("kube-proxy.json", &self.kube_proxy_config()?)?;
        self.launch(
            "kube-proxy",
            self.cluster.binaries.path("kube-proxy"),
            vec![flag("config", config.display())],
        )?;
        let ready = self
            .cluster
            .await_nodes(std::slice::from_ref(&self.name), NODE_DEADLINE)
            .await;
        let kubelet = self.cluster.process("kubelet")?;
        ready.with_context(|| format!("the end of the kubelet's log:\n{}", kubelet.log_tail()))
    }

    fn launch(&self, name: &str, program: PathBuf, args: Vec<String>) -> Result<()> {
        let mut invocation = Invocation::new(name, program, args);
        invocation.netns = Some(self.attachment.namespace());
        self.cluster.launch(invocation)
    }

    async fn ctr(&self, args: &[&str]) -> Result<()> {
        let socket = self.socket().display().to_string();
        run(
            "ctr",
            ["--address", &socket].into_iter().chain(args.iter().copied()),
        )
        .await
        .map(drop)
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("containerd.sock")
    }

    fn write_json(&self, file: &str, value: &Value) -> Result<PathBuf> {
        let path = self.folder.join(file);
        fs::write(&path, value.to_string())?;
        Ok(path)
    }

    /// Makes the cgroup of all pods in every hierarchy, since the kubelet wants to find it.
    fn create_cgroups(&self) -> Result<()> {
        let name = self.attachment.cgroup();
        self.cluster.register(&format!("cgroup {name}"))?;
        for hierarchy in cgroup_hierarchies()? {
            let cgroup = hierarchy.join(&name);
            fs::create_dir_all(&cgroup).with_context(|| format!("cannot create {}", cgroup.display()))?;
            // A new cpuset of cgroup v1 is empty, and takes no process until it has cores and memory.
            for file in ["cpuset.mems", "cpuset.cpus"]
                .map(Path::new)
                .iter()
                .filter(|file| cgroup.join(file).exists())
            {
                fs::write(
                    cgroup.join(file),
                    fs::read(hierarchy.join(file)).unwrap_or_default(),
                )?;
            }
        }
        Ok(())
    }

    fn cni_config(&self) -> Value {
        json!({
            "cniVersion": "0.4.0",
            "name": self.attachment.namespace(),
            "plugins": [
                {
                    "type": "bridge",
                    "bridge": "cni0",
                    "isDefaultGateway": true,
                    "hairpinMode": true,
                    "ipam": {
                        "type": "host-local",
                        "ranges": [[{"subnet": self.attachment.pod_network()}]],
                        "dataDir": self.folder.join("cni-addresses"),
                    },
                },
                {"type": "portmap", "capabilities": {"portMappings": true}},
            ],
        })
    }

    /// All of containerd's files lie in the cluster's folder, so that several run on one machine.
    fn containerd_config(&self, cni: &Path, snapshotter: &str) -> String {
        let folder = self.folder.display();
        let socket = self.socket();
        let (socket, cni) = (socket.display(), cni.display());
        format!(
            r#"version = 2
root = "{folder}/containerd"
state = "{folder}/containerd-state"

[grpc]
address = "{socket}"

[plugins."io.containerd.internal.v1.opt"]
path = "{folder}/containerd-opt"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
# Without CAP_SYS_RESOURCE a lower score than our own cannot be set, and no container would start.
restrict_oom_score_adj = true
# The namespaces of pods are then unmounted with the folder.
netns_mounts_under_state_dir = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{cni}"
conf_dir = "{folder}/cni"

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "{snapshotter}"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
Root = "{folder}/runc"
"#
        )
    }

    fn kubelet_config(&self) -> Result<Value> {
        let address = self.attachment.address().to_string();
        let (certificate, key) = self
            .cluster
            .serving_certificate("kubelet", &[&address, &self.name])?;
        let resolv_conf = self.folder.join("resolv.conf");
        fs::write(&resolv_conf, "")?;
        Ok(json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": address,
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": true},
                "x509": {"clientCAFile": self.cluster.client_ca_file()},
            },
            "authorization": {"mode": "Webhook"},
            "tlsCertFile": certificate,
            "tlsPrivateKeyFile": key,
            "containerRuntimeEndpoint": format!("unix://{}", self.socket().display()),
            "podLogsDir": self.folder.join("pod-logs"),
            "volumePluginDir": self.folder.join("volume-plugins"),
            "resolvConf": resolv_conf,
            "clusterDNS": ["10.96.0.10"],
            "clusterDomain": "cluster.local",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": format!("/{}", self.attachment.cgroup()),
            "enforceNodeAllocatable": [],
            "failSwapOn": false,
            "failCgroupV1": false,
            "oomScoreAdj": 0,
            // The disk belongs to the machine: a test neither evicts pods nor deletes images because it is full.
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "imageGCHighThresholdPercent": 100,
        }))
    }

    fn kube_proxy_config(&self) -> Result<Value> {
        let kubeconfig = self
            .cluster
            .kubeconfig_for("system:kube-proxy", &["system:node-proxier"])?;
        Ok(json!({
            "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
            "kind": "KubeProxyConfiguration",
            "mode": "nftables",
            "clientConnection": {"kubeconfig": kubeconfig},
            "hostnameOverride": self.name,
            "clusterCIDR": self.attachment.pod_network(),
            // The size of the connection table belongs to the machine.
            "conntrack": {"maxPerCore": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
            "oomScoreAdj": 0,
        }))
    }
}

/// Overlays cannot be stacked on an overlay, which is what the folder lies on inside a container.
async fn snapshotter(folder: &Path) -> Result<&'static str> {
    let kind = run(
        "stat",
        [
            "--file-system".as_ref(),
            "--format=%T".as_ref(),
            folder.as_os_str(),
        ],
    )
    .await?;
    Ok(if kind.trim() == "overlayfs" {
        "native"
    } else {
        "overlayfs"
    })
}

/// The mount points of all cgroup hierarchies: several with cgroup v1, one with v2.
fn cgroup_hierarchies() -> Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    match parse_cgroup_mounts(&mounts) {
        found if found.is_empty() => bail!("no cgroup hierarchy is mounted; real nodes need them"),
        found => Ok(found),
    }
}

/// With v1 hierarchies mounted, a v2 mount beside them is systemd's own and has no controllers.
fn parse_cgroup_mounts(mounts: &str) -> Vec<PathBuf> {
    let of_kind = |wanted: &str| -> Vec<PathBuf> {
        let fields = mounts
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>());
        let matching = fields.filter(|fields| fields.get(2) == Some(&wanted));
        matching
            .filter_map(|fields| fields.get(1).map(PathBuf::from))
            .collect()
    };
    match of_kind("cgroup") {
        v1 if v1.is_empty() => of_kind("cgroup2"),
        v1 => v1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_counts_only_when_it_is_alone() {
        let v1 = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        assert_eq!(parse_cgroup_mounts(v1), [Path::new("/sys/fs/cgroup/cpu")]);
        let v2 = "tmpfs /tmp tmpfs rw 0 0\ncgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        assert_eq!(parse_cgroup_mounts(v2), [Path::new("/sys/fs/cgroup")]);
    }
}
