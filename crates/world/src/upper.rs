//! Feeds what the upper cluster knows: virtual nodes, and the pods that are bound to them.

use std::collections::{HashMap, HashSet};

use kube::runtime::watcher;
use kube::{Api, Client};
use serde_json::Value;
use tensile_core::view::NodeView;
use tensile_placement::{PodKey, Uid};
use tensile_runtime::admin::Readiness;
use tensile_runtime::object::{Nodes, Pods, Viewed};
use tensile_runtime::watch::{Change, Metrics, Watch};

use crate::shared::Shared;
use crate::world::{World, uid};

/// The feed of the upper cluster.
#[derive(Clone)]
pub struct Feed {
    /// The upper cluster.
    pub client: Client,
    /// Where nodes and promises go.
    pub shared: Shared,
    /// Ready only when both watches have listed.
    pub readiness: Readiness,
    /// Where the watches count.
    pub metrics: Metrics,
}

/// Bound pods that were seen, so that those that are gone can be named.
#[derive(Debug, Default)]
struct Seen {
    /// Their UIDs by name.
    pods: HashMap<PodKey, Uid>,
    /// Pods with a promise that the last list did not show: just bound, or bound and gone while nobody watched.
    suspects: HashSet<Uid>,
}

// === impl Feed ===

impl Feed {
    /// Feeds the virtual nodes until the future is dropped.
    pub async fn watch_nodes(self) {
        let watch = Watch {
            api: Api::<Viewed<Nodes, NodeView>>::all(self.client.clone()),
            config: watcher::Config::default(),
            name: "upper-nodes",
            ready: self.readiness.condition("upper-nodes"),
            metrics: self.metrics.clone(),
        };
        watch.run(|change| self.node_changed(change)).await;
    }

    fn node_changed(&self, change: Change<Viewed<Nodes, NodeView>>) {
        match change {
            Change::Apply(node) => {
                let name = &node.view.name;
                let mut world = self.shared.world();
                let known = world.virtual_node(name).is_some();
                world.apply_view(&node.view);
                let joined = !known && world.virtual_node(name).is_some();
                drop(world);
                if joined {
                    self.shared.resync();
                }
            }
            Change::Delete(node) => self.shared.world().delete_node(&node.view.name),
            Change::Reset(keys) => {
                let names: HashSet<&str> = keys.iter().map(|key| &*key.name).collect();
                self.shared.world().retain_nodes(|name| names.contains(name));
            }
        }
    }

    /// Feeds the bound pods until the future is dropped; lists them anew whenever a virtual node or a cluster has
    /// become known. `also` hears of every change before the world does.
    pub async fn watch_pods(self, mut also: impl FnMut(&Change<Viewed<Pods, Value>>)) {
        let mut resyncs = self.shared.resyncs();
        let mut seen = Seen::default();
        loop {
            let watch = Watch {
                api: Api::<Viewed<Pods, Value>>::all(self.client.clone()),
                config: watcher::Config::default().fields("spec.nodeName!="),
                name: "upper-pods",
                ready: self.readiness.condition("upper-pods"),
                metrics: self.metrics.clone(),
            };
            let apply = |change| {
                also(&change);
                seen.changed(change, &self.shared);
            };
            tokio::select! {
                () = watch.run(apply) => {}
                resync = resyncs.changed() => if resync.is_err() { return },
            }
        }
    }
}

// === impl Seen ===

impl Seen {
    fn changed(&mut self, change: Change<Viewed<Pods, Value>>, shared: &Shared) {
        let mut world = shared.world();
        match change {
            Change::Apply(pod) => {
                let virtual_node = pod.view["spec"]["nodeName"]
                    .as_str()
                    .and_then(|name| world.virtual_node(name));
                let before = match virtual_node {
                    Some(_) => self.pods.insert(key(&pod.view), uid(&pod.view)),
                    None => self.pods.remove(&key(&pod.view)),
                };
                if let Some(before) = before.filter(|before| *before != uid(&pod.view)) {
                    world.release(before);
                }
                world.apply_upper_pod(&pod.view);
            }
            Change::Delete(pod) => {
                self.pods.remove(&key(&pod.view));
                world.release(uid(&pod.view));
            }
            Change::Reset(keys) => {
                let existing: HashSet<PodKey> = keys
                    .iter()
                    .map(|key| PodKey::new(&key.namespace, &key.name))
                    .collect();
                self.pods.retain(|key, uid| {
                    let exists = existing.contains(key);
                    if !exists {
                        world.release(*uid);
                    }
                    exists
                });
                self.release_suspects(&mut world);
                world.pods_listed();
            }
        }
    }

    /// Takes back the promises of pods that two lists in a row do not show.
    fn release_suspects(&mut self, world: &mut World) {
        let shown: HashSet<Uid> = self.pods.values().copied().collect();
        let missing: HashSet<Uid> = world
            .promised()
            .filter(|origin| !shown.contains(origin))
            .collect();
        for gone in missing.intersection(&self.suspects) {
            world.release(*gone);
        }
        self.suspects = missing.difference(&self.suspects).copied().collect();
    }
}

fn key(pod: &Value) -> PodKey {
    let text = |member: &str| pod["metadata"][member].as_str().unwrap_or_default();
    PodKey::new(text("namespace"), text("name"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use tensile_runtime::key::Key;

    use super::*;
    use crate::testing::{mk_pod, mk_world};

    fn mk_bound(name: &str, uid: &str) -> Viewed<Pods, Value> {
        let mut pod = mk_pod(name, "1");
        pod["metadata"]["uid"] = json!(uid);
        pod["spec"]["nodeName"] = json!("vb");
        serde_json::from_str(&pod.to_string()).unwrap()
    }

    fn promised(shared: &Shared) -> usize {
        shared.world().cluster_mut("b").model.reservations().len()
    }

    #[test]
    fn bound_pods_hold_promises_until_they_are_gone() {
        let shared = Shared::new(mk_world());
        let mut seen = Seen::default();
        seen.changed(Change::Apply(mk_bound("p", "1")), &shared);
        seen.changed(Change::Apply(mk_bound("q", "2")), &shared);
        assert_eq!(promised(&shared), 2);
        seen.changed(Change::Delete(mk_bound("p", "1")), &shared);
        assert_eq!(promised(&shared), 1);
        seen.changed(Change::Reset([Key::new("ns", "other")].into()), &shared);
        assert_eq!(promised(&shared), 0);
    }

    #[test]
    fn a_promise_to_a_pod_that_two_lists_in_a_row_do_not_show_is_taken_back() {
        let shared = Shared::new(mk_world());
        let mut seen = Seen::default();
        let bound = mk_bound("p", "1");
        shared.world().apply_upper_pod(&bound.view);
        for left in [1, 0] {
            seen.changed(Change::Reset([].into()), &shared);
            assert_eq!(promised(&shared), left);
        }
        shared.world().apply_upper_pod(&bound.view);
        seen.changed(Change::Reset([].into()), &shared);
        seen.changed(Change::Apply(bound), &shared);
        seen.changed(Change::Reset([Key::new("ns", "p")].into()), &shared);
        assert_eq!(promised(&shared), 1, "it was only listed later");
    }

    #[test]
    fn a_namesake_takes_over_from_a_pod_whose_end_was_missed() {
        let shared = Shared::new(mk_world());
        let mut seen = Seen::default();
        seen.changed(Change::Apply(mk_bound("p", "1")), &shared);
        seen.changed(Change::Apply(mk_bound("p", "2")), &shared);
        let promises: Vec<Uid> = shared
            .world()
            .cluster_mut("b")
            .model
            .reservations()
            .map(|(uid, _)| uid)
            .collect();
        assert_eq!(promises, [Uid::from("2")]);
    }
}
