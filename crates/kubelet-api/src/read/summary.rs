//! `/stats/summary` of a kubelet, for kubelets that have no `/metrics/resource`, or show it to nobody.

use jiff::Timestamp;
use serde_json::Value;

use super::{ContainerReading, Reading};
use crate::usage::Figure;

/// Reads the summary. `now_ms` is the time of figures that carry none. A container without CPU or without memory is
/// left out.
#[must_use]
pub fn read(summary: &Value, now_ms: i64) -> Reading {
    let pods = summary["pods"].as_array().into_iter().flatten();
    let containers = pods.flat_map(|pod| {
        let about = &pod["podRef"];
        let containers = pod["containers"].as_array().into_iter().flatten();
        containers.filter_map(move |container| {
            Some(ContainerReading {
                namespace: about["namespace"].as_str()?.to_owned(),
                pod: about["name"].as_str()?.to_owned(),
                container: container["name"].as_str()?.to_owned(),
                started_ms: time(&container["startTime"]),
                figure: figure(container, now_ms)?,
            })
        })
    });
    Reading {
        node: figure(&summary["node"], now_ms),
        containers: containers.collect(),
    }
}

fn figure(of: &Value, now_ms: i64) -> Option<Figure> {
    Some(Figure {
        time_ms: time(&of["cpu"]["time"]).unwrap_or(now_ms),
        cpu_core_nanos: Some(of["cpu"]["usageCoreNanoSeconds"].as_u64()?),
        cpu_nano_cores: of["cpu"]["usageNanoCores"].as_u64(),
        working_set_bytes: of["memory"]["workingSetBytes"].as_u64()?,
    })
}

fn time(value: &Value) -> Option<i64> {
    let time: Timestamp = value.as_str()?.parse().ok()?;
    Some(time.as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render;
    use crate::testing::mk_usage;
    use serde_json::json;

    #[test]
    fn what_was_rendered_reads_back() {
        let usage = mk_usage();
        let reading = read(&render::summary::render("vn", &usage), 0);
        let node = reading.node.unwrap();
        // Times have whole seconds here.
        assert_eq!(node.time_ms, 1_732_000_000_000);
        assert_eq!(node.cpu_core_nanos, usage.node.map(|node| node.cpu_core_nanos));
        assert_eq!(node.cpu_nano_cores, Some(3_000_000_000));
        let names: Vec<_> = reading
            .containers
            .iter()
            .map(|reading| [&*reading.namespace, &*reading.pod, &*reading.container])
            .collect();
        assert_eq!(names, [["ns", "p", "a"], ["ns", "p", "b"]]);
    }

    #[test]
    fn what_has_no_figures_is_left_out() {
        let cpu = json!({"usageCoreNanoSeconds": 5});
        let memory = json!({"workingSetBytes": 7});
        let cases = [
            (json!({"name": "c", "cpu": cpu, "memory": memory}), 1),
            (json!({"name": "c", "cpu": cpu}), 0),
            (json!({"name": "c", "memory": memory}), 0),
            (
                json!({"name": "c", "cpu": {"usageCoreNanoSeconds": -1}, "memory": memory}),
                0,
            ),
            (json!({"cpu": cpu, "memory": memory}), 0),
        ];
        for (container, wanted) in cases {
            let pod = json!({"podRef": {"namespace": "ns", "name": "p"}, "containers": [container]});
            let reading = read(&json!({"pods": [pod]}), 9);
            assert_eq!(reading.containers.len(), wanted, "{container}");
            assert!(
                reading
                    .containers
                    .iter()
                    .all(|reading| reading.figure.time_ms == 9)
            );
            assert_eq!(reading.node, None);
        }
        assert_eq!(read(&json!(null), 0), Reading::default());
    }
}
