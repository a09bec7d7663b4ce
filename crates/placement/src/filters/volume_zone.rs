//! A bound volume with zone labels is used only by nodes of those zones.

use super::refuse;
use crate::node::Node;
use crate::reason::{Reason, Refusal, Tally};
use crate::storage::Volume;

/// Labels that bind a volume to nodes, each with the label that replaced it
/// (`topologyLabels` in kube-scheduler's volumezone plugin).
const ZONE_LABELS: [(&str, &str); 4] = [
    (
        "failure-domain.beta.kubernetes.io/zone",
        "topology.kubernetes.io/zone",
    ),
    (
        "failure-domain.beta.kubernetes.io/region",
        "topology.kubernetes.io/region",
    ),
    ("topology.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("topology.kubernetes.io/region", "topology.kubernetes.io/region"),
];
/// Between the zones of a volume that is in several.
const SEPARATOR: &str = "__";

/// The zones that the pod's volumes are in.
#[derive(Debug)]
pub(super) struct VolumeZone<'a>(Vec<Zones<'a>>);

#[derive(Debug)]
struct Zones<'a> {
    label: &'static str,
    successor: &'static str,
    values: Vec<&'a str>,
}

// === impl VolumeZone ===

impl<'a> VolumeZone<'a> {
    pub(super) fn prepare(volumes: &[&'a Volume]) -> Self {
        let zones = |volume: &&'a Volume| {
            let volume: &'a Volume = volume;
            ZONE_LABELS.iter().filter_map(move |(label, successor)| {
                let values = volume
                    .labels
                    .get(label)?
                    .split(SEPARATOR)
                    .map(str::trim)
                    .collect();
                Some(Zones {
                    label,
                    successor,
                    values,
                })
            })
        };
        Self(volumes.iter().flat_map(zones).collect())
    }

    pub(super) fn check(&self, node: &Node<'_>, tally: &mut Tally) -> Option<Refusal> {
        let labels = &node.facts.labels;
        // A cluster of one zone may have no zone labels at all.
        if self.0.is_empty() || !ZONE_LABELS.iter().any(|(label, _)| labels.get(label).is_some()) {
            return None;
        }
        let fits = |zones: &Zones<'_>| {
            let zone = labels.get(zones.label).or_else(|| labels.get(zones.successor));
            zone.is_some_and(|zone| zones.values.contains(&&**zone))
        };
        if self.0.iter().all(fits) {
            None
        } else {
            refuse(Reason::VolumeZone, Refusal::Never, tally)
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{mk_claim, mk_claimant, mk_cluster, mk_node, mk_volume, refusals, store};

    #[test]
    fn zone_labels_of_volume_and_node_must_agree() {
        let zone = "topology.kubernetes.io/zone";
        let beta = "failure-domain.beta.kubernetes.io/zone";
        for (volume, node, fits) in [
            (json!({}), json!({zone: "a"}), true),
            (json!({zone: "a"}), json!({zone: "a"}), true),
            (json!({zone: "a"}), json!({zone: "b"}), false),
            (json!({zone: "a__b"}), json!({zone: "b"}), true),
            (json!({zone: "a__b"}), json!({zone: "c"}), false),
            (json!({zone: "a"}), json!({}), true),
            (
                json!({zone: "a"}),
                json!({"topology.kubernetes.io/region": "r"}),
                false,
            ),
            (json!({beta: "a"}), json!({beta: "a"}), true),
            (json!({beta: "a"}), json!({zone: "a"}), true),
            (json!({beta: "a"}), json!({zone: "b"}), false),
            (json!({"other": "a"}), json!({zone: "b"}), true),
        ] {
            let mut reachable = mk_volume("v", "");
            reachable["spec"]["nodeAffinity"] = json!(null);
            reachable["metadata"]["labels"] = volume.clone();
            let mut cluster = mk_cluster(&[mk_node("n", &node)], &[]);
            store(&mut cluster, &[mk_claim("c", "v"), reachable]);
            let refused = refusals(&cluster, &mk_claimant(&["c"]));
            let expected: &[(String, String)] = &[("n".into(), Reason::VolumeZone.to_string())];
            assert_eq!(refused, if fits { &[] } else { expected }, "{volume} {node}");
        }
    }
}
