//! Makes room for a pod that fits nowhere although there is room, scattered over many nodes.
//!
//! Of all sets of pods whose going would let the waiting pod fit on some lower node, each of which fits on another
//! virtual node itself, the one is taken that disturbs least. Only its first pod is evicted in a round; the next
//! round looks at the world as it is then. So a plan that no longer holds is given up by itself, with one pod moved
//! at most. The room is promised to the pod meanwhile.

use std::collections::HashMap;
use std::sync::Arc;

use tensile_core::promises;
use tensile_core::resources::Resources;
use tensile_placement::{Candidate, Node, Uid};
use tensile_world::{Lowering, VirtualNode};

use crate::plan::{Claim, Plan};
use crate::pod::Pod;
use crate::pods::Pods;
use crate::refused::Refused;
use crate::scene::{Obstacle, Place, Scene, successor};
use crate::waiting::Waiting;

mod args;
mod sets;

pub use args::Args;
use sets::{Cost, Movable, fewest, sets};

/// Its name in policies, events and metrics.
pub const NAME: &str = "MakeRoom";

/// Waiting pods that room is looked for in a round. Each costs a look at every node.
const MOST_WAITING: usize = 20;
/// Sets that are tried for a pod before it is given up in this round.
const MOST_TRIED: usize = 200;

/// A pod that waits for room.
struct Wanting<'a> {
    pod: &'a Pod,
    since: u64,
    /// Whether it is bound to its virtual node already and waits below.
    bound: bool,
}

/// A way to make room.
struct Room<'a> {
    cost: Cost,
    /// The virtual node.
    node: String,
    /// The node of the lower cluster.
    lower: Arc<str>,
    victims: Vec<&'a Pod>,
}

/// The cheapest ways so far, in order.
#[derive(Default)]
struct Rooms<'a>(Vec<Room<'a>>);

/// What rooms are looked for among: by lower cluster and node, the upper pods there.
struct Census<'a>(HashMap<String, HashMap<Arc<str>, Vec<&'a Pod>>>);

/// Adds to `plan` what this strategy would do.
pub fn plan(
    args: &Args,
    scene: &mut Scene<'_>,
    pods: &Pods,
    refused: &Refused,
    waiting: &Waiting,
    plan: &mut Plan,
) {
    let mut wanting = wanting(args, scene, pods, refused, waiting);
    if wanting.is_empty() {
        return;
    }
    wanting.retain(|wanting| !plan.moves(wanting.pod));
    wanting.sort_by(|one, other| {
        let order = (other.pod.priority, one.since).cmp(&(one.pod.priority, other.since));
        order.then_with(|| one.pod.key.cmp(&other.pod.key))
    });
    let census = Census::of(scene, pods);
    for wanting in wanting.iter().take(MOST_WAITING) {
        make_room(args, scene, &census, wanting, plan);
    }
}

/// The pods that have fitted nowhere for long enough: those that wait above, and those that wait below.
fn wanting<'a>(
    args: &Args,
    scene: &Scene<'_>,
    pods: &'a Pods,
    refused: &Refused,
    waiting: &'a Waiting,
) -> Vec<Wanting<'a>> {
    let due = |since: u64| {
        scene
            .now
            .checked_sub(since)
            .is_some_and(|age| age >= args.threshold_seconds)
    };
    let above = waiting.iter().map(|(pod, since)| Wanting {
        pod,
        since,
        bound: false,
    });
    let clusters = scene.world.clusters();
    let refusals: HashMap<_, _> = clusters.flat_map(|(id, _)| refused.of(id)).collect();
    let below = pods.iter().filter_map(|pod| {
        let since = refusals.get(&*pod.uid)?.since;
        Some(Wanting {
            pod,
            since,
            bound: true,
        })
    });
    let all = above.chain(below);
    all.filter(|wanting| {
        let pod = wanting.pod;
        due(wanting.since) && !pod.deleting && args.namespaces.admit(&pod.key.namespace)
    })
    .collect()
}

fn make_room(
    args: &Args,
    scene: &mut Scene<'_>,
    census: &Census<'_>,
    wanting: &Wanting<'_>,
    plan: &mut Plan,
) {
    let pod = wanting.pod;
    // What was promised to it in an earlier round is its own.
    scene.take_promise(pod);
    plan.claims.push(Claim {
        pod: pod.uid.clone(),
        room: None,
        evicts: false,
    });
    if !wanting.bound && scene.move_elsewhere(pod).is_ok() {
        return;
    }
    let unplaced = pod.unplaced();
    let mut lowering = Lowering::new(&unplaced);
    let mut rooms = Rooms::default();
    for node in nodes(scene, wanting, &unplaced) {
        census.look(args, scene, pod, &mut lowering, &node, &mut rooms);
    }
    let found = rooms.0.into_iter().find_map(|room| {
        let before = scene.promises();
        let places = places(scene, &mut lowering, pod, &room, census);
        if places.is_none() {
            scene.take_back(before);
        }
        Some((room, places?))
    });
    match found {
        Some((room, places)) => take(scene, &mut lowering, pod, &room, places, plan),
        None => plan.stay(NAME, pod, &Obstacle::NoRoom),
    }
}

/// The virtual nodes that the pod may go to, were there room below.
fn nodes(scene: &Scene<'_>, wanting: &Wanting<'_>, unplaced: &serde_json::Value) -> Vec<String> {
    if wanting.bound {
        return vec![wanting.pod.node.to_string()];
    }
    let Ok(above) = Candidate::new(unplaced) else {
        return Vec::new();
    };
    let passing = scene.upper.passing(&above);
    let names = scene.world.virtual_nodes().map(|(name, _)| name.to_owned());
    names
        .filter(|name| passing.iter().any(|passing| **passing == **name))
        .collect()
}

/// Where the victims go, if the pod fits once they are gone and each of them fits elsewhere. The places are promised.
fn places(
    scene: &mut Scene<'_>,
    lowering: &mut Lowering<'_>,
    pod: &Pod,
    room: &Room<'_>,
    census: &Census<'_>,
) -> Option<Vec<Place>> {
    let virtual_node = scene.world.virtual_node(&room.node)?.clone();
    let keys = scene.world.settings.ignored_keys.clone();
    let candidate = lowering.candidate(&room.node, &virtual_node, &keys).ok()?;
    let mut gone: Vec<Uid> = room
        .victims
        .iter()
        .map(|victim| Uid::from(&*victim.uid))
        .collect();
    let pods = census.on(&virtual_node.cluster, &room.lower).iter();
    gone.extend(pods.filter(|pod| pod.deleting).map(|pod| Uid::from(&*pod.uid)));
    gone.push(Uid::from(&*pod.uid));
    let model = &mut scene.world.cluster_mut(&virtual_node.cluster).model;
    if !model.passes_without(&gone, &candidate, &room.lower) {
        return None;
    }
    let places = room
        .victims
        .iter()
        .map(|victim| scene.move_elsewhere(victim).ok());
    places.collect()
}

/// Plans to evict the first victim, and promises the room to the pod.
fn take(
    scene: &mut Scene<'_>,
    lowering: &mut Lowering<'_>,
    pod: &Pod,
    room: &Room<'_>,
    places: Vec<Place>,
    plan: &mut Plan,
) {
    let requests = scene.promise(pod, lowering, &room.node, &room.lower);
    if let (Some(claim), Some(requests)) = (plan.claims.last_mut(), requests) {
        claim.evicts = !room.victims.is_empty();
        claim.room = Some(promises::Room {
            node: room.node.clone(),
            lower_node: room.lower.to_string(),
            requests,
            priority: pod.priority,
        });
    }
    let (Some(first), Some(place)) = (room.victims.first(), places.into_iter().next()) else {
        return;
    };
    let more = match room.victims.len() {
        1 => String::new(),
        all => format!(", the first of {all}"),
    };
    // One eviction can make room for several.
    if plan.moves(first) {
        return;
    }
    scene.spend(first);
    let why = format!("makes room for {} on {}{more}", pod.key, room.lower);
    let planned = plan.go(NAME, first, place, why);
    planned.promises = room.victims.iter().map(|victim| successor(victim)).collect();
    planned.promises.push(successor(pod));
}

// === impl Rooms ===

impl<'a> Rooms<'a> {
    /// What a further room must be cheaper than, to be of use.
    fn bound(&self) -> Option<Cost> {
        self.0.get(MOST_TRIED - 1).map(|room| room.cost)
    }

    fn add(&mut self, room: Room<'a>) {
        let place = self.0.partition_point(|known| {
            (known.cost, &known.node, &known.lower) <= (room.cost, &room.node, &room.lower)
        });
        self.0.insert(place, room);
        self.0.truncate(MOST_TRIED);
    }
}

// === impl Census ===

impl<'a> Census<'a> {
    fn of(scene: &Scene<'_>, pods: &'a Pods) -> Self {
        let by_uid: HashMap<Uid, &Pod> = pods.iter().map(|pod| (Uid::from(&*pod.uid), pod)).collect();
        let pods_of = |origins: Vec<Uid>| {
            origins
                .iter()
                .filter_map(|uid| by_uid.get(uid).copied())
                .collect()
        };
        let clusters = scene.world.clusters().map(|(id, cluster)| {
            let nodes = cluster.model.origins().into_iter();
            (
                id.to_owned(),
                nodes.map(|(node, origins)| (node, pods_of(origins))).collect(),
            )
        });
        Self(clusters.collect())
    }

    /// The upper pods of a lower node.
    fn on(&self, cluster: &str, lower: &str) -> &[&'a Pod] {
        let pods = self.0.get(cluster).and_then(|nodes| nodes.get(lower));
        pods.map(Vec::as_slice).unwrap_or_default()
    }

    /// Adds the ways to make room behind a virtual node, by resources alone.
    fn look(
        &self,
        args: &Args,
        scene: &Scene<'_>,
        pod: &Pod,
        lowering: &mut Lowering<'_>,
        node: &str,
        rooms: &mut Rooms<'a>,
    ) {
        let Some(virtual_node) = scene.world.virtual_node(node) else {
            return;
        };
        if !matches!(scene.is_source(node), Ok(true)) {
            return;
        }
        let keys = &scene.world.settings.ignored_keys;
        let Ok(candidate) = lowering.candidate(node, virtual_node, keys) else {
            return;
        };
        let wanted = &candidate.pod.request;
        for lower in usable(scene, virtual_node, wanted) {
            let pods = self.on(&virtual_node.cluster, lower.name);
            let free = free(&lower, pods);
            if !is_worth_a_look(pods, wanted, &free, args.max_victims, rooms) {
                continue;
            }
            let mut movable = movable(scene, pod, node, pods);
            let found = sets(&mut movable, wanted, &free, args.max_victims, rooms.bound());
            for (cost, set) in found {
                rooms.add(Room {
                    cost,
                    node: node.to_owned(),
                    lower: lower.name.clone(),
                    victims: set.into_iter().map(|index| movable[index].pod).collect(),
                });
            }
        }
    }
}

/// The nodes that could take the pod were they empty.
fn usable<'s>(
    scene: &'s Scene<'_>,
    virtual_node: &'s VirtualNode,
    wanted: &'s Resources,
) -> impl Iterator<Item = Node<'s>> {
    let cluster = scene.world.clusters().find(|(id, _)| *id == virtual_node.cluster);
    let nodes = cluster.into_iter().flat_map(|(_, cluster)| cluster.model.nodes());
    let pool = virtual_node.pool.as_ref();
    nodes.filter(move |node| {
        pool.is_none_or(|pool| pool.matches(&node.facts.labels)) && wanted.fits(&node.facts.allocatable)
    })
}

/// What is free on the node, and will be when what leaves has left.
fn free(node: &Node<'_>, pods: &[&Pod]) -> Resources {
    let mut free = node.free();
    for pod in pods.iter().filter(|pod| pod.deleting) {
        free.add(&pod.request);
    }
    free
}

/// Whether few enough of the pods could make so much room, and as cheaply as what has been found so far.
fn is_worth_a_look(
    pods: &[&Pod],
    wanted: &Resources,
    free: &Resources,
    most: usize,
    rooms: &Rooms<'_>,
) -> bool {
    let requests: Vec<&Resources> = pods.iter().map(|pod| &pod.request).collect();
    let Some(fewest) = fewest(&requests, wanted, free).filter(|fewest| *fewest <= most) else {
        return false;
    };
    if fewest == 0 {
        return true;
    }
    let least = Cost {
        highest: pods.iter().map(|pod| pod.priority).min().unwrap_or(i64::MIN),
        pods: fewest,
        restarts: pods.iter().map(|pod| pod.restart_cost.min(0)).sum(),
    };
    rooms.bound().is_none_or(|bound| least < bound)
}

/// The pods among these that may be moved from the virtual node for the pod.
fn movable<'a>(scene: &Scene<'_>, pod: &Pod, node: &str, pods: &[&'a Pod]) -> Vec<Movable<&'a Pod>> {
    let movable = pods.iter().filter(|victim| {
        !victim.deleting
            && *victim.node == *node
            && victim.priority <= pod.priority
            && scene.may_move(victim).is_ok()
            && scene.check_limits(victim, 1).is_ok()
    });
    movable
        .map(|victim| Movable {
            pod: *victim,
            request: victim.request.clone(),
            priority: victim.priority,
            restart: victim.restart_cost,
        })
        .collect()
}

#[cfg(test)]
mod tests;
