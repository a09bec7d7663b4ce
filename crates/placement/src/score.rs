//! Which of the nodes that fit strands the least.

use tensile_core::resources::Resources;

use crate::node::Node;

/// How much of a node would be left in pieces that are hard to use; less is better. The unit is a thousandth
/// of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stranding(pub u32);

/// The whole node.
const WHOLE: i64 = 1000;

// === impl Stranding ===

impl Stranding {
    /// What placing `request` on `node` would leave:
    /// - the free share of CPU and memory, so that the tightest fragment that fits is taken first;
    /// - half of their difference, since CPU without memory is of little use, nor memory without CPU;
    /// - the free share of extended resources that the pod does not ask for, since a pod without need of an
    ///   accelerator should not sit where one waits.
    #[must_use]
    pub fn of(node: &Node<'_>, request: &Resources) -> Self {
        let total = &node.facts.allocatable;
        let cpu = free_share(total.milli_cpu, node.used.milli_cpu, request.milli_cpu);
        let memory = free_share(total.memory, node.used.memory, request.memory);
        let unused = total
            .extended()
            .filter(|(name, _)| !request.extended().any(|(asked, _)| asked == *name));
        let used = |name| {
            node.used
                .extended()
                .find(|(known, _)| *known == name)
                .map_or(0, |(_, units)| units)
        };
        let idle: i64 = unused.map(|(name, units)| free_share(units, used(name), 0)).sum();
        let sum = cpu + memory + (cpu - memory).abs() / 2 + idle;
        Self(u32::try_from(sum).unwrap_or(u32::MAX))
    }
}

/// Thousandths of `total` that are free once `request` is added to `used`.
fn free_share(total: i64, used: i64, request: i64) -> i64 {
    if total <= 0 {
        return 0;
    }
    let free = total.saturating_sub(used).saturating_sub(request).clamp(0, total);
    // Above eight petabytes the last digits do not matter.
    free.checked_mul(WHOLE)
        .map_or_else(|| free / (total / WHOLE), |scaled| scaled / total)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{mk_candidate, mk_cluster, mk_pod};

    fn stranding(allocatable: &Value, used: &Value, asked: &Value) -> u32 {
        let spec =
            |requests: &Value| json!({"containers": [{"name": "c", "resources": {"requests": requests}}]});
        let node = json!({"metadata": {"name": "n"}, "status": {"allocatable": allocatable}});
        let cluster = mk_cluster(&[node], &[mk_pod("used", spec(used))]);
        let candidate = mk_candidate(&json!({}), &spec(asked));
        Stranding::of(&cluster.node("n").unwrap(), &candidate.pod.request).0
    }

    #[test]
    fn a_tight_even_fragment_without_idle_accelerators_is_best() {
        let node = json!({"cpu": "10", "memory": "10Gi"});
        let accelerated = json!({"cpu": "10", "memory": "10Gi", "example.com/x": "2"});
        let asked = json!({"cpu": "2", "memory": "2Gi"});
        let asked_x = json!({"cpu": "2", "memory": "2Gi", "example.com/x": "1"});
        for (what, allocatable, used, asked, expected) in [
            (
                "exactly full",
                &node,
                json!({"cpu": "8", "memory": "8Gi"}),
                &asked,
                0,
            ),
            (
                "half free",
                &node,
                json!({"cpu": "3", "memory": "3Gi"}),
                &asked,
                1000,
            ),
            ("uneven", &node, json!({"cpu": "8", "memory": "3Gi"}), &asked, 750),
            (
                "idle accelerators",
                &accelerated,
                json!({"cpu": "8", "memory": "8Gi"}),
                &asked,
                1000,
            ),
            (
                "accelerators in use",
                &accelerated,
                json!({"cpu": "8", "memory": "8Gi"}),
                &asked_x,
                0,
            ),
        ] {
            assert_eq!(stranding(allocatable, &used, asked), expected, "{what}");
        }
    }
}
