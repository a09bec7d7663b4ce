//! `/stats/summary`, the JSON of `k8s.io/kubelet/pkg/apis/stats/v1alpha1`.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::usage::{NodeUsage, PodUsage, Sample};

/// The summary of `node`. What is not known is left out, never filled in.
#[must_use]
pub fn render(node: &str, usage: &NodeUsage) -> Value {
    let mut about = entry(usage.started_ms, usage.node.as_ref());
    about.insert("nodeName".to_owned(), json!(node));
    json!({"node": about, "pods": usage.pods.iter().map(pod).collect::<Vec<_>>()})
}

fn pod(pod: &PodUsage) -> Value {
    let mut about = entry(pod.started_ms, pod.total().as_ref());
    about.insert(
        "podRef".to_owned(),
        json!({"name": pod.name, "namespace": pod.namespace, "uid": pod.uid}),
    );
    let containers = pod.containers.iter().map(|container| {
        let mut about = entry(container.started_ms, Some(&container.sample));
        about.insert("name".to_owned(), json!(container.name));
        Value::Object(about)
    });
    about.insert("containers".to_owned(), containers.collect());
    Value::Object(about)
}

/// What node, pods and containers have in common.
fn entry(started_ms: Option<i64>, sample: Option<&Sample>) -> Map<String, Value> {
    let mut entry = Map::new();
    if let Some(start) = started_ms.and_then(time) {
        entry.insert("startTime".to_owned(), start);
    }
    if let Some(sample) = sample {
        let time = time(sample.time_ms);
        let mut cpu = json!({"time": time, "usageCoreNanoSeconds": sample.cpu_core_nanos});
        if let Some(rate) = sample.cpu_nano_cores {
            cpu["usageNanoCores"] = json!(rate);
        }
        entry.insert("cpu".to_owned(), cpu);
        entry.insert(
            "memory".to_owned(),
            json!({"time": time, "workingSetBytes": sample.working_set_bytes}),
        );
    }
    entry
}

/// RFC 3339 with whole seconds, as `metav1.Time`.
fn time(ms: i64) -> Option<Value> {
    Timestamp::from_second(ms.div_euclid(1000))
        .ok()
        .map(|time| json!(time.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::mk_usage;

    #[test]
    fn the_summary_has_the_pods_identity_and_figures() {
        let summary = render("vn", &mk_usage());
        assert_eq!(
            summary["node"],
            json!({
                "nodeName": "vn",
                "startTime": "2024-11-18T03:20:00Z",
                "cpu": {"time": "2024-11-19T07:06:40Z", "usageCoreNanoSeconds": 1_834_210_000_000_u64, "usageNanoCores": 3_000_000_000_u64},
                "memory": {"time": "2024-11-19T07:06:40Z", "workingSetBytes": 5_210_000_000_u64},
            })
        );
        let pod = &summary["pods"][0];
        assert_eq!(
            pod["podRef"],
            json!({"name": "p", "namespace": "ns", "uid": "uid-1"})
        );
        assert_eq!(pod["memory"]["workingSetBytes"], 12_000_000);
        assert_eq!(pod["containers"].as_array().unwrap().len(), 2);
        assert_eq!(
            pod["containers"][1],
            json!({
                "name": "b",
                "cpu": {"time": "2024-11-19T07:06:40Z", "usageCoreNanoSeconds": 1},
                "memory": {"time": "2024-11-19T07:06:40Z", "workingSetBytes": 2_000_000},
            })
        );
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let summary = render("vn", &NodeUsage::default());
        assert_eq!(summary, json!({"node": {"nodeName": "vn"}, "pods": []}));
    }
}
