//! Hours of virtual time over the pure planner: the same arrivals and departures, with and without the descheduler.
//!
//! Three clusters of ten nodes with 4 CPUs each. The upper scheduler sees sums and takes the emptiest virtual node; each
//! lower scheduler takes the tightest node that fits, or refuses. `cargo test -p tensile-descheduler --test simulation --
//! --nocapture` prints the table.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};
use tensile_core::avoidance::Avoidance;
use tensile_core::resources::Lane;
use tensile_descheduler::avoid;
use tensile_descheduler::plan;
use tensile_descheduler::pods::Pods;
use tensile_descheduler::policy::Policy;
use tensile_descheduler::refused::Refused;
use tensile_descheduler::scene::Scene;
use tensile_descheduler::waiting::Waiting;
use tensile_placement::{Candidate, Cluster, Fit, Fragments, PodKey};
use tensile_runtime::key::Key;
use tensile_runtime::watch::Change;
use tensile_world::World;

const CLUSTERS: [&str; 3] = ["a", "b", "c"];
const NODES: usize = 10;
/// Seconds of a step, of all steps, and between two rounds.
const STEP: u64 = 10;
const END: u64 = 4 * 3600;
const ROUND: u64 = 60;
/// When it starts, in seconds since the Unix epoch.
const START: u64 = 1_767_225_600;

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
    /// Pod seconds of free CPU that no refused pod could use, over all steps.
    stranded: f64,
    samples: f64,
    /// By arrival, when it was evicted.
    moved: HashMap<usize, Vec<u64>>,
}

struct Simulation {
    world: World,
    upper: Cluster,
    pods: Pods,
    refused: Refused,
    avoidance: Avoidance,
    live: BTreeMap<String, Live>,
    made: usize,
    outcome: Outcome,
}

/// Arrivals that load the clusters to about nine tenths, from a fixed seed.
fn mk_trace() -> Vec<Arrival> {
    let mut random = 42_u64;
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

fn time(at: u64) -> String {
    jiff::Timestamp::from_second(i64::try_from(START + at).unwrap())
        .unwrap()
        .to_string()
}

// === impl Simulation ===

impl Simulation {
    fn new() -> Self {
        let (mut world, mut upper) = (World::default(), Cluster::default());
        for cluster in CLUSTERS {
            let labels = json!({"type": "virtual-kubelet", "clusterID": cluster});
            let owned: BTreeMap<String, String> = serde_json::from_value(labels.clone()).unwrap();
            world.apply_node(&format!("v{cluster}"), &owned, None);
            let all = json!({"cpu": (4 * NODES).to_string(), "pods": "999"});
            let node = json!({
                "metadata": {"name": format!("v{cluster}"), "labels": labels}, "status": {"allocatable": all}
            });
            upper.apply_node(&serde_json::from_value(node).unwrap());
            for index in 0..NODES {
                let node = json!({
                    "metadata": {"name": format!("{cluster}{index}")},
                    "status": {"allocatable": {"cpu": "4", "pods": "99"}}
                });
                world
                    .cluster_mut(cluster)
                    .model
                    .apply_node(&serde_json::from_value(node).unwrap());
            }
        }
        world.retain_nodes(|_| true);
        Self {
            world,
            upper,
            pods: Pods::default(),
            refused: Refused::default(),
            avoidance: Avoidance::default(),
            live: BTreeMap::new(),
            made: 0,
            outcome: Outcome::default(),
        }
    }

    /// The upper scheduler: the emptiest virtual node that the owner does not avoid.
    fn create(&mut self, at: u64, arrival: usize, cpus: u64) {
        self.made += 1;
        let (name, owner) = (format!("p{}", self.made), format!("owner-{arrival}"));
        let requests = json!({"cpu": cpus.to_string()});
        let mut pod = json!({
            "metadata": {
                "name": name, "namespace": "ns", "uid": name, "creationTimestamp": time(at),
                "ownerReferences": [{"kind": "ReplicaSet", "uid": owner, "controller": true}]
            },
            "spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]},
            "status": {"phase": "Pending"}
        });
        let avoided: Vec<&str> = self.avoidance.nodes(&owner, START + at).collect();
        let free = |cluster: &&&str| self.upper.node(&format!("v{cluster}")).unwrap().free().milli_cpu;
        let usable = CLUSTERS
            .iter()
            .filter(|cluster| !avoided.contains(&&*format!("v{cluster}")));
        let cluster = usable.max_by_key(free).copied().unwrap_or(CLUSTERS[0]);
        pod["spec"]["nodeName"] = json!(format!("v{cluster}"));
        let live = Live {
            arrival,
            cluster,
            json: pod,
            running_since: None,
            refused: false,
        };
        self.tell(&live.json);
        self.live.insert(name, live);
    }

    fn tell(&mut self, pod: &Value) {
        self.upper
            .apply_pod(&serde_json::from_value(pod.clone()).unwrap());
        let change = Change::Apply(serde_json::from_str(&pod.to_string()).unwrap());
        self.pods.changed(&change, |_| true);
    }

    fn delete(&mut self, name: &str) -> Live {
        let live = self.live.remove(name).unwrap();
        let key = PodKey::new("ns", name);
        self.upper.delete_pod(key);
        self.world.cluster_mut(live.cluster).model.delete_pod(key);
        let gone = |pod: &Value| Change::Delete(serde_json::from_str(&pod.to_string()).unwrap());
        self.pods.changed(&gone(&live.json), |_| true);
        let gone = Change::Delete(serde_json::from_str(&live.json.to_string()).unwrap());
        self.refused.changed(live.cluster, gone);
        live
    }

    /// The lower schedulers: each waiting pod gets the tightest node, or a refusal that is told once.
    fn schedule_below(&mut self, at: u64, trace: &[Arrival]) {
        let waiting = self.live.iter().filter(|(_, live)| live.running_since.is_none());
        let waiting: Vec<String> = waiting.map(|(name, _)| name.clone()).collect();
        for name in waiting {
            let live = self.live.get_mut(&name).unwrap();
            let mut lower = live.json.clone();
            lower["metadata"]["labels"] = json!({"tensile.dev/origin-uid": name});
            lower["spec"]["nodeName"] = json!(null);
            let model = &mut self.world.cluster_mut(live.cluster).model;
            let fit = Fit::of(model, &Candidate::new(&lower).unwrap(), None);
            if let Some(best) = fit.best {
                lower["spec"]["nodeName"] = json!(&*best.node);
                model.apply_pod(&serde_json::from_value(lower.clone()).unwrap());
                live.running_since = Some(at);
                live.json["status"]["phase"] = json!("Running");
                self.outcome.waited += at - trace[live.arrival].at;
                let (cluster, pod) = (live.cluster, live.json.clone());
                self.refused.changed(
                    cluster,
                    Change::Delete(serde_json::from_str(&lower.to_string()).unwrap()),
                );
                self.tell(&pod);
            } else if !live.refused {
                live.refused = true;
                lower["status"]["conditions"] = json!([{
                    "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "full",
                    "lastTransitionTime": time(at)
                }]);
                self.refused.changed(
                    live.cluster,
                    Change::Apply(serde_json::from_str(&lower.to_string()).unwrap()),
                );
            }
        }
    }

    /// A round of the descheduler, and what owners and scheduler make of it.
    fn round(&mut self, at: u64, policy: &Policy, trace: &[Arrival]) {
        let now = START + at;
        self.avoidance.expire(now);
        let mut scene = Scene::new(now, policy, &mut self.world, &mut self.upper, &self.avoidance);
        let planned = plan::plan(&mut scene, &self.pods, &self.refused, &Waiting::default());
        drop(scene);
        for moved in planned.moves {
            let pod = self.pods.get(&Key::new("ns", &moved.pod.name)).unwrap();
            avoid::note_move(&mut self.avoidance, pod, policy.avoid_for, now);
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
        let done: Vec<String> = self
            .live
            .iter()
            .filter(|(_, live)| over(live))
            .map(|(name, _)| name.clone())
            .collect();
        self.outcome.finished += done.len();
        for name in done {
            self.delete(&name);
        }
    }

    fn sample(&mut self) {
        for cluster in CLUSTERS {
            let waiting = self.live.values().filter(|live| live.running_since.is_none());
            let waiting: Vec<_> = waiting
                .map(|live| Candidate::new(&live.json).unwrap().pod.request)
                .collect();
            let fragments = Fragments::of(&self.world.cluster_mut(cluster).model, &waiting);
            self.outcome.stranded += fragments.stranded_share(&Lane::MilliCpu);
            self.outcome.samples += 1.0;
        }
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

fn row(what: &str, outcome: &Outcome) {
    println!(
        "| {what} | {} | {} | {:.1} | {:.0} % |",
        outcome.finished,
        outcome.waited / 60,
        outcome.evictions as f64 * 3600.0 / END as f64,
        100.0 * outcome.stranded / outcome.samples,
    );
}

#[test]
fn pods_wait_less_and_none_goes_round_in_circles() {
    let trace = mk_trace();
    let policy = Policy::default();
    let without = Simulation::run(&trace, None);
    let with = Simulation::run(&trace, Some(&policy));
    println!("{} pods in {} h\n", trace.len(), END / 3600);
    println!(
        "| | finished | waited, pod minutes | evictions an hour | of free CPU stranded |\n|---|---|---|---|---|"
    );
    row("without", &without);
    row("with", &with);
    assert!(without.waited > 0, "the trace leaves nothing to repair");
    assert!(
        with.waited < without.waited,
        "{} >= {}",
        with.waited,
        without.waited
    );
    assert!(with.finished >= without.finished);
    assert!(with.evictions > 0);
    for (arrival, times) in &with.moved {
        let in_window = |start: &u64| {
            times
                .iter()
                .filter(|at| (*start..start + policy.avoid_for).contains(at))
                .count()
        };
        let most = times.iter().map(in_window).max().unwrap_or(0);
        assert!(
            most <= 2,
            "arrival {arrival} was moved {most} times within the window: {times:?}"
        );
    }
    let bound = usize::try_from(END / policy.avoid_for * 2).unwrap() * with.moved.len().max(1);
    assert!(with.evictions <= bound);
}
