//! Readings of the lower cluster as usage of upper pods. Pure.

use std::collections::{BTreeMap, HashMap};

use tensile_kubelet_api::read::ContainerReading;
use tensile_kubelet_api::usage::{ContainerUsage, Figure, Ledger, PodUsage};
use tensile_runtime::key::Key;

/// The lower nodes by name, and whether each counts for the virtual node's capacity.
pub(super) type NodeNames = BTreeMap<String, bool>;

/// Our pods by their lower key: the upper key and UID.
pub(super) type Running = HashMap<Key, (Key, Box<str>)>;

/// Counters of the containers of our pods, by the lower key and upper UID of the pod and the container's name.
#[derive(Debug, Default)]
pub(super) struct Containers {
    ledger: Ledger<(Key, Box<str>, String)>,
}

// === impl Containers ===

impl Containers {
    /// The usage of the pods that run, by their upper names; readings of others are passed over.
    pub(super) fn take(&mut self, readings: Vec<ContainerReading>, running: &Running) -> Vec<PodUsage> {
        let mut pods: BTreeMap<Key, PodUsage> = BTreeMap::new();
        for reading in readings {
            let key = Key::new(&reading.namespace, &reading.pod);
            let Some((upper, uid)) = running.get(&key) else {
                continue;
            };
            let container = self.container(key, uid.clone(), reading);
            let pod = pods.entry(upper.clone()).or_insert_with(|| PodUsage {
                namespace: upper.namespace.to_string(),
                name: upper.name.to_string(),
                uid: uid.to_string(),
                started_ms: None,
                containers: Vec::new(),
            });
            pod.containers.push(container);
        }
        // What runs and was not told of this time stays: its counters go on later.
        self.ledger
            .retain(|(key, uid, _)| running.get(key).is_some_and(|(_, now)| now == uid));
        pods.into_values().collect()
    }

    fn container(&mut self, pod: Key, uid: Box<str>, reading: ContainerReading) -> ContainerUsage {
        let key = (pod, uid, reading.container.clone());
        ContainerUsage {
            name: reading.container,
            started_ms: reading.started_ms,
            sample: self.ledger.take(key, reading.started_ms, &reading.figure),
        }
    }
}

/// What the node's own figures are the sum of: the lower nodes that count, or our containers if no node is known.
pub(super) fn parts(
    nodes: &[(String, Figure)],
    names: &NodeNames,
    pods: &[PodUsage],
) -> Vec<(String, Figure)> {
    if !nodes.is_empty() {
        let counted = nodes.iter().filter(|(name, _)| names.get(name) == Some(&true));
        return counted.cloned().collect();
    }
    let containers = pods
        .iter()
        .flat_map(|pod| pod.containers.iter().map(move |container| (pod, container)));
    containers
        .map(|(pod, container)| {
            let sample = container.sample;
            let figure = Figure {
                time_ms: sample.time_ms,
                cpu_core_nanos: Some(sample.cpu_core_nanos),
                cpu_nano_cores: sample.cpu_nano_cores,
                working_set_bytes: sample.working_set_bytes,
            };
            (format!("{}/{}", pod.uid, container.name), figure)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_figure(seconds: i64, cpu: u64) -> Figure {
        Figure {
            time_ms: seconds * 1000,
            cpu_core_nanos: Some(cpu),
            cpu_nano_cores: None,
            working_set_bytes: 1,
        }
    }

    fn mk_reading(pod: &str, container: &str, figure: Figure) -> ContainerReading {
        ContainerReading {
            namespace: "ns".to_owned(),
            pod: pod.to_owned(),
            container: container.to_owned(),
            started_ms: None,
            figure,
        }
    }

    /// The lower pod `ns/name` runs for `upper/upper-name`.
    fn mk_running(name: &str, uid: &str) -> Running {
        let upper = Key::new("upper", &format!("upper-{name}"));
        Running::from([(Key::new("ns", name), (upper, uid.into()))])
    }

    /// Name, UID, and each container's CPU.
    fn shown(pods: &[PodUsage]) -> Vec<String> {
        let container =
            |container: &ContainerUsage| format!(" {}={}", container.name, container.sample.cpu_core_nanos);
        pods.iter()
            .map(|pod| {
                let containers: String = pod.containers.iter().map(container).collect();
                format!("{} {}{containers}", pod.name, pod.uid)
            })
            .collect()
    }

    #[test]
    fn only_our_pods_are_shown_with_all_their_containers() {
        let mut containers = Containers::default();
        let readings = vec![
            mk_reading("ours", "b", mk_figure(1, 5)),
            mk_reading("theirs", "c", mk_figure(1, 6)),
            mk_reading("ours", "a", mk_figure(1, 7)),
        ];
        let pods = containers.take(readings, &mk_running("ours", "uid"));
        assert_eq!(shown(&pods), ["upper-ours uid b=5 a=7"]);
    }

    #[test]
    fn a_pod_that_takes_the_name_of_another_begins_anew() {
        let mut containers = Containers::default();
        for (seconds, uid, cpu, wanted) in [
            (1, "one", 50, 50),
            (2, "one", 40, 50),
            (3, "two", 4, 4),
            (4, "one", 3, 3),
        ] {
            let readings = vec![mk_reading("p", "c", mk_figure(seconds, cpu))];
            let pods = containers.take(readings, &mk_running("p", uid));
            assert_eq!(shown(&pods), [format!("upper-p {uid} c={wanted}")], "{seconds}");
        }
    }

    #[test]
    fn the_node_is_the_sum_of_the_nodes_that_count_or_of_our_containers() {
        let names = NodeNames::from([("a".to_owned(), true), ("cordoned".to_owned(), false)]);
        let nodes = ["a", "cordoned", "unknown"].map(|name| (name.to_owned(), mk_figure(1, 5)));
        let named = |parts: Vec<(String, Figure)>| -> Vec<String> {
            parts.into_iter().map(|(name, _)| name).collect()
        };
        let mut containers = Containers::default();
        let readings = vec![mk_reading("p", "c", mk_figure(1, 5))];
        let pods = containers.take(readings, &mk_running("p", "uid"));
        assert_eq!(named(parts(&nodes, &names, &pods)), ["a"]);
        assert_eq!(named(parts(&[], &names, &pods)), ["uid/c"]);
        assert!(parts(&[], &names, &[]).is_empty());
    }
}
