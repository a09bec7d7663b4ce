//! What the Node object should say. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use tensile_core::names;

use super::Summary;

/// Condition of a healthy kubelet, as kubelets word it.
const READY: (&str, &str) = ("KubeletReady", "the lower cluster answers");
/// Type of the condition that is there only while something is wrong with the pool.
const POOL_PROBLEM: &str = "PoolProblem";
/// Minor version since which Nodes have `status.declaredFeatures`.
const DECLARED_FEATURES_SINCE: u32 = 35;
/// Reason of `Ready=False` while the lower cluster does not answer.
pub const UNREACHABLE: &str = "LowerClusterUnreachable";

/// What a virtual node is, whatever its cluster has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name.
    pub name: String,
    /// Value of the label `clusterID`.
    pub cluster_id: String,
    /// Address that it publishes as InternalIP.
    pub ip: String,
    /// Address that it publishes as ExternalIP, if any.
    pub external_ip: Option<String>,
    /// Port of the kubelet API.
    pub port: u16,
    /// Labels that the user wants on it.
    pub labels: BTreeMap<String, String>,
    /// The taints that keep other pods off it.
    pub taints: Vec<Value>,
    /// What goes in front of the names of lower namespaces, for those who judge what is in there.
    pub namespace_prefix: Option<String>,
    /// Version of the lower cluster, shown while no node tells a kubelet's.
    pub version: String,
    /// Minor version of the upper cluster, which refuses what it does not know.
    pub upper_minor: u32,
}

/// Whether the lower cluster answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reachability {
    /// It does.
    Reachable,
    /// It has not for longer than the grace period.
    Unreachable {
        /// What failed.
        reason: String,
    },
}

/// Everything that the Node object is made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// What it is.
    pub identity: Identity,
    /// What its cluster has.
    pub summary: Summary,
    /// Whether its cluster answers.
    pub reachability: Reachability,
}

// === impl Identity ===

impl Identity {
    /// Labels of the node as far as they do not depend on the lower nodes; these resolve the ignored keys.
    #[must_use]
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::from(
            [
                (names::NODE_TYPE, names::NODE_TYPE_VALUE),
                (names::HOSTNAME, &self.name),
                (names::CLUSTER_ID, &self.cluster_id),
                ("kubernetes.io/role", "agent"),
                ("kubernetes.io/os", "linux"),
                ("node.kubernetes.io/exclude-from-external-load-balancers", "true"),
            ]
            .map(|(key, value)| (key.to_owned(), value.to_owned())),
        );
        labels.extend(self.labels.clone());
        labels
    }
}

// === impl Desired ===

impl Desired {
    /// The labels: the lower nodes' common ones, over which ours win.
    #[must_use]
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.summary.labels.clone();
        if let Some(architecture) = &self.summary.architecture {
            labels.insert("kubernetes.io/arch".to_owned(), architecture.clone());
        }
        labels.extend(self.identity.labels());
        labels
    }

    /// A new Node, taint included; the status follows by [`Desired::status`].
    #[must_use]
    pub fn node(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": self.own_metadata(),
            "spec": {"taints": self.identity.taints},
        })
    }

    /// Labels and annotation for server-side apply; the taint is not among it, because taints are one list that others write too.
    #[must_use]
    pub fn metadata(&self) -> Value {
        json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": self.own_metadata(),
        })
    }

    fn own_metadata(&self) -> Value {
        let mut metadata = json!({"name": self.identity.name, "labels": self.labels()});
        if let Some(prefix) = &self.identity.namespace_prefix {
            metadata["annotations"] = json!({names::NAMESPACE_PREFIX: prefix});
        }
        metadata
    }

    /// The status for server-side apply at `now` (RFC 3339); transitions keep the time that `current` shows.
    #[must_use]
    pub fn status(&self, current: &Value, now: &str) -> Value {
        let identity = &self.identity;
        let mut addresses = vec![json!({"type": "InternalIP", "address": identity.ip})];
        addresses.extend(
            identity
                .external_ip
                .as_ref()
                .map(|ip| json!({"type": "ExternalIP", "address": ip})),
        );
        let mut node = json!({
            "apiVersion": "v1",
            "kind": "Node",
            "metadata": {"name": identity.name},
            "status": {
                "capacity": self.resources(&self.summary.capacity),
                "allocatable": self.resources(&self.summary.allocatable),
                "addresses": addresses,
                "daemonEndpoints": {"kubeletEndpoint": {"Port": identity.port}},
                "nodeInfo": self.node_info(),
                "conditions": self.conditions(current, now),
            },
        });
        if identity.upper_minor >= DECLARED_FEATURES_SINCE {
            node["status"]["declaredFeatures"] = json!(self.summary.features);
        }
        node
    }

    /// Always with the resources that every node has, so that a cluster without nodes shows zeroes.
    fn resources(&self, resources: &tensile_core::resources::Resources) -> Value {
        let mut list: Map<String, Value> = ["cpu", "memory", "pods", "ephemeral-storage"]
            .map(|name| (name.to_owned(), json!("0")))
            .into_iter()
            .collect();
        list.extend(resources.to_json());
        Value::Object(list)
    }

    fn node_info(&self) -> Value {
        let summary = &self.summary;
        json!({
            "kubeletVersion": summary.kubelet_version.as_deref().unwrap_or(&self.identity.version),
            "architecture": summary.architecture.as_deref().unwrap_or_default(),
            "operatingSystem": summary.operating_system.as_deref().unwrap_or("linux"),
            "machineID": "", "systemUUID": "", "bootID": "", "kernelVersion": "", "osImage": "Tensile virtual node",
            "containerRuntimeVersion": "tensile://lower-cluster", "kubeProxyVersion": "",
        })
    }

    fn conditions(&self, current: &Value, now: &str) -> Value {
        let (ready, reason, message) = match &self.reachability {
            Reachability::Reachable => ("True", READY.0, READY.1.to_owned()),
            Reachability::Unreachable { reason } => ("False", UNREACHABLE, reason.clone()),
        };
        let problem = self.summary.pool_problem.clone();
        let quiet = |name: &'static str| {
            (
                name,
                "False",
                "LowerCluster",
                "left to the nodes of the lower cluster".to_owned(),
            )
        };
        let mut conditions = vec![
            ("Ready", ready, reason, message),
            quiet("MemoryPressure"),
            quiet("DiskPressure"),
            quiet("PIDPressure"),
            quiet("NetworkUnavailable"),
        ];
        conditions.extend(problem.map(|problem| (POOL_PROBLEM, "True", "Selector", problem)));
        let show = |(name, status, reason, message): (&str, &str, &str, String)| {
            json!({
                "type": name, "status": status, "reason": reason, "message": message,
                "lastHeartbeatTime": now,
                "lastTransitionTime": since(current, name, status).unwrap_or(now),
            })
        };
        conditions.into_iter().map(show).collect()
    }
}

/// Since when `current` shows this status of this condition.
fn since<'a>(current: &'a Value, name: &str, status: &str) -> Option<&'a str> {
    let mut conditions = current["status"]["conditions"].as_array()?.iter();
    conditions.find(|c| c["type"] == name && c["status"] == status)?["lastTransitionTime"].as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_desired() -> Desired {
        let identity = Identity {
            name: "vn".into(),
            cluster_id: "a".into(),
            ip: "10.0.0.1".into(),
            external_ip: None,
            port: 10250,
            labels: BTreeMap::from([("team".to_owned(), "x".to_owned())]),
            taints: vec![json!({"key": names::PROVIDER_TAINT, "value": "tensile", "effect": "NoSchedule"})],
            namespace_prefix: None,
            version: "v1.36.3".into(),
            upper_minor: 36,
        };
        Desired {
            identity,
            summary: Summary::default(),
            reachability: Reachability::Reachable,
        }
    }

    #[test]
    fn own_labels_win_over_those_of_the_lower_nodes() {
        let mut desired = mk_desired();
        desired.summary.labels = BTreeMap::from([
            ("clusterID".to_owned(), "theirs".to_owned()),
            ("zone".to_owned(), "z".to_owned()),
        ]);
        let labels = desired.labels();
        assert_eq!(
            (&*labels["clusterID"], &*labels["zone"], &*labels["team"]),
            ("a", "z", "x")
        );
        assert_eq!(labels["type"], "virtual-kubelet");
    }

    #[test]
    fn the_prefix_of_lower_namespaces_is_told() {
        let mut desired = mk_desired();
        assert!(desired.metadata()["metadata"]["annotations"].is_null());
        desired.identity.namespace_prefix = Some("p".into());
        for object in [desired.metadata(), desired.node()] {
            let told = &object["metadata"]["annotations"];
            assert_eq!(*told, json!({"tensile.dev/namespace-prefix": "p"}));
        }
    }

    #[test]
    fn the_port_is_spelled_as_the_api_server_reads_it_and_zeroes_are_shown() {
        let status = &mk_desired().status(&Value::Null, "now")["status"];
        assert_eq!(
            status["daemonEndpoints"],
            json!({"kubeletEndpoint": {"Port": 10250}})
        );
        assert_eq!(
            status["allocatable"],
            json!({"cpu": "0", "memory": "0", "pods": "0", "ephemeral-storage": "0"})
        );
    }

    #[test]
    fn an_older_upper_cluster_is_told_no_field_that_it_would_refuse() {
        let mut desired = mk_desired();
        desired.summary.features = vec!["F".into()];
        for (minor, shown) in [(36, json!(["F"])), (35, json!(["F"])), (34, Value::Null)] {
            desired.identity.upper_minor = minor;
            let status = &desired.status(&Value::Null, "now")["status"];
            assert_eq!(status["declaredFeatures"], shown, "1.{minor}");
        }
    }

    #[test]
    fn a_condition_keeps_its_time_until_its_status_changes() {
        let mut desired = mk_desired();
        let before = desired.status(&Value::Null, "t1");
        assert_eq!(
            desired.status(&before, "t2")["status"]["conditions"][0]["lastTransitionTime"],
            "t1"
        );
        desired.reachability = Reachability::Unreachable {
            reason: "timeout".into(),
        };
        let ready = desired.status(&before, "t2")["status"]["conditions"][0].clone();
        assert_eq!(
            (&ready["status"], &ready["reason"]),
            (&json!("False"), &json!(UNREACHABLE))
        );
        assert_eq!(ready["lastTransitionTime"], "t2");
    }
}
