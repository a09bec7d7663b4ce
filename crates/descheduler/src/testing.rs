//! Fixtures that the tests of this crate share.

use serde_json::{Value, json};
use tensile_core::avoidance::Avoidance;
use tensile_placement::Cluster;
use tensile_runtime::watch::Change;
use tensile_world::World;
use tensile_world::testing::{apply_lower_pod, mk_pod, mk_world};

use crate::pod::{Pod, Templates};
use crate::pods::Pods;
use crate::policy::Policy;
use crate::refused::Refused;
use crate::scene::Scene;

/// When replicas were made, 2026-01-02T03:04:05Z.
pub(crate) const CREATED: u64 = 1_767_323_045;
/// An hour later.
pub(crate) const NOW: u64 = CREATED + 3600;

/// A pod of the owner `owner` with the label `app: web` that is pending on a virtual node.
pub(crate) fn mk_replica(name: &str, cpu: &str, node: &str) -> Value {
    let mut pod = mk_pod(name, cpu);
    pod["metadata"]["creationTimestamp"] = json!("2026-01-02T03:04:05Z");
    pod["metadata"]["labels"] = json!({"app": "web"});
    pod["metadata"]["ownerReferences"] = json!([{"kind": "ReplicaSet", "uid": "owner", "controller": true}]);
    pod["spec"]["nodeName"] = json!(node);
    pod["status"] = json!({"phase": "Pending"});
    pod
}

/// The world of [`mk_world`] (`va` with fragments of 1 and 2 CPUs, `vb` with one of 8), the same seen from above,
/// and pods on it.
pub(crate) struct Ground {
    pub(crate) policy: Policy,
    pub(crate) world: World,
    pub(crate) upper: Cluster,
    pub(crate) avoidance: Avoidance,
    pods: Pods,
    refused: Refused,
}

// === impl Ground ===

impl Ground {
    pub(crate) fn new() -> Self {
        let mut upper = Cluster::default();
        for (name, cluster, disk, cpu) in [("va", "a", "hdd", 6), ("vb", "b", "ssd", 8)] {
            let labels = json!({"clusterID": cluster, "type": "virtual-kubelet", "disk": disk});
            let allocatable = json!({"cpu": cpu.to_string(), "memory": "99Gi", "pods": "99"});
            let node =
                json!({"metadata": {"name": name, "labels": labels}, "status": {"allocatable": allocatable}});
            upper.apply_node(&serde_json::from_value(node).unwrap());
        }
        Self {
            policy: Policy::default(),
            world: mk_world(),
            upper,
            avoidance: Avoidance::default(),
            pods: Pods::default(),
            refused: Refused::default(),
        }
    }

    pub(crate) fn scene(&mut self) -> Scene<'_> {
        Scene::new(
            NOW,
            &self.policy,
            &mut self.world,
            &mut self.upper,
            &self.avoidance,
        )
    }

    /// Adds a pod above.
    pub(crate) fn pod(&mut self, pod: &Value) -> Pod {
        self.upper
            .apply_pod(&serde_json::from_value(pod.clone()).unwrap());
        let change = Change::Apply(serde_json::from_str(&pod.to_string()).unwrap());
        self.pods.changed(&change, |_| true);
        Pod::read(pod, &mut Templates::default())
    }

    /// Lets the lower pod of `pod` hold its node.
    pub(crate) fn run_below(&mut self, cluster: &str, pod: &Value, node: &str) {
        apply_lower_pod(&mut self.world, cluster, pod, node);
    }

    /// Lets the lower cluster of `va` refuse a pod.
    pub(crate) fn refuse(&mut self, pod: &Pod, since: u64) {
        let since = jiff::Timestamp::from_second(i64::try_from(since).unwrap()).unwrap();
        let condition = json!({
            "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no",
            "lastTransitionTime": since.to_string()
        });
        let metadata = json!({
            "namespace": &*pod.key.namespace, "name": &*pod.key.name,
            "labels": {"tensile.dev/origin-uid": &*pod.uid}
        });
        let lower = json!({"metadata": metadata, "status": {"conditions": [condition]}});
        let change = Change::Apply(serde_json::from_str(&lower.to_string()).unwrap());
        self.refused.changed("a", change);
    }

    /// Adds a replica above that cluster a has refused for an hour.
    pub(crate) fn stuck(&mut self, name: &str, cpu: &str, node: &str) -> Pod {
        let pod = self.pod(&mk_replica(name, cpu, node));
        self.refuse(&pod, NOW - 3600);
        pod
    }

    /// Pods and refusals, so that they can be looked at beside a scene.
    pub(crate) fn taken(&mut self) -> (Pods, Refused) {
        (std::mem::take(&mut self.pods), std::mem::take(&mut self.refused))
    }

    pub(crate) fn give_back(&mut self, pods: Pods, refused: Refused) {
        (self.pods, self.refused) = (pods, refused);
    }
}
