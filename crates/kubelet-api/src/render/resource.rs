//! `/metrics/resource`, the text that metrics-server parses.
//!
//! metrics-server finds labels by substring and reads a trailing timestamp, so the label order and the form of each
//! line are fixed here rather than left to a general encoder.

use std::fmt::Write as _;

use crate::usage::{NodeUsage, Sample};

/// One family: its name, type and help.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
}

const CONTAINER_CPU: Family = Family {
    name: "container_cpu_usage_seconds_total",
    kind: "counter",
    help: "CPU time that the container has used, in seconds of one core.",
};
const CONTAINER_MEMORY: Family = Family {
    name: "container_memory_working_set_bytes",
    kind: "gauge",
    help: "Working set of the container, in bytes.",
};
const CONTAINER_START: Family = Family {
    name: "container_start_time_seconds",
    kind: "gauge",
    help: "Start of the container, in seconds since 1970.",
};
const NODE_CPU: Family = Family {
    name: "node_cpu_usage_seconds_total",
    kind: "counter",
    help: "CPU time that the node has used, in seconds of one core.",
};
const NODE_MEMORY: Family = Family {
    name: "node_memory_working_set_bytes",
    kind: "gauge",
    help: "Working set of the node, in bytes.",
};
const POD_CPU: Family = Family {
    name: "pod_cpu_usage_seconds_total",
    kind: "counter",
    help: "CPU time that the pod has used, in seconds of one core.",
};
const POD_MEMORY: Family = Family {
    name: "pod_memory_working_set_bytes",
    kind: "gauge",
    help: "Working set of the pod, in bytes.",
};
const SCRAPE_ERROR: Family = Family {
    name: "resource_scrape_error",
    kind: "gauge",
    help: "1 if the usage is not known now, else 0.",
};
/// The same under the name that older kubelets used.
const OLD_SCRAPE_ERROR: Family = Family {
    name: "scrape_error",
    ..SCRAPE_ERROR
};

/// The text for `usage`; `None` means that nothing is known, and says so.
#[must_use]
pub fn render(usage: Option<&NodeUsage>) -> String {
    let mut text = String::new();
    if let Some(usage) = usage {
        containers(&mut text, usage);
        node(&mut text, usage);
        pods(&mut text, usage);
    }
    for family in [OLD_SCRAPE_ERROR, SCRAPE_ERROR] {
        family.write(
            &mut text,
            [("", if usage.is_some() { "0" } else { "1" }.to_owned())],
        );
    }
    text
}

fn containers(text: &mut String, usage: &NodeUsage) {
    let all = || {
        usage.pods.iter().flat_map(|pod| {
            pod.containers.iter().map(move |container| {
                let labels = [
                    ("container", container.name.as_str()),
                    ("namespace", pod.namespace.as_str()),
                    ("pod", pod.name.as_str()),
                ];
                (labels_of(&labels), container)
            })
        })
    };
    CONTAINER_CPU.write(
        text,
        all().map(|(labels, container)| (labels, cpu(&container.sample))),
    );
    CONTAINER_MEMORY.write(
        text,
        all().map(|(labels, container)| (labels, memory(&container.sample))),
    );
    CONTAINER_START.write(
        text,
        all().filter_map(|(labels, container)| Some((labels, seconds(container.started_ms?)))),
    );
}

fn node(text: &mut String, usage: &NodeUsage) {
    NODE_CPU.write(text, usage.node.iter().map(|sample| ("", cpu(sample))));
    NODE_MEMORY.write(text, usage.node.iter().map(|sample| ("", memory(sample))));
}

fn pods(text: &mut String, usage: &NodeUsage) {
    let all = || {
        usage.pods.iter().filter_map(|pod| {
            let labels = [("namespace", pod.namespace.as_str()), ("pod", pod.name.as_str())];
            Some((labels_of(&labels), pod.total()?))
        })
    };
    POD_CPU.write(text, all().map(|(labels, sample)| (labels, cpu(&sample))));
    POD_MEMORY.write(text, all().map(|(labels, sample)| (labels, memory(&sample))));
}

fn cpu(sample: &Sample) -> String {
    let (whole, nanos) = (
        sample.cpu_core_nanos / 1_000_000_000,
        sample.cpu_core_nanos % 1_000_000_000,
    );
    format!("{whole}.{nanos:09} {}", sample.time_ms)
}

fn memory(sample: &Sample) -> String {
    format!("{} {}", sample.working_set_bytes, sample.time_ms)
}

fn seconds(ms: i64) -> String {
    format!("{}.{:03}", ms.div_euclid(1000), ms.rem_euclid(1000))
}

/// `{a="x",b="y"}`, with the escapes of the text format.
fn labels_of(labels: &[(&str, &str)]) -> String {
    let pairs: Vec<_> = labels
        .iter()
        .map(|(name, value)| format!("{name}=\"{}\"", escape(value)))
        .collect();
    format!("{{{}}}", pairs.join(","))
}

/// The escapes of a label's value.
pub(crate) fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

// === impl Family ===

impl Family {
    /// Writes the family with its samples (labels, then value and timestamp); nothing without samples.
    fn write<L: AsRef<str>>(&self, text: &mut String, samples: impl IntoIterator<Item = (L, String)>) {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return;
        }
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "# HELP {} {}\n# TYPE {} {}",
            self.name, self.help, self.name, self.kind
        );
        for (labels, sample) in samples {
            let _ = writeln!(text, "{}{} {sample}", self.name, labels.as_ref());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::mk_usage;

    #[test]
    fn the_text_is_what_metrics_server_parses() {
        let text = render(Some(&mk_usage()));
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            lines,
            [
                r#"container_cpu_usage_seconds_total{container="a",namespace="ns",pod="p"} 12.500000000 1732000000100"#,
                r#"container_cpu_usage_seconds_total{container="b",namespace="ns",pod="p"} 0.000000001 1732000000200"#,
                r#"container_memory_working_set_bytes{container="a",namespace="ns",pod="p"} 10000000 1732000000100"#,
                r#"container_memory_working_set_bytes{container="b",namespace="ns",pod="p"} 2000000 1732000000200"#,
                r#"container_start_time_seconds{container="a",namespace="ns",pod="p"} 1731900000.005"#,
                "node_cpu_usage_seconds_total 1834.210000000 1732000000123",
                "node_memory_working_set_bytes 5210000000 1732000000123",
                r#"pod_cpu_usage_seconds_total{namespace="ns",pod="p"} 12.500000001 1732000000200"#,
                r#"pod_memory_working_set_bytes{namespace="ns",pod="p"} 12000000 1732000000200"#,
                "scrape_error 0",
                "resource_scrape_error 0",
            ]
        );
    }

    #[test]
    fn each_family_is_typed_once_before_its_samples() {
        let text = render(Some(&mk_usage()));
        for family in [
            "node_cpu_usage_seconds_total counter",
            "pod_memory_working_set_bytes gauge",
            "scrape_error gauge",
        ] {
            assert_eq!(text.matches(&format!("# TYPE {family}\n")).count(), 1, "{family}");
        }
        assert!(!render(None).contains("node_cpu"));
        assert!(render(None).ends_with("resource_scrape_error 1\n"));
    }

    #[test]
    fn label_values_are_escaped() {
        assert_eq!(labels_of(&[("pod", "a\"b\\c\nd")]), r#"{pod="a\"b\\c\nd"}"#);
    }
}
