//! Free capacity as it really is: in fragments.

use std::fmt;

use serde::Serialize;
use tensile_core::resources::{Lane, Resources};

use crate::cluster::Cluster;
use crate::explain::{Fragment, listed};

/// Free capacity of one cluster. Cordoned nodes are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Fragments {
    /// What is free on each node, sorted by name.
    pub nodes: Vec<Fragment>,
    /// The sum over the nodes.
    pub free: Resources,
    /// The largest fragment of each resource, on whichever node it is.
    pub largest: Resources,
    /// The part of `free` that is on nodes where none of the waiting pods fits. Without waiting pods it is
    /// nothing.
    pub stranded: Resources,
}

// === impl Fragments ===

impl Fragments {
    /// The fragments of `cluster` while pods with these requests wait.
    #[must_use]
    pub fn of(cluster: &Cluster, waiting: &[Resources]) -> Self {
        let mut fragments = Self::default();
        let open = cluster.nodes().filter(|node| !node.facts.unschedulable);
        for fragment in open.map(|node| Fragment::of(&node)) {
            fragments.free.add(&fragment.free);
            fragments.largest.max(&fragment.free);
            if !waiting.is_empty() && !waiting.iter().any(|request| request.fits(&fragment.free)) {
                fragments.stranded.add(&fragment.free);
            }
            fragments.nodes.push(fragment);
        }
        fragments.nodes.sort_by(|left, right| left.node.cmp(&right.node));
        fragments
    }

    /// The stranded share of what is free in `lane`, from 0 to 1; 0 if nothing is free.
    #[must_use]
    pub fn stranded_share(&self, lane: &Lane) -> f64 {
        match self.free.get(lane) {
            0 => 0.0,
            free => self.stranded.get(lane) as f64 / free as f64,
        }
    }
}

/// Several lines of text.
impl fmt::Display for Fragments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "free on {} nodes: {}", self.nodes.len(), listed(&self.free))?;
        writeln!(f, "largest fragments: {}", listed(&self.largest))?;
        writeln!(f, "stranded: {}", listed(&self.stranded))?;
        self.nodes
            .iter()
            .try_for_each(|Fragment { node, free }| writeln!(f, "  {node}: {}", listed(free)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{mk_cluster, mk_pod};

    fn mk_resources(list: Value) -> Resources {
        serde_json::from_value(list).unwrap()
    }

    fn mk_fragmented() -> Cluster {
        let node = |name: &str, cpu: &str, cordoned: bool| {
            json!({
                "metadata": {"name": name},
                "spec": {"unschedulable": cordoned},
                "status": {"allocatable": {"cpu": cpu, "memory": "1Gi"}}
            })
        };
        let requests = json!({"cpu": "3", "memory": "512Mi"});
        let pod = mk_pod(
            "p",
            json!({"containers": [{"name": "c", "resources": {"requests": requests}}]}),
        );
        mk_cluster(
            &[
                node("n", "4", false),
                node("m", "3", false),
                node("shut", "9", true),
            ],
            &[pod],
        )
    }

    #[test]
    fn sums_hide_what_the_largest_fragment_shows() {
        let fragments = Fragments::of(&mk_fragmented(), &[]);
        assert_eq!(
            fragments.free,
            mk_resources(json!({"cpu": "4", "memory": "1536Mi"}))
        );
        assert_eq!(
            fragments.largest,
            mk_resources(json!({"cpu": "3", "memory": "1Gi"}))
        );
        assert_eq!(fragments.stranded, Resources::default());
        let text = "free on 2 nodes: cpu 4, memory 1536Mi\nlargest fragments: cpu 3, memory 1Gi\n\
                    stranded: nothing\n  m: cpu 3, memory 1Gi\n  n: cpu 1, memory 512Mi\n";
        assert_eq!(fragments.to_string(), text);
    }

    #[test]
    fn what_no_waiting_pod_can_use_is_stranded() {
        for (waiting, stranded, share) in [
            (
                vec![json!({"cpu": "2"})],
                json!({"cpu": "1", "memory": "512Mi"}),
                0.25,
            ),
            (
                vec![json!({"cpu": "2"}), json!({"memory": "512Mi"})],
                json!({}),
                0.0,
            ),
            (
                vec![json!({"cpu": "4"})],
                json!({"cpu": "4", "memory": "1536Mi"}),
                1.0,
            ),
        ] {
            let waiting: Vec<Resources> = waiting.into_iter().map(mk_resources).collect();
            let fragments = Fragments::of(&mk_fragmented(), &waiting);
            assert_eq!(fragments.stranded, mk_resources(stranded));
            assert!((fragments.stranded_share(&Lane::MilliCpu) - share).abs() < 1e-9);
        }
    }
}
