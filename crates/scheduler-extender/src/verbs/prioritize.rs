//! Which of the nodes that pass are preferred.

use tensile_placement::Cluster;
use tensile_runtime::clock;

use crate::wire::{ExtenderArgs, HostPriority, MAX_SCORE};
use tensile_world::{Answer, Strategy, World};

/// Answers a prioritize request. Ordinary nodes, and virtual ones that nobody can judge, get no points.
#[must_use]
pub fn prioritize(world: &mut World, args: &ExtenderArgs) -> Vec<HostPriority> {
    let mut lowering = world.consider(&args.pod, clock::now());
    let names = args.nodes.names();
    // The less, the better.
    let answers = world.answers(&mut lowering, &names).into_iter();
    let costs: Vec<Option<i64>> = names
        .iter()
        .zip(answers)
        .map(|(node, answer)| cost(world, node, answer?))
        .collect();
    let known = || costs.iter().flatten();
    let (least, most) = (
        known().min().copied().unwrap_or(0),
        known().max().copied().unwrap_or(0),
    );
    let score = |cost: i64| MAX_SCORE - MAX_SCORE * (cost - least) / (most - least).max(1);
    let scored = names.iter().zip(&costs);
    scored
        .map(|(node, cost)| HostPriority {
            host: (*node).to_owned(),
            score: cost.map_or(0, score),
        })
        .collect()
}

fn cost(world: &World, node: &str, answer: Answer) -> Option<i64> {
    let Answer::Fits(fit) = answer else {
        return None;
    };
    let cluster = || {
        let id = &world.virtual_node(node)?.cluster;
        world
            .clusters()
            .find(|(known, _)| known == id)
            .map(|(_, cluster)| &cluster.model)
    };
    match world.settings.strategy {
        Strategy::LeastStranded => fit.best.map(|best| i64::from(best.stranding.0)),
        Strategy::Spread => cluster().map(usage),
        Strategy::Fill => cluster().map(|cluster| -usage(cluster)),
    }
}

/// Thousandths of CPU or memory that are used, whichever is scarcer.
fn usage(cluster: &Cluster) -> i64 {
    let (mut cpu, mut memory) = (Share::default(), Share::default());
    for node in cluster.nodes() {
        cpu.add(node.used.milli_cpu, node.facts.allocatable.milli_cpu);
        memory.add(node.used.memory, node.facts.allocatable.memory);
    }
    cpu.thousandths().max(memory.thousandths())
}

#[derive(Default)]
struct Share {
    part: i128,
    whole: i128,
}

// === impl Share ===

impl Share {
    fn add(&mut self, part: i64, whole: i64) {
        self.part += i128::from(part);
        self.whole += i128::from(whole);
    }

    fn thousandths(&self) -> i64 {
        i64::try_from(1000 * self.part / self.whole.max(1)).unwrap_or(i64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{mk_args, mk_pod, mk_world};

    // mk_world: va stands for cluster a, half used, where 1 CPU leaves nothing of a1; vb for b, unused.
    #[test]
    fn strategies_prefer_different_nodes() {
        for (strategy, scores) in [
            (Strategy::LeastStranded, [10, 0, 0]),
            (Strategy::Fill, [10, 0, 0]),
            (Strategy::Spread, [0, 10, 0]),
        ] {
            let mut world = mk_world();
            world.settings.strategy = strategy;
            let answer = prioritize(&mut world, &mk_args(&mk_pod("p", "1"), &["va", "vb", "ordinary"]));
            assert_eq!(
                answer.iter().map(|entry| entry.score).collect::<Vec<_>>(),
                scores,
                "{strategy:?}"
            );
            assert_eq!(
                answer.iter().map(|entry| &*entry.host).collect::<Vec<_>>(),
                ["va", "vb", "ordinary"]
            );
        }
    }

    #[test]
    fn a_node_without_an_equal_gets_all_points_and_one_that_does_not_fit_none() {
        let answer = prioritize(&mut mk_world(), &mk_args(&mk_pod("p", "5"), &["va", "vb"]));
        assert_eq!(
            answer.iter().map(|entry| entry.score).collect::<Vec<_>>(),
            [0, 10]
        );
    }
}
