//! MakeRoom on prepared fragments: what a perfect packing could place is placed, with hardly more evictions than needed.

#[path = "support/bound.rs"]
mod bound;
mod support;

use std::collections::BTreeMap;

use bound::{Random, fewest, mk_nodes};
use serde_json::{Value, json};
use support::{Fleet, START, mk_pod, node_of};
use tensile_core::promises::Promises;
use tensile_descheduler::plan::Plan;
use tensile_descheduler::policy::Policy;
use tensile_descheduler::promises;
use tensile_descheduler::strategies::make_room;

const CLUSTERS: [&str; 3] = ["a", "b", "c"];
const NODES: usize = 20;
const CPUS: usize = 4;
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
    /// Rooms that are kept free for pods that wait.
    promises: Promises,
    made: usize,
    evictions: usize,
}

// === impl Packing ===

impl Packing {
    fn new(nodes: &[Vec<u64>], big: u64) -> Self {
        let mut packing = Self {
            fleet: Fleet::new(&CLUSTERS, NODES, CPUS),
            running: BTreeMap::new(),
            waiting: Vec::new(),
            promises: Promises::default(),
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
        self.fleet.world.set_promises(self.promises.clone());
        for pod in std::mem::take(&mut self.waiting) {
            let owner = pod["metadata"]["ownerReferences"][0]["uid"].as_str().unwrap();
            match self.fleet.tightest(&pod, owner, now) {
                Some(cluster) => self.run(pod, cluster, None),
                None => self.waiting.push(pod),
            }
        }
        self.fleet.world.set_promises(Promises::default());
        self.fleet.world.consider(&json!({}), now);
    }

    /// A round, and what owners and scheduler make of it.
    fn round(&mut self, at: u64, policy: &Policy) {
        let Plan { moves, claims, .. } = self.fleet.plan(START + at, policy);
        self.promises = promises::renewed(&self.promises, &claims, START + at);
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
    let nodes = mk_nodes(&mut Random(seed), CLUSTERS.len() * NODES, big);
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
    (packing.waiting.len(), packing.evictions, fewest(&nodes, big, BIG))
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
    assert!(evictions * 10 <= fewest * 14, "{evictions} for {fewest}");
}
