//! Prepared fragments, and the fewest evictions by which big pods get room among them. Used by the live test, too.

/// What a node has.
const MILLI_CPU: u64 = 4000;

/// A reproducible row of numbers.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005);
        self.0 = self.0.wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// The pods of each of so many nodes: seven tenths of all CPUs are in use, and no node has so much free as a big pod needs.
pub(crate) fn mk_nodes(random: &mut Random, all: usize, big: u64) -> Vec<Vec<u64>> {
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

/// The fewest evictions by which so many waiting pods of this size fit, wherever the evicted go: for each node how many pods must
/// go for one or more big ones, then the cheapest choice over all nodes.
pub(crate) fn fewest(nodes: &[Vec<u64>], big: u64, waiting: usize) -> usize {
    let mut best = vec![usize::MAX; waiting + 1];
    best[0] = 0;
    for pods in nodes {
        let mut after = best.clone();
        for (placed, cost) in best.iter().enumerate().filter(|(_, cost)| **cost < usize::MAX) {
            for more in 1..=usize::try_from(MILLI_CPU / big).unwrap() {
                let Some(victims) = victims(pods, big * more as u64) else {
                    break;
                };
                let all = (placed + more).min(waiting);
                after[all] = after[all].min(cost + victims);
            }
        }
        best = after;
    }
    best[waiting]
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
