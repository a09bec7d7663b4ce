//! What a pod asks of a node, as kube-scheduler 1.36 counts it.
//!
//! The rules are those of `PodRequests` in k8s.io/component-helpers/resource: containers and sidecars run
//! together; init containers run one by one beside the sidecars started before them; pod-level requests
//! replace the sum; overhead comes on top. Limits need no look: the API server has already turned them into
//! requests where those were missing. A running pod that is being resized counts with the most of what is
//! wanted, granted and in effect.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::{HUGE_PAGES_PREFIX, Lane, Resources};
use crate::quantity::Quantity;

/// `restartPolicy` of an init container that keeps running: a sidecar.
const RESTART_ALWAYS: &str = "Always";
/// Condition of a pod whose resize waits.
const RESIZE_PENDING: &str = "PodResizePending";
/// Reason of [`RESIZE_PENDING`] when the node can never grant it: what is wanted does not count then.
const INFEASIBLE: &str = "Infeasible";

/// The parts of a pod's `spec` that say what it asks for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodRequests {
    /// `spec.containers`.
    #[serde(deserialize_with = "or_default")]
    pub containers: Vec<ContainerRequests>,
    /// `spec.initContainers`.
    #[serde(deserialize_with = "or_default")]
    pub init_containers: Vec<ContainerRequests>,
    /// `spec.resources`.
    pub resources: PodLevelRequests,
    /// `spec.overhead`.
    pub overhead: Resources,
}

/// The parts of a pod's `status` that change what it asks for while it is resized.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RunningRequests {
    /// `status.containerStatuses`.
    #[serde(deserialize_with = "or_default")]
    pub container_statuses: Vec<RunningContainer>,
    /// `status.initContainerStatuses`.
    #[serde(deserialize_with = "or_default")]
    pub init_container_statuses: Vec<RunningContainer>,
    /// `status.conditions`.
    #[serde(deserialize_with = "or_default")]
    pub conditions: Vec<PodCondition>,
    /// `status.resources`: what is in effect at pod level.
    pub resources: Option<Requirements>,
    /// `status.allocatedResources`: what the node granted at pod level.
    pub allocated_resources: Resources,
}

/// The parts of a container, init containers included, that say what it asks for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerRequests {
    /// Its name.
    pub name: Box<str>,
    /// Its own restart policy; `Always` makes an init container a sidecar.
    pub restart_policy: Option<Box<str>>,
    /// Its `resources`.
    pub resources: Requirements,
}

/// `resources` of a container.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Requirements {
    /// `resources.requests`.
    pub requests: Resources,
}

/// `resources` of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodLevelRequests {
    /// `resources.requests`, kept as a list: a zero that is written differs from an absent one here.
    #[serde(deserialize_with = "or_default")]
    pub requests: BTreeMap<Box<str>, Quantity>,
}

/// The parts of a container's status that change what it asks for.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RunningContainer {
    /// Its name.
    pub name: Box<str>,
    /// `resources`: what is in effect.
    pub resources: Option<Requirements>,
    /// `allocatedResources`: what the node granted.
    pub allocated_resources: Resources,
}

/// The parts of a pod's condition that matter to a resize.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PodCondition {
    /// `type`.
    pub r#type: Box<str>,
    /// `reason`.
    pub reason: Box<str>,
}

/// The effective request of a pod that does not run yet, from its `spec`.
///
/// # Errors
/// When a quantity or the shape of the spec cannot be read.
pub fn pod_request(spec: &Value) -> Result<Resources, serde_json::Error> {
    Ok(PodRequests::deserialize(spec)?.effective(&RunningRequests::default()))
}

// === impl PodRequests ===

impl PodRequests {
    /// What the pod asks for, itself included as one of [`super::PODS`].
    #[must_use]
    pub fn effective(&self, running: &RunningRequests) -> Resources {
        let mut total = self.containers_together(running);
        for (lane, units) in self.pod_level(running) {
            total.set(&lane, units);
        }
        total.add(&self.overhead);
        total.pods = 1;
        total
    }

    fn containers_together(&self, running: &RunningRequests) -> Resources {
        let mut together = Resources::default();
        for container in &self.containers {
            together.add(&running.of_container(container, &running.container_statuses));
        }
        let mut sidecars = Resources::default();
        let mut init_peak = Resources::default();
        for container in &self.init_containers {
            if container.is_sidecar() {
                let request = running.of_container(container, &running.init_container_statuses);
                together.add(&request);
                sidecars.add(&request);
                init_peak.max(&sidecars);
            } else {
                let mut request = container.resources.requests.clone();
                request.add(&sidecars);
                init_peak.max(&request);
            }
        }
        together.max(&init_peak);
        together
    }

    /// The lanes that the pod-level requests set; only CPU, memory and huge pages can be asked for there.
    fn pod_level(&self, running: &RunningRequests) -> Vec<(Lane, i64)> {
        let quantities = self
            .resources
            .requests
            .iter()
            .map(|(name, quantity)| (name.as_ref(), *quantity));
        let wanted = Resources::from_quantities(quantities);
        let effective = running.effective(&wanted, running.resources.as_ref(), &running.allocated_resources);
        let supported = |lane: &Lane| match lane {
            Lane::MilliCpu | Lane::Memory => true,
            Lane::Extended(name) => name.starts_with(HUGE_PAGES_PREFIX),
            Lane::EphemeralStorage | Lane::Pods => false,
        };
        let lanes = self
            .resources
            .requests
            .keys()
            .filter_map(|name| Lane::of(name))
            .filter(supported);
        lanes.map(|lane| (lane.clone(), effective.get(&lane))).collect()
    }
}

// === impl ContainerRequests ===

impl ContainerRequests {
    fn is_sidecar(&self) -> bool {
        self.restart_policy.as_deref() == Some(RESTART_ALWAYS)
    }
}

// === impl RunningRequests ===

impl RunningRequests {
    fn of_container(&self, container: &ContainerRequests, statuses: &[RunningContainer]) -> Resources {
        let wanted = &container.resources.requests;
        match statuses.iter().find(|status| status.name == container.name) {
            Some(status) => self.effective(wanted, status.resources.as_ref(), &status.allocated_resources),
            None => wanted.clone(),
        }
    }

    /// The most of what is wanted, in effect and granted; without a figure in effect, what is wanted.
    fn effective(&self, wanted: &Resources, actual: Option<&Requirements>, granted: &Resources) -> Resources {
        let Some(actual) = actual else {
            return wanted.clone();
        };
        let mut most = actual.requests.clone();
        most.max(granted);
        if !self.resize_is_infeasible() {
            most.max(wanted);
        }
        most
    }

    fn resize_is_infeasible(&self) -> bool {
        let pending = self
            .conditions
            .iter()
            .find(|condition| &*condition.r#type == RESIZE_PENDING);
        pending.is_some_and(|condition| &*condition.reason == INFEASIBLE)
    }
}

/// Reads `null` as the default, as Go does.
fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_container(cpu: &str, memory: &str) -> Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}})
    }

    fn mk_sidecar(cpu: &str, memory: &str) -> Value {
        let mut container = mk_container(cpu, memory);
        container["restartPolicy"] = json!("Always");
        container
    }

    fn mk_resources(list: Value) -> Resources {
        serde_json::from_value(list).unwrap()
    }

    #[test]
    fn a_pod_asks_for_what_its_phases_need_at_their_peak() {
        let container = mk_container;
        let sidecar = mk_sidecar;
        for (what, spec, cpu, memory) in [
            ("nothing", json!({"containers": [{"name": "c"}]}), "0", "0"),
            (
                "null lists",
                json!({"containers": null, "initContainers": null}),
                "0",
                "0",
            ),
            (
                "a sum",
                json!({"containers": [container("1", "1Gi"), container("500m", "1Gi")]}),
                "1500m",
                "2Gi",
            ),
            (
                "the largest init container per resource",
                json!({
                    "containers": [container("2", "1Gi"), container("1", "1Gi")],
                    "initContainers": [container("2", "1Gi"), container("2", "3Gi")]
                }),
                "3",
                "3Gi",
            ),
            (
                "sidecars beside the containers",
                json!({"containers": [container("1", "1Gi")], "initContainers": [sidecar("1", "1Gi")]}),
                "2",
                "2Gi",
            ),
            (
                "an init container beside the sidecars before it only",
                json!({
                    "containers": [container("1", "0")],
                    "initContainers": [sidecar("1", "0"), container("3", "0"), sidecar("2", "0")]
                }),
                "4",
                "0",
            ),
            (
                "overhead on top of the peak",
                json!({
                    "containers": [container("1", "1Gi")],
                    "initContainers": [container("2", "1Gi")],
                    "overhead": {"cpu": "250m", "memory": "1Gi"}
                }),
                "2250m",
                "2Gi",
            ),
            (
                "pod-level requests instead of the sum",
                json!({"containers": [container("1", "1Gi")], "resources": {"requests": {"cpu": "4"}}}),
                "4",
                "1Gi",
            ),
            (
                "a pod-level zero too, and overhead after it",
                json!({
                    "containers": [container("1", "1Gi")],
                    "resources": {"requests": {"cpu": "0", "memory": "1Mi"}},
                    "overhead": {"cpu": "100m"}
                }),
                "100m",
                "1Mi",
            ),
        ] {
            let expected = mk_resources(json!({"cpu": cpu, "memory": memory, "pods": "1"}));
            assert_eq!(pod_request(&spec).unwrap(), expected, "{what}");
        }
    }

    #[test]
    fn extended_resources_and_huge_pages_are_counted_and_limits_are_not() {
        let spec = json!({
            "containers": [{
                "name": "c",
                "resources": {
                    "limits": {"cpu": "9", "example.com/x": "9"},
                    "requests": {"example.com/x": "2", "hugepages-2Mi": "4Mi", "ephemeral-storage": "1Gi"}
                }
            }],
            "resources": {"requests": {"hugepages-2Mi": "8Mi", "example.com/x": "5", "ephemeral-storage": "5Gi"}}
        });
        let expected =
            json!({"pods": "1", "example.com/x": "2", "hugepages-2Mi": "8Mi", "ephemeral-storage": "1Gi"});
        assert_eq!(pod_request(&spec).unwrap(), mk_resources(expected));
    }

    fn mk_running(spec_cpu: &str, status: Value) -> Resources {
        let spec =
            json!({"containers": [mk_container(spec_cpu, "0")], "initContainers": [mk_sidecar("1", "0")]});
        let spec: PodRequests = serde_json::from_value(spec).unwrap();
        spec.effective(&serde_json::from_value(status).unwrap())
    }

    #[test]
    fn a_resized_pod_counts_with_the_most_of_wanted_granted_and_actual() {
        let status = |actual: &str, granted: &str| {
            json!({
                "name": "c",
                "resources": {"requests": {"cpu": actual}},
                "allocatedResources": {"cpu": granted}
            })
        };
        let infeasible = json!([{"type": "PodResizePending", "reason": "Infeasible"}]);
        let deferred = json!([{"type": "PodResizePending", "reason": "Deferred"}]);
        for (what, status, milli_cpu) in [
            ("no status", json!({}), 3000),
            ("actual", json!({"containerStatuses": [status("4", "1")]}), 5000),
            ("granted", json!({"containerStatuses": [status("1", "5")]}), 6000),
            (
                "wanted",
                json!({"containerStatuses": [status("1", "1")], "conditions": deferred}),
                3000,
            ),
            (
                "infeasible",
                json!({"containerStatuses": [status("1", "1")], "conditions": infeasible}),
                2000,
            ),
            (
                "sidecar",
                json!({"initContainerStatuses": [status("4", "1")]}),
                6000,
            ),
            (
                "no figure in effect",
                json!({"containerStatuses": [{"name": "c", "allocatedResources": {"cpu": "9"}}]}),
                3000,
            ),
        ] {
            assert_eq!(mk_running("2", status).milli_cpu, milli_cpu, "{what}");
        }
    }

    #[test]
    fn a_resize_at_pod_level_counts_likewise() {
        let spec: PodRequests = serde_json::from_value(json!({
            "containers": [mk_container("1", "0")], "resources": {"requests": {"cpu": "2"}}
        }))
        .unwrap();
        let status = json!({"resources": {"requests": {"cpu": "3"}}, "allocatedResources": {"cpu": "2"}});
        assert_eq!(
            spec.effective(&serde_json::from_value(status).unwrap()).milli_cpu,
            3000
        );
        assert_eq!(spec.effective(&RunningRequests::default()).milli_cpu, 2000);
    }

    #[test]
    fn a_bad_quantity_is_an_error() {
        let error = pod_request(&json!({"containers": [mk_container("1 core", "0")]})).unwrap_err();
        assert!(error.to_string().contains("1 core"), "{error}");
    }
}
