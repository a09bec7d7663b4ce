//! Simulated nodes: kwok answers for any number of nodes and pods, without containers.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::Node;
use kube::{
    Api,
    api::{ListParams, PostParams},
};
use serde_json::{Value, json};

use crate::{
    cluster::Cluster, control_plane::flag, leases::PortLease, process::Invocation, support::await_condition,
};

/// Annotation by which kwok knows its nodes; virtual nodes beside them are left alone.
const OURS: (&str, &str) = ("kwok.x-k8s.io/node", "fake");

/// Nodes that are created at a time.
const PARALLEL_CREATES: usize = 8;

/// How long simulated nodes may take to become Ready; three seconds are usual.
const NODES_DEADLINE: Duration = Duration::from_secs(60);

/// The stages that make nodes Ready at once and keep them so.
const NODE_STAGES: [&str; 2] = ["node/fast", "node/heartbeat-with-lease"];

/// The stages of pods, until [`Cluster::use_kwok_stages`] is called: Running at once, and gone at once.
const POD_STAGES: &str = "pod/fast";

/// What simulated nodes are like.
#[derive(Clone, Debug)]
pub struct NodeTemplate {
    prefix: Option<String>,
    capacity: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
    taints: Vec<Value>,
}

/// The kwok process of a cluster.
pub(crate) struct Kwok {
    nodes: usize,
    _port: PortLease,
}

// === impl NodeTemplate ===

impl Default for NodeTemplate {
    /// A node of 32 cores, 256 GiB and 110 pods (the kubelet's own limit).
    fn default() -> Self {
        let capacity = [
            ("cpu", "32"),
            ("memory", "256Gi"),
            ("ephemeral-storage", "1Ti"),
            ("pods", "110"),
        ];
        let capacity = capacity.map(|(resource, quantity)| (resource.to_owned(), quantity.to_owned()));
        Self {
            prefix: None,
            capacity: capacity.into(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
        }
    }
}

impl NodeTemplate {
    /// Processor cores, such as `4` or `500m`.
    #[must_use]
    pub fn cpu(self, quantity: &str) -> Self {
        self.resource("cpu", quantity)
    }

    /// Memory, such as `8Gi`.
    #[must_use]
    pub fn memory(self, quantity: &str) -> Self {
        self.resource("memory", quantity)
    }

    /// The most pods.
    #[must_use]
    pub fn pods(self, count: u32) -> Self {
        self.resource("pods", &count.to_string())
    }

    /// Any resource, such as an extended one.
    #[must_use]
    pub fn resource(mut self, name: &str, quantity: &str) -> Self {
        self.capacity.insert(name.to_owned(), quantity.to_owned());
        self
    }

    /// A label.
    #[must_use]
    pub fn label(mut self, key: &str, value: &str) -> Self {
        self.labels.insert(key.to_owned(), value.to_owned());
        self
    }

    /// A taint.
    #[must_use]
    pub fn taint(mut self, key: &str, value: &str, effect: &str) -> Self {
        self.taints
            .push(json!({"key": key, "value": value, "effect": effect}));
        self
    }

    /// Nodes are named `<prefix>-<number>`; the prefix is the cluster's name when not set.
    #[must_use]
    pub fn name_prefix(mut self, prefix: &str) -> Self {
        self.prefix = Some(prefix.to_owned());
        self
    }

    fn node(&self, name: &str) -> Value {
        let mut labels = self.labels.clone();
        let well_known = [
            ("kubernetes.io/hostname", name),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", "amd64"),
        ];
        for (key, value) in well_known {
            labels.entry(key.to_owned()).or_insert_with(|| value.to_owned());
        }
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": name, "labels": labels, "annotations": {OURS.0: OURS.1}},
            "spec": {"taints": self.taints},
            "status": {"capacity": self.capacity, "allocatable": self.capacity},
        })
    }
}

// === impl Cluster ===

impl Cluster {
    /// Adds simulated nodes and waits until they are Ready; returns their names.
    ///
    /// The first call starts kwok: pods then run as soon as they are bound, Jobs' pods succeed, `kubectl exec` runs
    /// local commands, and `kubectl logs` prints what [`Cluster::add_kwok_log`] adds.
    ///
    /// # Errors
    /// kwok does not start, or the nodes do not become Ready.
    pub async fn kwok(&self, count: usize, template: NodeTemplate) -> Result<Vec<String>> {
        let mut kwok = self.kwok.lock().await;
        let kwok = match &mut *kwok {
            Some(kwok) => kwok,
            none => none.insert(self.start_kwok()?),
        };
        let prefix = template.prefix.as_deref().unwrap_or(self.name());
        let names: Vec<_> = (kwok.nodes..kwok.nodes + count)
            .map(|number| format!("{prefix}-{number}"))
            .collect();
        kwok.nodes += count;
        self.create_nodes(&names, &template).await?;
        self.await_nodes(&names, NODES_DEADLINE).await?;
        Ok(names)
    }

    /// Appends a line to what `kubectl logs` prints for every pod on a simulated node.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn add_kwok_log(&self, line: &str) -> Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.kwok_log())?;
        // kwok reads the log format of container runtimes; the time is of no interest to it.
        writeln!(file, "2026-01-02T03:04:05.000000000Z stdout F {line}")
            .context("cannot write the log of kwok's pods")
    }

    /// Replaces the stages of simulated pods by another set of kwok's, such as `pod/general`, whose stages can be
    /// delayed and made to fail by annotations of the pods, and adds objects of kwok's configuration, such as a
    /// `Stage` or a `ClusterResourceUsage`. kwok is restarted.
    ///
    /// # Errors
    /// kwok does not run, or there is no such set.
    pub async fn use_kwok_stages(&self, pod_stages: &str, objects: &[Value]) -> Result<()> {
        self.write_kwok_config(pod_stages, objects)?;
        self.stop_component("kwok").await?;
        self.start_component("kwok").await
    }

    fn kwok_log(&self) -> PathBuf {
        self.folder().join("kwok-pods.log")
    }

    fn kwok_config(&self) -> PathBuf {
        self.folder().join("kwok.yaml")
    }

    fn start_kwok(&self) -> Result<Kwok> {
        self.add_kwok_log("a pod on a simulated node")?;
        self.write_kwok_config(POD_STAGES, &[])?;
        let port = PortLease::take()?;
        self.launch(self.kwok_invocation(port.port())?)?;
        Ok(Kwok {
            nodes: 0,
            _port: port,
        })
    }

    /// Writes kwok's configuration: the stages, and that exec and logs work on every simulated pod.
    fn write_kwok_config(&self, pod_stages: &str, objects: &[Value]) -> Result<()> {
        let mut documents = Vec::new();
        for set in NODE_STAGES.iter().chain([&pod_stages]) {
            documents.extend(read_folder(
                &self.binaries.kwok_manifests().join("stages").join(set),
            )?);
        }
        let logs = json!([{"logsFile": self.kwok_log(), "follow": true}]);
        let debugging = [
            kwok_object("ClusterExec", &json!({"execs": [{"local": {}}]})),
            kwok_object("ClusterLogs", &json!({ "logs": logs })),
        ];
        documents.extend(debugging.iter().chain(objects).map(Value::to_string));
        fs::write(self.kwok_config(), documents.join("\n---\n")).context("cannot write kwok's configuration")
    }

    fn kwok_invocation(&self, port: u16) -> Result<Invocation> {
        let address = self.address();
        let (certificate, key) = self.serving_certificate("kwok", &[&address.to_string()])?;
        let args = vec![
            flag("config", self.kwok_config().display()),
            flag("kubeconfig", self.kubeconfig().display()),
            flag("manage-all-nodes", false),
            flag(
                "manage-nodes-with-annotation-selector",
                format!("{}={}", OURS.0, OURS.1),
            ),
            flag("node-ip", address),
            flag("node-port", port),
            flag("server-address", format!("{address}:{port}")),
            flag("tls-cert-file", certificate.display()),
            flag("tls-private-key-file", key.display()),
            // The kubelet's own lease duration.
            flag("node-lease-duration-seconds", 40),
            // Wide enough for every benchmark; kwok's own default holds 254 pods.
            flag("cidr", "10.128.0.0/9"),
        ];
        let mut invocation = Invocation::new("kwok", self.binaries.path("kwok"), args);
        invocation.netns = self.netns();
        Ok(invocation)
    }

    async fn create_nodes(&self, names: &[String], template: &NodeTemplate) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.client().await?);
        let create = |name: &String| {
            let (nodes, node) = (nodes.clone(), serde_json::from_value::<Node>(template.node(name)));
            async move { Ok::<_, anyhow::Error>(nodes.create(&PostParams::default(), &node?).await.map(drop)?) }
        };
        stream::iter(names)
            .map(create)
            .buffer_unordered(PARALLEL_CREATES)
            .try_collect()
            .await
    }

    /// Waits until nodes are Ready and nothing but their own taints keeps pods away.
    pub(crate) async fn await_nodes(&self, names: &[String], deadline: Duration) -> Result<()> {
        let nodes: Api<Node> = Api::all(self.client().await?);
        let what = format!("{} nodes of cluster {} Ready", names.len(), self.name());
        await_condition(&what, deadline, || async {
            let list = nodes.list(&ListParams::default()).await?;
            let is_usable = |name: &String| {
                list.iter()
                    .any(|node| node.metadata.name.as_ref() == Some(name) && is_usable(node))
            };
            match names.iter().filter(|name| !is_usable(name)).count() {
                0 => Ok(Some(())),
                missing => bail!("{missing} are not Ready"),
            }
        })
        .await
    }
}

fn kwok_object(kind: &str, spec: &Value) -> Value {
    json!({"apiVersion": "kwok.x-k8s.io/v1alpha1", "kind": kind, "metadata": {"name": "all"}, "spec": spec})
}

/// The contents of all files of a folder.
fn read_folder(folder: &Path) -> Result<Vec<String>> {
    let entries =
        fs::read_dir(folder).with_context(|| format!("cannot read kwok's stages in {}", folder.display()))?;
    entries
        .map(|entry| Ok(fs::read_to_string(entry?.path())?))
        .collect()
}

fn is_usable(node: &Node) -> bool {
    let conditions = node
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    let is_ready = conditions
        .into_iter()
        .any(|condition| condition.type_ == "Ready" && condition.status == "True");
    let taints = node.spec.iter().flat_map(|spec| spec.taints.iter().flatten());
    is_ready
        && !taints
            .into_iter()
            .any(|taint| taint.key == "node.kubernetes.io/not-ready")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_gives_every_node_its_own_hostname_and_all_resources() {
        let template = NodeTemplate::default()
            .cpu("4")
            .resource("example.com/gpu", "2")
            .label("zone", "a");
        let node = template.taint("only", "tests", "NoSchedule").node("n-1");
        assert_eq!(node["metadata"]["labels"]["kubernetes.io/hostname"], "n-1");
        assert_eq!(node["metadata"]["labels"]["zone"], "a");
        assert_eq!(node["status"]["allocatable"]["cpu"], "4");
        assert_eq!(node["status"]["capacity"]["example.com/gpu"], "2");
        assert_eq!(node["spec"]["taints"][0]["key"], "only");
    }
}
