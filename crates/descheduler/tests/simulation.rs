//! Hours of virtual time over the pure planner: the same arrivals and departures, with and without the descheduler.
//!
//! Three clusters of ten nodes with 4 CPUs each. The upper scheduler sees sums and takes the emptiest virtual node; each
//! lower scheduler takes the tightest node that fits, or refuses. `just simulation` prints the table.

mod support;

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};
use support::{Fleet, START, mk_pod, node_of};
use tensile_core::resources::Lane;
use tensile_descheduler::policy::Policy;
use tensile_placement::{Candidate, Fragments};

const CLUSTERS: [&str; 3] = ["a", "b", "c"];
const NODES: usize = 10;
const CPUS: usize = 4;
/// Seconds of a step, of all steps, and between two rounds.
const STEP: u64 = 10;
const END: u64 = 4 * 3600;
const ROUND: u64 = 60;

/// A pod of the trace: it comes, asks for CPUs, and ends after it has run for so long.
#[derive(Clone, Copy)]
struct Arrival {
    at: u64,
    cpus: u64,
    runs: u64,
}

/// A pod that is there.
struct Live {
    /// Which arrival it stands for; its successors stand for the same.
    arrival: usize,
    /// The virtual node's cluster.
    cluster: &'static str,
    json: Value,
    running_since: Option<u64>,
    refused: bool,
}

#[derive(Default)]
struct Outcome {
    finished: usize,
    evictions: usize,
    /// Pod seconds between a pod's arrival and its start.
    waited: u64,
    /// CPUs over all steps: in use, free, and free where no waiting pod could use them.
    used: f64,
    free: f64,
    stranded: f64,
    /// CPUs that waiting pods ask for, over all steps.
    wanted: f64,
    steps: f64,
    /// By arrival, when it was evicted.
    moved: HashMap<usize, Vec<u64>>,
}

struct Simulation {
    fleet: Fleet,
    live: BTreeMap<String, Live>,
    made: usize,
    outcome: Outcome,
}

/// Arrivals that load the clusters to about nine tenths, from a fixed seed.
fn mk_trace(seed: u64) -> Vec<Arrival> {
    let mut random = seed;
    let mut next = |below: u64| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    let mut trace = Vec::new();
    for at in (0..END).step_by(usize::try_from(STEP).unwrap()) {
        if next(5) == 0 {
            // Many small pods, few large ones.
            let cpus = [1, 1, 1, 2, 3, 3][usize::try_from(next(6)).unwrap()];
            let runs = 1200 + next(3600);
            trace.push(Arrival { at, cpus, runs });
        }
    }
    trace
}

fn owner_of(arrival: usize) -> String {
    format!("owner-{arrival}")
}

// === impl Simulation ===

impl Simulation {
    fn new() -> Self {
        Self {
            fleet: Fleet::new(&CLUSTERS, NODES, CPUS),
            live: BTreeMap::new(),
            made: 0,
            outcome: Outcome::default(),
        }
    }

    fn create(&mut self, at: u64, arrival: usize, cpus: u64) {
        self.made += 1;
        let (name, owner) = (format!("p{}", self.made), owner_of(arrival));
        let cluster = self.fleet.emptiest(&owner, START + at);
        let mut pod = mk_pod(&name, &owner, 1000 * cpus, at);
        pod["spec"]["nodeName"] = json!(node_of(cluster));
        self.fleet.tell(&pod);
        let live = Live {
            arrival,
            cluster,
            json: pod,
            running_since: None,
            refused: false,
        };
        self.live.insert(name, live);
    }

    fn delete(&mut self, name: &str) -> Live {
        let live = self.live.remove(name).unwrap();
        self.fleet.gone(live.cluster, &live.json);
        live
    }

    /// The lower schedulers: each waiting pod gets the tightest node, or a refusal that is told once.
    fn schedule_below(&mut self, at: u64, trace: &[Arrival]) {
        for live in self.live.values_mut().filter(|live| live.running_since.is_none()) {
            if self.fleet.schedule_below(live.cluster, &live.json) {
                live.running_since = Some(at);
                live.json["status"]["phase"] = json!("Running");
                self.outcome.waited += at - trace[live.arrival].at;
                self.fleet.tell(&live.json);
            } else if !live.refused {
                live.refused = true;
                self.fleet.refuse(live.cluster, &live.json, at);
            }
        }
    }

    /// A round of the descheduler, and what owners and scheduler make of it.
    fn round(&mut self, at: u64, policy: &Policy, trace: &[Arrival]) {
        for moved in self.fleet.plan(START + at, policy).moves {
            let gone = self.delete(&moved.pod.name);
            self.outcome.evictions += 1;
            self.outcome.moved.entry(gone.arrival).or_default().push(at);
            self.create(at, gone.arrival, trace[gone.arrival].cpus);
        }
    }

    fn finish(&mut self, at: u64, trace: &[Arrival]) {
        let over = |live: &Live| {
            live.running_since
                .is_some_and(|since| since + trace[live.arrival].runs <= at)
        };
        let ended = self.live.iter().filter(|(_, live)| over(live));
        let ended: Vec<String> = ended.map(|(name, _)| name.clone()).collect();
        self.outcome.finished += ended.len();
        for name in ended {
            self.delete(&name);
        }
    }

    fn sample(&mut self) {
        let waiting = self.live.values().filter(|live| live.running_since.is_none());
        let waiting: Vec<_> = waiting
            .map(|live| Candidate::new(&live.json).unwrap().pod.request)
            .collect();
        let cpus = |milli: i64| milli as f64 / 1000.0;
        for cluster in CLUSTERS {
            let fragments = Fragments::of(&self.fleet.world.cluster_mut(cluster).model, &waiting);
            let free = cpus(fragments.free.get(&Lane::MilliCpu));
            self.outcome.free += free;
            self.outcome.used += (NODES * CPUS) as f64 - free;
            self.outcome.stranded += cpus(fragments.stranded.get(&Lane::MilliCpu));
        }
        self.outcome.wanted += waiting.iter().map(|request| cpus(request.milli_cpu)).sum::<f64>();
        self.outcome.steps += 1.0;
    }

    fn run(trace: &[Arrival], policy: Option<&Policy>) -> Outcome {
        let mut simulation = Self::new();
        let mut arrivals = trace.iter().enumerate().peekable();
        for at in (0..END).step_by(usize::try_from(STEP).unwrap()) {
            simulation.finish(at, trace);
            while let Some((index, arrival)) = arrivals.next_if(|(_, arrival)| arrival.at <= at) {
                simulation.create(at, index, arrival.cpus);
            }
            simulation.schedule_below(at, trace);
            if let Some(policy) = policy.filter(|_| at % ROUND == 0) {
                simulation.round(at, policy, trace);
                simulation.schedule_below(at, trace);
            }
            simulation.sample();
        }
        let unstarted = simulation
            .live
            .values()
            .filter(|live| live.running_since.is_none());
        let unstarted: u64 = unstarted.map(|live| END - trace[live.arrival].at).sum();
        simulation.outcome.waited += unstarted;
        simulation.outcome
    }
}

// === impl Outcome ===

impl Outcome {
    fn row(&self, what: &str) {
        let mean = |sum: f64| sum / self.steps;
        println!(
            "| {what} | {} | {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.1} | {:.0} % |",
            self.finished,
            self.waited / 60,
            self.evictions as f64 * 3600.0 / END as f64,
            mean(self.wanted),
            mean(self.used),
            mean(self.free),
            mean(self.stranded),
            100.0 * self.stranded / self.free,
        );
    }

    fn add(&mut self, other: &Self) {
        self.finished += other.finished;
        self.evictions += other.evictions;
        self.waited += other.waited;
        self.used += other.used;
        self.free += other.free;
        self.stranded += other.stranded;
        self.wanted += other.wanted;
        self.steps += other.steps;
    }

    /// The most moves of one arrival within any window.
    fn most_moves(&self, window: u64) -> usize {
        let most = |times: &Vec<u64>| {
            let in_window = |start: &u64| {
                let window = *start..start + window;
                times.iter().filter(|at| window.contains(at)).count()
            };
            times.iter().map(in_window).max().unwrap_or(0)
        };
        self.moved.values().map(most).max().unwrap_or(0)
    }
}

#[test]
fn pods_wait_less_and_none_goes_round_in_circles() {
    let policy = Policy::default();
    let (mut without, mut with) = (Outcome::default(), Outcome::default());
    let mut arrivals = 0;
    for seed in [42, 43, 44] {
        let trace = mk_trace(seed);
        arrivals += trace.len();
        let (left, right) = (
            Simulation::run(&trace, None),
            Simulation::run(&trace, Some(&policy)),
        );
        assert!(left.waited > 0, "{seed}: the trace leaves nothing to repair");
        assert!(
            right.waited < left.waited,
            "{seed}: {} >= {}",
            right.waited,
            left.waited
        );
        assert!(
            right.most_moves(policy.avoid_for) <= 2,
            "{seed}: {:?}",
            right.moved
        );
        // Most pods are never moved, and hardly any is moved again.
        assert!(
            right.moved.len() * 4 < trace.len(),
            "{seed}: {} were moved",
            right.moved.len()
        );
        assert!(
            right.evictions <= right.moved.len() * 3 / 2,
            "{seed}: {}",
            right.evictions
        );
        without.add(&left);
        with.add(&right);
    }
    println!("{arrivals} pods in three runs of {} h\n", END / 3600);
    println!(
        "| | finished | waited, pod minutes | evictions an hour | CPUs asked for by waiting pods | CPUs in use | CPUs free \
         | of these stranded | part |\n|---|---|---|---|---|---|---|---|---|"
    );
    without.row("without");
    with.row("with");
    assert!(with.evictions > 0);
    // Which pods end before the end is a matter of chance.
    assert!(
        with.finished * 100 >= without.finished * 99,
        "{} < {}",
        with.finished,
        without.finished
    );
    assert!(
        with.wanted < without.wanted,
        "less waits: {} >= {}",
        with.wanted,
        without.wanted
    );
}
