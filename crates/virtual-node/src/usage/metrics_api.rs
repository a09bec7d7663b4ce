//! `PodMetrics` and `NodeMetrics` of `metrics.k8s.io/v1beta1`, read as figures. They tell rates, no counters. Pure.

use jiff::Timestamp;
use serde_json::Value;

use tensile_core::quantity::Quantity;
use tensile_kubelet_api::read::ContainerReading;
use tensile_kubelet_api::usage::Figure;

/// The containers of a list of pods.
pub(super) fn containers(list: &Value) -> Vec<ContainerReading> {
    let read = |pod: &Value, container: &Value| {
        Some(ContainerReading {
            namespace: pod["metadata"]["namespace"].as_str()?.to_owned(),
            pod: pod["metadata"]["name"].as_str()?.to_owned(),
            container: container["name"].as_str()?.to_owned(),
            started_ms: None,
            figure: figure(&pod["timestamp"], &container["usage"])?,
        })
    };
    let pods = items(list);
    pods.flat_map(|pod| {
        let containers = pod["containers"].as_array().into_iter().flatten();
        containers.filter_map(move |container| read(pod, container))
    })
    .collect()
}

/// A list of nodes, by name.
pub(super) fn nodes(list: &Value) -> Vec<(String, Figure)> {
    let read = |node: &Value| {
        let name = node["metadata"]["name"].as_str()?.to_owned();
        Some((name, figure(&node["timestamp"], &node["usage"])?))
    };
    items(list).filter_map(read).collect()
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list["items"].as_array().into_iter().flatten()
}

fn figure(time: &Value, usage: &Value) -> Option<Figure> {
    let time: Timestamp = time.as_str()?.parse().ok()?;
    let amount = |name: &str| usage[name].as_str()?.parse::<Quantity>().ok();
    Some(Figure {
        time_ms: time.as_millisecond(),
        cpu_core_nanos: None,
        cpu_nano_cores: u64::try_from(amount("cpu")?.nanos()).ok(),
        working_set_bytes: u64::try_from(amount("memory")?.value()).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn usage_is_read_from_quantities_and_what_is_none_is_left_out() {
        let figure = |cpu, memory| Figure {
            time_ms: 1_732_000_000_000,
            cpu_core_nanos: None,
            cpu_nano_cores: Some(cpu),
            working_set_bytes: memory,
        };
        let cases = [
            (
                json!({"cpu": "2500000n", "memory": "12Ki"}),
                Some(figure(2_500_000, 12_288)),
            ),
            (
                json!({"cpu": "1500m", "memory": "1M"}),
                Some(figure(1_500_000_000, 1_000_000)),
            ),
            (json!({"cpu": "1", "memory": "0"}), Some(figure(1_000_000_000, 0))),
            (json!({"cpu": "1"}), None),
            (json!({"cpu": "x", "memory": "1"}), None),
            (json!({"cpu": "1", "memory": "-1"}), None),
        ];
        for (usage, wanted) in cases {
            let about = json!({"name": "p", "namespace": "ns"});
            let time = "2024-11-19T07:06:40Z";
            let pod =
                json!({"metadata": about, "timestamp": time, "containers": [{"name": "c", "usage": usage}]});
            let got = containers(&json!({"items": [pod]}));
            assert_eq!(got.first().map(|container| container.figure), wanted, "{usage}");
            assert!(got.iter().all(|container| [
                &*container.namespace,
                &*container.pod,
                &*container.container
            ] == ["ns", "p", "c"]));
            let node = json!({"metadata": {"name": "n"}, "timestamp": time, "usage": usage});
            let got = nodes(&json!({"items": [node]}));
            assert_eq!(got.first().map(|(_, figure)| *figure), wanted, "{usage}");
        }
    }

    #[test]
    fn what_is_no_list_has_nothing() {
        for list in [json!(null), json!({}), json!({"items": [{}]})] {
            assert!(containers(&list).is_empty() && nodes(&list).is_empty(), "{list}");
        }
    }
}
