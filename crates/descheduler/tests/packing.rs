//! MakeRoom on prepared fragments: what a perfect packing could place is placed, with hardly more evictions than needed.

mod support;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use support::{Fleet, START, mk_pod, node_of};
use tensile_descheduler::policy::Policy;
use tensile_descheduler::strategies::make_room;

const CLUSTERS: [&str; 3] = ["a", "b", "c"];
const NODES: usize = 20;
const CPUS: usize = 4;
const MILLI_CPU: u64 = 4000;
/// Big pods that wait.
const BIG: usize = 20;
/// Rounds within which room must be made for all of them: each evicts at most one pod for each.
const ROUNDS: u64 = 30;
/// Seconds between two rounds.
const SOON: u64 = 3;

/// Upper pods that are there, by name, with their owner, their request and where they run.
struct Packing {
    fleet: Fleet,
    running: BTreeMap<String, (Value, &'static str)>,
    /// Pods without a node, the oldest first.
    waiting: Vec<Value>,
    made: usize,
    evictions: usize,
}

/// A reproducible row of numbers.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// The pods of every node: seven tenths of all CPUs are in use, and no node has so much free as a big pod needs.
fn mk_nodes(random: &mut Random, big: u64) -> Vec<Vec<u64>> {
    let all = CLUSTERS.len() * NODES;
    let mut nodes: Vec<Vec<u64>> = vec![Vec::new(); all];
    let total = all as u64 * MILLI_CPU;
    // First so much that no big pod fits, then holes of all sizes.
    for node in &mut nodes {
        while MILLI_CPU - used(node) >= big {
            node.push(500 * (1 + random.below(3)));
        }
    }
    loop {
        let in_use: u64 = nodes.iter().map(|node| used(node)).sum();
        if in_use * 10 >= total * 7 {
            return nodes;
        }
        let index = usize::try_from(random.below(all as u64)).unwrap();
        let pod = 500 * (1 + random.below(2));
        if used(&nodes[index]) + pod <= MILLI_CPU {
            nodes[index].push(pod);
        }
    }
}

fn used(node: &[u64]) -> u64 {
    node.iter().sum()
}

/// The fewest evictions by which `BIG` pods of this size fit, wherever the evicted go: for each node how many pods must
/// go for one or more big ones, then the cheapest choice over all nodes.
fn fewest(nodes: &[Vec<u64>], big: u64) -> usize {
    let mut best = vec![usize::MAX; BIG + 1];
    best[0] = 0;
    for pods in nodes {
        let mut after = best.clone();
        for (placed, cost) in best.iter().enumerate().filter(|(_, cost)| **cost < usize::MAX) {
            for more in 1..=usize::try_from(MILLI_CPU / big).unwrap() {
                let Some(victims) = victims(pods, big * more as u64) else {
                    break;
                };
                let all = (placed + more).min(BIG);
                after[all] = after[all].min(cost + victims);
            }
        }
        best = after;
    }
    best[BIG]
}

/// How many pods must leave the node for so much room.
fn victims(pods: &[u64], room: u64) -> Option<usize> {
    let mut largest = pods.to_vec();
    largest.sort_unstable_by(|one, other| other.cmp(one));
    let mut free = MILLI_CPU - pods.iter().sum::<u64>();
    for (gone, pod) in largest.iter().enumerate() {
        if free >= room {
            return Some(gone);
        }
        free += pod;
    }
    (free >= room).then_some(pods.len())
}

// === impl Packing ===

impl Packing {
    fn new(nodes: &[Vec<u64>], big: u64) -> Self {
        let mut packing = Self {
            fleet: Fleet::new(&CLUSTERS, NODES, CPUS),
            running: BTreeMap::new(),
            waiting: Vec::new(),
            made: 0,
            evictions: 0,
        };
        for (index, pods) in nodes.iter().enumerate() {
            let cluster = CLUSTERS[index / NODES];
            for milli_cpu in pods {
                let pod = packing.mk(*milli_cpu, 0);
                packing.run(pod, cluster, Some(&format!("{cluster}{}", index % NODES)));
            }
        }
        for _ in 0..BIG {
            let pod = packing.mk(big, 0);
            packing.fleet.wait(&pod, 0);
            packing.waiting.push(pod);
        }
        packing
    }

    /// A pod of an owner of its own.
    fn mk(&mut self, milli_cpu: u64, at: u64) -> Value {
        self.made += 1;
        mk_pod(
            &format!("p{}", self.made),
            &format!("o{}", self.made),
            milli_cpu,
            at,
        )
    }

    fn run(&mut self, mut pod: Value, cluster: &'static str, node: Option<&str>) {
        pod["spec"]["nodeName"] = json!(node_of(cluster));
        pod["status"]["phase"] = json!("Running");
        self.fleet.tell(&pod);
        match node {
            Some(node) => self.fleet.put(cluster, &pod, node),
            None => assert!(self.fleet.schedule_below(cluster, &pod)),
        }
        let name = pod["metadata"]["name"].as_str().unwrap().to_owned();
        self.running.insert(name, (pod, cluster));
    }

    /// The scheduler with the extender: the oldest pods first, each where it fits most tightly.
    fn schedule(&mut self, now: u64) {
        for pod in std::mem::take(&mut self.waiting) {
            let owner = pod["metadata"]["ownerReferences"][0]["uid"].as_str().unwrap();
            match self.fleet.tightest(&pod, owner, now) {
                Some(cluster) => self.run(pod, cluster, None),
                None => self.waiting.push(pod),
            }
        }
    }

    /// A round, and what owners and scheduler make of it.
    fn round(&mut self, at: u64, policy: &Policy) {
        let moves = self.fleet.plan(START + at, policy).moves;
        self.evictions += moves.len();
        for moved in moves {
            let (mut pod, cluster) = self.running.remove(&moved.pod.name).unwrap();
            self.fleet.gone(cluster, &pod);
            self.made += 1;
            let name = format!("p{}", self.made);
            pod["metadata"]["name"] = json!(name);
            pod["metadata"]["uid"] = json!(name);
            pod["metadata"]["creationTimestamp"] = json!(support::time(at));
            pod["spec"]["nodeName"] = Value::Null;
            pod["status"]["phase"] = json!("Pending");
            self.fleet.wait(&pod, at);
            self.waiting.push(pod);
        }
        self.schedule(START + at);
    }
}

fn pack(seed: u64, big: u64, max_victims: usize) -> (usize, usize, usize) {
    let nodes = mk_nodes(&mut Random(seed), big);
    let mut packing = Packing::new(&nodes, big);
    packing.schedule(START);
    assert_eq!(packing.waiting.len(), BIG, "nothing fits at first");
    let policy = Policy {
        make_room: Some(make_room::Args {
            max_victims,
            ..make_room::Args::default()
        }),
        ..Policy::default()
    };
    for round in 0..ROUNDS {
        packing.round(
            make_room::Args::default().threshold_seconds + round * SOON,
            &policy,
        );
    }
    (packing.waiting.len(), packing.evictions, fewest(&nodes, big))
}

/// Packs five fleets; says how many evictions there were, and how many were needed at least.
fn pack_all(big: u64, max_victims: usize) -> (usize, usize) {
    let (mut evictions, mut fewest) = (0, 0);
    for seed in 0..5 {
        let (waiting, made, needed) = pack(seed, big, max_victims);
        println!("{big}m, seed {seed}: {waiting} wait, {made} evictions, at least {needed}");
        assert_eq!(waiting, 0, "{big}m, seed {seed}");
        evictions += made;
        fewest += needed;
    }
    (evictions, fewest)
}

#[test]
fn room_is_made_for_all_that_could_be_placed_with_hardly_more_evictions_than_needed() {
    for big in [2000, 2500] {
        let (evictions, fewest) = pack_all(big, 3);
        assert!(evictions * 10 <= fewest * 11, "{big}m: {evictions} for {fewest}");
    }
}

/// The bound asks nothing of where the evicted pods go; here they fill what others were to get.
#[test]
fn pods_of_three_quarters_of_a_node_get_room_too() {
    let (evictions, fewest) = pack_all(3000, 5);
    assert!(evictions * 2 <= fewest * 3, "{evictions} for {fewest}");
}

#[test]
fn the_bound_is_the_fewest_evictions() {
    for (pods, room, wanted) in [
        (vec![], 4000, Some(0)),
        (vec![3000, 500], 1000, Some(1)),
        (vec![1000, 1000, 1000], 2500, Some(2)),
        (vec![1000], 4000, Some(1)),
        (vec![1000], 5000, None),
    ] {
        assert_eq!(victims(&pods, room), wanted, "{pods:?} {room}");
    }
}
