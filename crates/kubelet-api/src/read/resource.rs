//! `/metrics/resource` of a kubelet, or of anything that shows the same series.

use std::collections::BTreeMap;

use super::exposition::Sample;
use super::{ContainerReading, Reading};
use crate::usage::Figure;

const NANOS: f64 = 1e9;
const MILLIS: f64 = 1e3;

/// What has been read of one container or of the node.
#[derive(Default)]
struct Parts {
    cpu_core_nanos: Option<u64>,
    working_set_bytes: Option<u64>,
    started_ms: Option<i64>,
    time_ms: Option<i64>,
}

/// Reads the text. `now_ms` is the time of lines that carry none. A container without CPU or without memory is left
/// out.
#[must_use]
pub fn read(text: &str, now_ms: i64) -> Reading {
    let mut node = Parts::default();
    let mut containers: BTreeMap<[&str; 3], Parts> = BTreeMap::new();
    // Label values of Kubernetes' names have no escapes, so they can be borrowed from the text.
    for line in text.lines() {
        let Some(sample) = Sample::parse(line) else {
            continue;
        };
        let parts = match sample.name.split_once('_') {
            Some(("node", _)) => &mut node,
            Some(("container", _)) => match identity(&sample) {
                Some(identity) => containers.entry(identity).or_default(),
                None => continue,
            },
            _ => continue,
        };
        parts.take(&sample);
    }
    let containers = containers
        .into_iter()
        .filter_map(|([namespace, pod, container], parts)| {
            Some(ContainerReading {
                namespace: namespace.to_owned(),
                pod: pod.to_owned(),
                container: container.to_owned(),
                started_ms: parts.started_ms,
                figure: parts.figure(now_ms)?,
            })
        });
    Reading {
        node: node.figure(now_ms),
        containers: containers.collect(),
    }
}

fn identity<'a>(sample: &Sample<'a>) -> Option<[&'a str; 3]> {
    let borrowed = |name: &str| {
        let (_, value) = sample.labels.iter().find(|(key, _)| *key == name)?;
        match value {
            std::borrow::Cow::Borrowed(value) if !value.is_empty() => Some(*value),
            _ => None,
        }
    };
    Some([borrowed("namespace")?, borrowed("pod")?, borrowed("container")?])
}

// === impl Parts ===

impl Parts {
    fn take(&mut self, sample: &Sample<'_>) {
        let Some(number) = sample.number() else { return };
        let whole = |number: f64| number.round() as u64;
        match sample.name {
            "node_cpu_usage_seconds_total" | "container_cpu_usage_seconds_total" => {
                self.cpu_core_nanos = Some(whole(number * NANOS));
                self.time_ms = sample.time_ms;
            }
            "node_memory_working_set_bytes" | "container_memory_working_set_bytes" => {
                self.working_set_bytes = Some(whole(number));
            }
            "container_start_time_seconds" => {
                self.started_ms = i64::try_from(whole(number * MILLIS)).ok();
            }
            _ => {}
        }
    }

    fn figure(&self, now_ms: i64) -> Option<Figure> {
        Some(Figure {
            time_ms: self.time_ms.unwrap_or(now_ms),
            cpu_core_nanos: Some(self.cpu_core_nanos?),
            cpu_nano_cores: None,
            working_set_bytes: self.working_set_bytes?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render;
    use crate::testing::mk_usage;

    const TEXT: &str = r#"
# HELP container_cpu_usage_seconds_total [STABLE] Cumulative cpu time consumed by the container
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="app",namespace="ns",pod="p"} 12.5 1732000000100
container_cpu_usage_seconds_total{container="half",namespace="ns",pod="p"} 1 1732000000100
container_cpu_usage_seconds_total{container="",namespace="ns",pod="p"} 1 1732000000100
container_memory_working_set_bytes{container="app",namespace="ns",pod="p"} 1.0e+07 1732000000100
container_start_time_seconds{container="app",namespace="ns",pod="p"} 1.7319e+09
container_swap_usage_bytes{container="app",namespace="ns",pod="p"} 0
node_cpu_usage_seconds_total 1834.21 1732000000123
node_memory_working_set_bytes 5.21e+09 1732000000123
pod_cpu_usage_seconds_total{namespace="ns",pod="p"} 12.6 1732000000100
scrape_error 0
"#;

    #[test]
    fn containers_need_both_figures_and_times_are_the_kubelets() {
        let figure = |time_ms, cpu_core_nanos, working_set_bytes| Figure {
            time_ms,
            cpu_core_nanos: Some(cpu_core_nanos),
            cpu_nano_cores: None,
            working_set_bytes,
        };
        let reading = read(TEXT, 5);
        assert_eq!(
            reading.node,
            Some(figure(1_732_000_000_123, 1_834_210_000_000, 5_210_000_000))
        );
        assert_eq!(
            reading.containers,
            [ContainerReading {
                namespace: "ns".to_owned(),
                pod: "p".to_owned(),
                container: "app".to_owned(),
                started_ms: Some(1_731_900_000_000),
                figure: figure(1_732_000_000_100, 12_500_000_000, 10_000_000),
            }]
        );
    }

    #[test]
    fn a_line_without_a_time_was_taken_now() {
        let text = "node_cpu_usage_seconds_total 1\nnode_memory_working_set_bytes 2\n";
        assert_eq!(read(text, 5).node.unwrap().time_ms, 5);
        assert_eq!(read("", 5), Reading::default());
    }

    #[test]
    fn what_was_rendered_reads_back() {
        let usage = mk_usage();
        let reading = read(&render::resource::render(Some(&usage)), 0);
        let node = usage.node.unwrap();
        assert_eq!(
            reading.node.map(|figure| figure.cpu_core_nanos),
            Some(Some(node.cpu_core_nanos))
        );
        let names: Vec<_> = reading
            .containers
            .iter()
            .map(|reading| &*reading.container)
            .collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(reading.containers[0].started_ms, Some(1_731_900_000_005));
    }
}
