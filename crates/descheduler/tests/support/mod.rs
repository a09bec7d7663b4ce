//! A fleet of lower clusters behind one upper cluster, as the descheduler knows it, without any server.

// Each test binary uses a part of this.
#![allow(dead_code)]

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tensile_core::avoidance::Avoidance;
use tensile_descheduler::avoid;
use tensile_descheduler::plan::{self, Plan};
use tensile_descheduler::pods::Pods;
use tensile_descheduler::policy::Policy;
use tensile_descheduler::refused::Refused;
use tensile_descheduler::scene::Scene;
use tensile_descheduler::waiting::Waiting;
use tensile_placement::{Candidate, Cluster, Fit, PodKey};
use tensile_runtime::key::Key;
use tensile_runtime::watch::Change;
use tensile_world::{Answer, World};

/// When it starts, in seconds since the Unix epoch.
pub(crate) const START: u64 = 1_767_225_600;
/// Namespace of all pods.
const NAMESPACE: &str = "ns";

/// What is known.
pub(crate) struct Fleet {
    pub(crate) world: World,
    pub(crate) upper: Cluster,
    pub(crate) pods: Pods,
    pub(crate) refused: Refused,
    pub(crate) waiting: Waiting,
    pub(crate) avoidance: Avoidance,
    clusters: Vec<&'static str>,
}

/// So many seconds after the start, as the API writes times.
pub(crate) fn time(at: u64) -> String {
    jiff::Timestamp::from_second(i64::try_from(START + at).unwrap())
        .unwrap()
        .to_string()
}

/// Name of the virtual node of a cluster.
pub(crate) fn node_of(cluster: &str) -> String {
    format!("v{cluster}")
}

/// An upper pod of the owner, without a node; its UID is its name.
pub(crate) fn mk_pod(name: &str, owner: &str, milli_cpu: u64, at: u64) -> Value {
    let requests = json!({"cpu": format!("{milli_cpu}m")});
    json!({
        "metadata": {
            "name": name, "namespace": NAMESPACE, "uid": name, "creationTimestamp": time(at),
            "ownerReferences": [{"kind": "ReplicaSet", "uid": owner, "controller": true}]
        },
        "spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]},
        "status": {"phase": "Pending"}
    })
}

fn name(pod: &Value) -> &str {
    pod["metadata"]["name"].as_str().unwrap()
}

fn viewed<T: serde::de::DeserializeOwned>(pod: &Value) -> T {
    serde_json::from_str(&pod.to_string()).unwrap()
}

fn unschedulable(at: u64) -> Value {
    json!([{
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "full",
        "lastTransitionTime": time(at)
    }])
}

/// The lower pod that stands for `upper`, without a node.
fn lower(upper: &Value) -> Value {
    let mut lower = upper.clone();
    lower["metadata"]["labels"] = json!({"tensile.dev/origin-uid": upper["metadata"]["uid"]});
    lower["spec"]["nodeName"] = Value::Null;
    lower
}

// === impl Fleet ===

impl Fleet {
    /// Each cluster has so many nodes of so many CPUs.
    pub(crate) fn new(clusters: &[&'static str], nodes: usize, cpus: usize) -> Self {
        let (mut world, mut upper) = (World::default(), Cluster::default());
        for cluster in clusters {
            let labels = json!({"type": "virtual-kubelet", "clusterID": cluster});
            let owned: BTreeMap<String, String> = serde_json::from_value(labels.clone()).unwrap();
            world.apply_node(&node_of(cluster), &owned, None);
            let all = json!({"cpu": (cpus * nodes).to_string(), "pods": "999999"});
            let node = json!({
                "metadata": {"name": node_of(cluster), "labels": labels}, "status": {"allocatable": all}
            });
            upper.apply_node(&viewed(&node));
            for index in 0..nodes {
                let node = json!({
                    "metadata": {"name": format!("{cluster}{index}")},
                    "status": {"allocatable": {"cpu": cpus.to_string(), "pods": "110"}}
                });
                world.cluster_mut(cluster).model.apply_node(&viewed(&node));
            }
        }
        world.retain_nodes(|_| true);
        Self {
            world,
            upper,
            pods: Pods::default(),
            refused: Refused::default(),
            waiting: Waiting::default(),
            avoidance: Avoidance::default(),
            clusters: clusters.to_vec(),
        }
    }

    /// The upper pod is as it is now; it has a node.
    pub(crate) fn tell(&mut self, pod: &Value) {
        self.upper.apply_pod(&viewed(pod));
        self.pods.changed(&Change::Apply(viewed(pod)), |_| true);
        self.waiting.changed(&Change::Delete(viewed(pod)));
    }

    /// The pod is gone, at both levels.
    pub(crate) fn gone(&mut self, cluster: &str, pod: &Value) {
        let key = PodKey::new(NAMESPACE, name(pod));
        self.upper.delete_pod(key);
        self.world.cluster_mut(cluster).model.delete_pod(key);
        self.pods.changed(&Change::Delete(viewed(pod)), |_| true);
        self.refused.changed(cluster, Change::Delete(viewed(pod)));
    }

    /// No node above takes the pod.
    pub(crate) fn wait(&mut self, pod: &Value, at: u64) {
        let mut pod = pod.clone();
        pod["status"]["conditions"] = unschedulable(at);
        self.waiting.changed(&Change::Apply(viewed(&pod)));
    }

    /// No node below takes the pod.
    pub(crate) fn refuse(&mut self, cluster: &str, pod: &Value, at: u64) {
        let mut lower = lower(pod);
        lower["status"]["conditions"] = unschedulable(at);
        self.refused.changed(cluster, Change::Apply(viewed(&lower)));
    }

    /// The lower pod is on this node.
    pub(crate) fn put(&mut self, cluster: &str, pod: &Value, node: &str) {
        let mut lower = lower(pod);
        lower["spec"]["nodeName"] = json!(node);
        self.world.cluster_mut(cluster).model.apply_pod(&viewed(&lower));
        self.refused.changed(cluster, Change::Delete(viewed(&lower)));
    }

    /// The lower scheduler: the tightest node that fits the pod, if there is any.
    pub(crate) fn schedule_below(&mut self, cluster: &str, pod: &Value) -> bool {
        let model = &self.world.cluster_mut(cluster).model;
        let fit = Fit::of(model, &Candidate::new(&lower(pod)).unwrap(), None);
        let Some(best) = fit.best else { return false };
        self.put(cluster, pod, &best.node);
        true
    }

    /// A scheduler that sees sums only: the emptiest virtual node that the owner does not avoid.
    pub(crate) fn emptiest(&self, owner: &str, now: u64) -> &'static str {
        let avoided: Vec<&str> = self.avoidance.nodes(owner, now).collect();
        let free = |cluster: &&&str| self.upper.node(&node_of(cluster)).unwrap().free().milli_cpu;
        let usable = self
            .clusters
            .iter()
            .filter(|cluster| !avoided.contains(&&*node_of(cluster)));
        usable.max_by_key(free).copied().unwrap_or(self.clusters[0])
    }

    /// A scheduler with the extender: the cluster whose node the pod fits most tightly, if it fits anywhere.
    pub(crate) fn tightest(&mut self, pod: &Value, owner: &str, now: u64) -> Option<&'static str> {
        let avoided: Vec<&str> = self.avoidance.nodes(owner, now).collect();
        let mut lowering = self.world.consider(pod, now);
        let fitting = self.clusters.iter().filter_map(|cluster| {
            let node = node_of(cluster);
            match self.world.answer(&mut lowering, &node) {
                Some(Answer::Fits(fit)) if !avoided.contains(&&*node) => {
                    Some((fit.best?.stranding, *cluster))
                }
                _ => None,
            }
        });
        fitting.min().map(|(_, cluster)| cluster)
    }

    /// What the descheduler plans; the moves are noted as if they were carried out.
    pub(crate) fn plan(&mut self, now: u64, policy: &Policy) -> Plan {
        self.avoidance.expire(now);
        let mut scene = Scene::new(now, policy, &mut self.world, &mut self.upper, &self.avoidance);
        let planned = plan::plan(&mut scene, &self.pods, &self.refused, &self.waiting);
        drop(scene);
        for moved in &planned.moves {
            let pod = self.pods.get(&Key::new(NAMESPACE, &moved.pod.name)).unwrap();
            avoid::note_move(&mut self.avoidance, pod, policy.avoid_for, now);
        }
        planned
    }
}
