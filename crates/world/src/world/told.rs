//! What the descheduler tells: room that it promised to pods that wait, and which nodes pods of an owner should avoid.
//!
//! Room is counted in the models as if the pod were there already, for everybody but the pod itself. So it is put there
//! whenever another pod is turned to, and follows from what was told, from the time and from the models: nothing of it
//! must be remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use serde_json::{Value, json};
use tensile_core::avoidance::{Avoidance, lineage};
use tensile_core::promises::{Promises, Room};
use tensile_placement::{Candidate, Uid};

use super::{World, uid};
use crate::lowering::Lowering;

/// A pod that asks for nothing.
static NOTHING: LazyLock<Option<Candidate>> = LazyLock::new(|| Candidate::new(&json!({})).ok());

/// What the descheduler has told.
#[derive(Debug, Default)]
pub(super) struct Told {
    promises: Promises,
    avoidance: Avoidance,
    /// Room that is counted in the models now, with the id of the cluster; by what stands for it there.
    held: BTreeMap<Uid, (String, Room)>,
}

// === impl World ===

impl World {
    /// Takes in the room that is promised to pods that wait.
    pub fn set_promises(&mut self, promises: Promises) {
        self.told.promises = promises;
    }

    /// Takes in which nodes the pods of which owners should avoid.
    pub fn set_avoidance(&mut self, avoidance: Avoidance) {
        self.told.avoidance = avoidance;
    }

    /// Turns to a pod, about which questions follow: what is promised to others at `now` (seconds since the Unix epoch) is
    /// taken, and nothing fits the pod on virtual nodes that its owner avoids.
    pub fn consider<'a>(&mut self, pod: &'a Value, now: u64) -> Lowering<'a> {
        if !(self.told.promises.is_empty() && self.told.held.is_empty()) {
            self.hold(self.rooms(pod, now));
        }
        let avoided = lineage(&pod["metadata"]).map(|owner| self.told.avoidance.nodes(owner, now));
        Lowering::avoiding(pod, avoided.into_iter().flatten().map(str::to_owned).collect())
    }

    /// Whether this stands for room that is held, and for no upper pod.
    pub(super) fn is_room(&self, origin: Uid) -> bool {
        self.told.held.contains_key(&origin)
    }

    /// The room that `pod` must leave to others: to those that have no other place yet, and are not less important.
    fn rooms(&self, pod: &Value, now: u64) -> BTreeMap<Uid, (String, Room)> {
        let (own, priority) = (uid(pod), pod["spec"]["priority"].as_i64().unwrap_or_default());
        let promises = self.told.promises.in_force(now);
        let others = promises.filter(|(other, promise)| {
            let other = Uid::from(*other);
            other != own && promise.room.priority >= priority && !self.has_place(other)
        });
        let rooms = others.filter_map(|(other, promise)| {
            let cluster = &self.virtual_nodes.get(&promise.room.node)?.cluster;
            let stand_in = Uid::from(format!("room of {other}").as_str());
            Some((stand_in, (cluster.clone(), promise.room.clone())))
        });
        rooms.collect()
    }

    /// Whether the upper pod is below, or has a place there.
    fn has_place(&self, origin: Uid) -> bool {
        let mut models = self.clusters.values().map(|cluster| &cluster.model);
        models.any(|model| model.is_settled(origin) || model.is_promised(origin))
    }

    /// Counts these rooms in the models, and no others.
    fn hold(&mut self, rooms: BTreeMap<Uid, (String, Room)>) {
        let before = std::mem::replace(&mut self.told.held, rooms);
        let now = &self.told.held;
        let ended: BTreeSet<Uid> = before
            .iter()
            .filter(|(stand_in, room)| now.get(*stand_in) != Some(*room))
            .map(|(stand_in, _)| *stand_in)
            .collect();
        for (stand_in, (cluster, _)) in before.iter().filter(|(stand_in, _)| ended.contains(*stand_in)) {
            if let Some(cluster) = self.clusters.get_mut(cluster) {
                cluster.model.release(*stand_in);
            }
        }
        for (stand_in, (cluster, room)) in now {
            let cluster = self.clusters.get_mut(cluster);
            let Some(cluster) = cluster.filter(|cluster| !cluster.model.is_promised(*stand_in)) else {
                continue;
            };
            if let Some(mut candidate) = NOTHING.clone() {
                candidate.pod.request = room.requests.clone();
                cluster.model.reserve(*stand_in, &candidate, &room.lower_node);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tensile_core::promises::Promise;

    use super::*;
    use crate::testing::{apply_lower_pod, mk_member, mk_pod, mk_world};
    use crate::world::Answer;

    const NOW: u64 = 1000;

    /// Five of the eight CPUs of b1 for `waiting`, until `end`.
    fn mk_promise(end: u64) -> Promises {
        let requests = serde_json::from_value(json!({"cpu": "5", "pods": "1"})).unwrap();
        let room = Room {
            node: "vb".to_owned(),
            lower_node: "b1".to_owned(),
            requests,
            priority: 0,
        };
        [("waiting", Promise { room, end })].into_iter().collect()
    }

    fn fits(world: &mut World, pod: &Value, now: u64) -> bool {
        let mut lowering = world.consider(pod, now);
        matches!(world.answer(&mut lowering, "vb"), Some(Answer::Fits(_)))
    }

    #[test]
    fn promised_room_is_taken_for_all_but_the_pod_itself_and_more_important_ones() {
        let mut important = mk_pod("important", "4");
        important["spec"]["priority"] = json!(1);
        let mut world = mk_world();
        world.set_promises(mk_promise(NOW + 1));
        for (what, pod, wanted) in [
            ("too large for what is left", mk_pod("p", "4"), false),
            ("the pod itself", mk_pod("waiting", "5"), true),
            ("another one after it", mk_pod("p", "4"), false),
            ("small enough", mk_pod("p", "3"), true),
            ("more important", important, true),
        ] {
            assert_eq!(fits(&mut world, &pod, NOW), wanted, "{what}");
        }
        assert_eq!(world.promised().count(), 0, "no upper pod has a place yet");
    }

    #[test]
    fn room_is_free_again_when_the_promise_has_ended_or_is_taken_back() {
        let other = mk_pod("p", "4");
        let mut world = mk_world();
        world.set_promises(mk_promise(NOW + 1));
        assert!(!fits(&mut world, &other, NOW));
        assert!(fits(&mut world, &other, NOW + 1), "ended");
        assert!(!fits(&mut world, &other, NOW));
        world.set_promises(Promises::default());
        assert!(fits(&mut world, &other, NOW), "taken back");
        assert_eq!(world.cluster_mut("b").model.reservations().len(), 0);
    }

    #[test]
    fn a_pod_that_has_a_place_is_not_counted_twice() {
        let (other, waiting) = (mk_pod("p", "3"), mk_pod("waiting", "5"));
        let mut world = mk_world();
        world.set_promises(mk_promise(NOW + 1));
        assert!(fits(&mut world, &other, NOW));
        let mut bound = waiting.clone();
        bound["spec"]["nodeName"] = json!("vb");
        world.apply_upper_pod(&bound);
        assert!(fits(&mut world, &other, NOW), "bound: 5 of 8 are taken, not 10");
        apply_lower_pod(&mut world, "b", &waiting, "b1");
        assert!(fits(&mut world, &other, NOW), "runs below");
        let mut world = mk_world();
        apply_lower_pod(&mut world, "a", &mk_pod("waiting", "0"), "a1");
        world.set_promises(mk_promise(NOW + 1));
        assert!(fits(&mut world, &mk_pod("p", "8"), NOW), "runs elsewhere");
    }

    #[test]
    fn room_is_held_again_in_a_cluster_that_was_listed_anew() {
        let mut world = mk_world();
        world.set_promises(mk_promise(NOW + 1));
        assert!(!fits(&mut world, &mk_pod("p", "4"), NOW));
        let b = std::mem::take(&mut world.cluster_mut("b").model);
        assert!(b.reservations().len() == 1);
        let node = json!({"metadata": {"name": "b1"}, "status": {"allocatable": {"cpu": "8", "memory": "64Gi", "pods": "9"}}});
        let node = serde_json::from_value(node).unwrap();
        world.cluster_mut("b").model.apply_node(&node);
        assert!(!fits(&mut world, &mk_pod("p", "4"), NOW));
        world.delete_node("vb");
        world.consider(&mk_pod("p", "4"), NOW);
        assert_eq!(
            world.cluster_mut("b").model.reservations().len(),
            0,
            "its node is gone"
        );
    }

    #[test]
    fn nothing_fits_on_a_node_that_the_owner_avoids_until_that_has_ended() {
        let mut avoidance = Avoidance::default();
        avoidance.avoid("owner", "vb", NOW + 1);
        let member = mk_member("p", "1", "{}");
        let mut first_of_name = mk_pod("p", "1");
        first_of_name["metadata"]["annotations"] = json!({"tensile.dev/moved-from": "owner"});
        for (pod, now, wanted) in [
            (&member, NOW, false),
            (&first_of_name, NOW, false),
            (&mk_pod("p", "1"), NOW, true),
            (&member, NOW + 1, true),
        ] {
            let mut world = mk_world();
            world.set_avoidance(avoidance.clone());
            assert_eq!(fits(&mut world, pod, now), wanted, "{pod} at {now}");
        }
        // As the webhook has it: who avoids all nodes waits.
        avoidance.avoid("owner", "va", NOW + 1);
        let mut world = mk_world();
        world.set_avoidance(avoidance);
        let mut lowering = world.consider(&member, NOW);
        let never = |id: &str, node: &str| {
            let why = "pods of its owner avoid the node for some time, one was moved from there";
            (node.to_owned(), Some(Answer::Never(format!("{id}: {why}"))))
        };
        for (node, answer) in [never("a", "va"), never("b", "vb")] {
            assert_eq!(world.answer(&mut lowering, &node), answer);
            assert_eq!(world.answer_without(&mut lowering, &node, &[]), answer);
        }
    }
}
