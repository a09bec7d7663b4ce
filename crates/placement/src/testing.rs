//! Fixtures that the tests of this crate share.

use serde_json::{Value, json};

use crate::candidate::Candidate;
use crate::cluster::Cluster;
use crate::filters::Filters;
use crate::node::Node;
use crate::pod::Pod;
use crate::reason::{Refusal, Tally};

/// What a filter says to a node, with its first reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Fits,
    Now(&'static str),
    Never(&'static str),
}

/// A filter that needs no preparation.
type Check = fn(&Candidate, &Node<'_>, &mut Tally) -> Option<Refusal>;

/// Asks `filter` whether a pod of this spec may go to this node, beside these pods that are bound to it.
pub(crate) fn check(filter: Check, spec: &Value, node: &Value, pods: &[Value]) -> Verdict {
    let mut node = node.clone();
    if node["metadata"]["name"].is_null() {
        node["metadata"]["name"] = json!("n");
    }
    let cluster = mk_cluster(&[node], pods);
    let candidate = mk_candidate(&json!({}), spec);
    let mut tally = Tally::default();
    let refusal = filter(&candidate, &cluster.nodes().next().unwrap(), &mut tally);
    verdict(refusal, &tally)
}

fn verdict(refusal: Option<Refusal>, tally: &Tally) -> Verdict {
    let reason = tally
        .iter()
        .next()
        .map(|(reason, _)| reason.to_string().leak() as &str);
    match refusal {
        None => Verdict::Fits,
        Some(Refusal::Now) => Verdict::Now(reason.unwrap()),
        Some(Refusal::Never) => Verdict::Never(reason.unwrap()),
    }
}

/// The nodes that all filters together refuse, by name, each with its first reason.
pub(crate) fn refusals(cluster: &Cluster, candidate: &Candidate) -> Vec<(String, String)> {
    let filters = Filters::prepare(cluster, candidate).unwrap();
    let refusal = |node: Node<'_>| {
        let mut tally = Tally::default();
        filters.refusal(&node, &mut tally)?;
        Some((node.name.to_string(), tally.iter().next().unwrap().0.to_string()))
    };
    let mut refusals: Vec<_> = cluster.nodes().filter_map(refusal).collect();
    refusals.sort();
    refusals
}

/// A cluster with these nodes and pods.
pub(crate) fn mk_cluster(nodes: &[Value], pods: &[Value]) -> Cluster {
    let mut cluster = Cluster::default();
    for node in nodes {
        cluster.apply_node(&serde_json::from_value(node.clone()).unwrap());
    }
    for pod in pods {
        cluster.apply_pod(&serde_json::from_value::<Pod>(pod.clone()).unwrap());
    }
    cluster
}

/// A pod in the namespace `ns` that is bound to the node `n`.
pub(crate) fn mk_pod(name: &str, mut spec: Value) -> Value {
    spec["nodeName"] = json!("n");
    json!({"metadata": {"name": name, "uid": name, "namespace": "ns"}, "spec": spec})
}

/// A pod that asks for a place.
pub(crate) fn mk_candidate(metadata: &Value, spec: &Value) -> Candidate {
    Candidate::new(&json!({"metadata": metadata, "spec": spec})).unwrap()
}

/// Puts volumes, claims, classes, CSINodes and CSIDrivers into the cluster, told apart by `kind`.
pub(crate) fn store(cluster: &mut Cluster, objects: &[Value]) {
    let storage = cluster.storage_mut();
    for object in objects.iter().cloned() {
        match object["kind"].as_str().unwrap() {
            "PersistentVolume" => storage.volumes.apply(serde_json::from_value(object).unwrap()),
            "PersistentVolumeClaim" => storage.claims.apply(serde_json::from_value(object).unwrap()),
            "StorageClass" => storage.classes.apply(serde_json::from_value(object).unwrap()),
            "CSINode" => storage.csi_nodes.apply(serde_json::from_value(object).unwrap()),
            "CSIDriver" => storage.drivers.apply(serde_json::from_value(object).unwrap()),
            other => unreachable!("fixture of unknown kind {other}"),
        };
    }
}

/// A node with these labels and room for pods.
pub(crate) fn mk_node(name: &str, labels: &Value) -> Value {
    json!({"metadata": {"name": name, "labels": labels}, "status": {"allocatable": {"pods": "99"}}})
}

/// A claim of the namespace `ns` for 1Gi of class `fast`, bound to `volume` if that is not empty.
pub(crate) fn mk_claim(name: &str, volume: &str) -> Value {
    let bound = if volume.is_empty() {
        json!({})
    } else {
        json!({"pv.kubernetes.io/bind-completed": "yes"})
    };
    json!({
        "kind": "PersistentVolumeClaim",
        "metadata": {"namespace": "ns", "name": name, "uid": format!("uid-{name}"), "annotations": bound},
        "spec": {
            "volumeName": volume, "storageClassName": "fast", "accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}
        }
    })
}

/// An available volume of 1Gi of class `fast` with the CSI driver `csi` that nodes with this `zone` reach.
pub(crate) fn mk_volume(name: &str, zone: &str) -> Value {
    let expression = json!({"key": "zone", "operator": "In", "values": [zone]});
    json!({
        "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {
            "capacity": {"storage": "1Gi"}, "storageClassName": "fast", "accessModes": ["ReadWriteOnce"],
            "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [expression]}]}},
            "csi": {"driver": "csi", "volumeHandle": name}
        },
        "status": {"phase": "Available"}
    })
}

/// The class `fast`, whose claims wait for their pod, with this provisioner.
pub(crate) fn mk_class(provisioner: &str) -> Value {
    json!({
        "kind": "StorageClass", "metadata": {"name": "fast"}, "provisioner": provisioner,
        "volumeBindingMode": "WaitForFirstConsumer"
    })
}

/// A pod of the namespace `ns` that mounts these claims and asks for a place.
pub(crate) fn mk_claimant(claims: &[&str]) -> Candidate {
    let volume = |claim: &&str| json!({"name": claim, "persistentVolumeClaim": {"claimName": claim}});
    let volumes: Vec<Value> = claims.iter().map(volume).collect();
    mk_candidate(
        &json!({"namespace": "ns", "name": "p"}),
        &json!({"volumes": volumes}),
    )
}
