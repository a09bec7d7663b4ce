//! `fragments`: a picture of the free room of every lower node, and of the pods that wait for some.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use tensile_core::names;
use tensile_core::resources::{Lane, Resources};
use tensile_core::view::PodView;
use tensile_placement::{Fragments, Verdict};
use tensile_world::{Lowering, World, uid};

use crate::clusters::amount;
use crate::connect::Upper;
use crate::error::CliError;
use crate::lower::items;
use crate::output::{Outcome, Report};
use crate::picture;

/// Characters of a bar.
const BAR: i64 = 20;

/// The answer.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Picture {
    clusters: BTreeMap<String, Room>,
    waiting: Vec<Waiting>,
}

/// The room of one lower cluster.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Room {
    /// Why nothing is known about it.
    doubt: Option<String>,
    free: Resources,
    largest_fragment: Resources,
    stranded: Resources,
    nodes: Vec<NodeRoom>,
}

/// The room of one lower node.
#[derive(Debug, Serialize)]
struct NodeRoom {
    node: String,
    free: Resources,
    allocatable: Resources,
    /// Whether none of the waiting pods fits into what is free.
    stranded: bool,
}

/// A pod that waits.
#[derive(Debug, Serialize)]
struct Waiting {
    pod: String,
    request: Resources,
    /// Virtual nodes that fit it now, each with the lower node that it would get.
    fits: BTreeMap<String, String>,
}

/// Looks at all clusters and all waiting pods.
pub(crate) async fn run(upper: &Upper) -> Result<Picture, CliError> {
    let world = picture::world(upper).await?;
    let path = "/api/v1/pods?fieldSelector=status.phase%3DPending";
    let pods: Vec<Value> = items(&upper.client, path).await.map_err(|reason| CliError::Api {
        what: "the waiting pods".to_owned(),
        reason,
    })?;
    Ok(picture(&world, &pods))
}

fn picture(world: &World, pending: &[Value]) -> Picture {
    let waiting: Vec<Waiting> = pending
        .iter()
        .filter(|pod| waits(world, pod))
        .filter_map(|pod| Waiting::of(world, pod))
        .collect();
    let requests: Vec<Resources> = waiting.iter().map(|pod| pod.request.clone()).collect();
    let clusters = world.clusters().map(|(id, cluster)| {
        let mut room = Room {
            doubt: cluster.doubt.clone(),
            ..Room::default()
        };
        let fragments = Fragments::of(&cluster.model, &requests);
        room.nodes = fragments
            .nodes
            .iter()
            .map(|fragment| NodeRoom {
                node: fragment.node.clone(),
                free: fragment.free.clone(),
                allocatable: cluster
                    .model
                    .node(&fragment.node)
                    .map(|node| node.facts.allocatable.clone())
                    .unwrap_or_default(),
                stranded: !requests.is_empty()
                    && !requests.iter().any(|request| request.fits(&fragment.free)),
            })
            .collect();
        (room.free, room.largest_fragment, room.stranded) =
            (fragments.free, fragments.largest, fragments.stranded);
        (id.to_owned(), room)
    });
    Picture {
        clusters: clusters.collect(),
        waiting,
    }
}

/// Whether a pending pod may go to a virtual node and has no node below yet.
fn waits(world: &World, pod: &Value) -> bool {
    let tolerations = pod["spec"]["tolerations"].as_array().into_iter().flatten();
    let takes_part = tolerations
        .into_iter()
        .any(|toleration| toleration["key"] == names::PROVIDER_TAINT || toleration["key"].is_null());
    let node = pod["spec"]["nodeName"].as_str();
    let placed = node.is_some_and(|node| {
        let cluster = world.virtual_node(node).map(|node| &node.cluster);
        let cluster = cluster.and_then(|id| world.clusters().find(|(known, _)| known == id));
        cluster.is_none_or(|(_, cluster)| cluster.model.is_settled(uid(pod)))
    });
    takes_part && !placed
}

// === impl Waiting ===

impl Waiting {
    fn of(world: &World, pod: &Value) -> Option<Self> {
        let view: PodView = serde_json::from_value(pod.clone()).ok()?;
        let explained = world.explain(&mut Lowering::new(pod)).into_iter();
        let fits = explained.filter_map(|(node, told)| {
            let told = told.ok().filter(|told| told.verdict == Verdict::Fits)?;
            Some((node, told.best?.node))
        });
        Some(Self {
            pod: format!("{}/{}", view.namespace, view.name),
            fits: fits.collect(),
            request: view.request,
        })
    }

    fn text(&self) -> String {
        let asked = format!(
            "cpu {}, memory {}",
            amount(&self.request, &Lane::MilliCpu),
            amount(&self.request, &Lane::Memory)
        );
        let fits: Vec<String> = self
            .fits
            .iter()
            .map(|(node, lower)| format!("{node} ({lower})"))
            .collect();
        let fits = if fits.is_empty() {
            "nowhere".to_owned()
        } else {
            fits.join(", ")
        };
        format!("  {} ({asked}) fits: {fits}\n", self.pod)
    }
}

// === impl Room ===

impl Room {
    fn text(&self, id: &str) -> String {
        if let Some(doubt) = &self.doubt {
            return format!("cluster {id}: {doubt}\n");
        }
        let both = |resources: &Resources| {
            format!(
                "cpu {}, memory {}",
                amount(resources, &Lane::MilliCpu),
                amount(resources, &Lane::Memory)
            )
        };
        let head = format!(
            "cluster {id}: free {}; largest fragment {}; stranded {}\n",
            both(&self.free),
            both(&self.largest_fragment),
            both(&self.stranded)
        );
        let width = self
            .nodes
            .iter()
            .map(|node| node.node.chars().count())
            .max()
            .unwrap_or(0);
        let nodes = self.nodes.iter().map(|node| node.text(width));
        std::iter::once(head).chain(nodes).collect()
    }
}

// === impl NodeRoom ===

impl NodeRoom {
    fn text(&self, width: usize) -> String {
        let lane = |name: &str, lane: Lane| {
            let bar = bar(self.free.get(&lane), self.allocatable.get(&lane));
            format!("{name} {bar} {:<8}", amount(&self.free, &lane))
        };
        let line = format!(
            "  {:<width$}  {}  {}  {}",
            self.node,
            lane("cpu", Lane::MilliCpu),
            lane("memory", Lane::Memory),
            if self.stranded { "stranded" } else { "" }
        );
        line.trim_end().to_owned() + "\n"
    }
}

/// `[########............]`: what is used is filled.
fn bar(free: i64, total: i64) -> String {
    let free = free.clamp(0, total.max(0));
    let filled = if total <= 0 {
        0
    } else {
        BAR - (i128::from(free) * i128::from(BAR) / i128::from(total)) as i64
    };
    let filled = usize::try_from(filled).unwrap_or(0);
    let rest = usize::try_from(BAR).unwrap_or(0) - filled;
    format!("[{}{}]", "#".repeat(filled), ".".repeat(rest))
}

impl Report for Picture {
    fn text(&self) -> String {
        let clusters = self.clusters.iter().map(|(id, room)| room.text(id));
        let waiting = self.waiting.iter().map(Waiting::text);
        let head = format!("waiting pods: {}\n", self.waiting.len());
        clusters.chain(std::iter::once(head)).chain(waiting).collect()
    }

    /// Bad when a pod waits that fits nowhere.
    fn outcome(&self) -> Outcome {
        Outcome::good_if(!self.waiting.iter().any(|pod| pod.fits.is_empty()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tensile_world::Settings;

    use super::*;

    /// Virtual node `vn-a` before a cluster whose nodes have two and four CPUs, of which some are used.
    fn mk_world() -> World {
        let mut world = World::new(Settings::default());
        let labels = [("type", "virtual-kubelet"), ("clusterID", "a")];
        let labels = labels.map(|(key, value)| (key.to_owned(), value.to_owned()));
        world.apply_node("vn-a", &labels.into(), None);
        let model = &mut world.cluster_mut("a").model;
        for (name, cpu) in [("small", "2"), ("large", "4")] {
            let allocatable = json!({"cpu": cpu, "memory": "4Gi", "pods": "10"});
            let node = json!({"metadata": {"name": name}, "status": {"allocatable": allocatable}});
            model.apply_node(&serde_json::from_value(node).unwrap());
        }
        let mut used = mk_pod("used", "1");
        used["spec"]["nodeName"] = json!("small");
        model.apply_pod(&serde_json::from_value(used).unwrap());
        world
    }

    fn mk_pod(name: &str, cpu: &str) -> Value {
        json!({
            "metadata": {"namespace": "ns", "name": name, "uid": name},
            "spec": {
                "tolerations": [{"key": names::PROVIDER_TAINT, "operator": "Exists"}],
                "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}}],
            },
            "status": {"phase": "Pending"},
        })
    }

    #[test]
    fn bars_show_what_is_used_and_pods_where_they_fit() {
        let picture = picture(&mk_world(), &[mk_pod("fits", "3"), mk_pod("huge", "9")]);
        let expected = "\
cluster a: free cpu 5, memory 7Gi; largest fragment cpu 4, memory 4Gi; stranded cpu 1, memory 3Gi
  large  cpu [....................] 4         memory [....................] 4Gi
  small  cpu [##########..........] 1         memory [#####...............] 3Gi       stranded
waiting pods: 2
  ns/fits (cpu 3, memory 1Gi) fits: vn-a (large)
  ns/huge (cpu 9, memory 1Gi) fits: nowhere
";
        assert_eq!(picture.text(), expected);
        assert_eq!(picture.outcome(), Outcome::Bad);
    }

    #[test]
    fn only_pods_that_take_part_and_have_no_place_below_wait() {
        let world = mk_world();
        let mut elsewhere = mk_pod("e", "1");
        elsewhere["spec"]["tolerations"] = json!([]);
        let mut ordinary = mk_pod("o", "1");
        ordinary["spec"]["nodeName"] = json!("upper-node");
        let mut waiting_below = mk_pod("w", "1");
        waiting_below["spec"]["nodeName"] = json!("vn-a");
        assert!(waits(&world, &mk_pod("p", "1")) && waits(&world, &waiting_below));
        assert!(!waits(&world, &elsewhere) && !waits(&world, &ordinary));
    }

    #[test]
    fn a_bar_is_never_longer_than_its_frame() {
        for (free, total, filled) in [
            (0, 10, 20),
            (10, 10, 0),
            (5, 10, 10),
            (-3, 10, 20),
            (12, 10, 0),
            (0, 0, 0),
        ] {
            let bar = bar(free, total);
            assert_eq!(
                (bar.len(), bar.matches('#').count()),
                (22, filled),
                "{free} of {total}"
            );
        }
    }
}
