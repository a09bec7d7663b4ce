//! Which pods of a node have to go so that another one fits, and which of such sets disturbs least.

use tensile_core::resources::Resources;

/// Most pods of a node that are looked at; the cheapest. With five victims these are 20 000 sets.
const MOST_MOVABLE: usize = 22;

/// Sets of a node that are of use: if none of them can go elsewhere, others like them hardly can.
const MOST_SETS: usize = 16;

/// What moving a set of pods disturbs, in kube-scheduler's order of preference for preemption
/// (`pickOneNodeForPreemption`): first the most important pod, then all of them, then how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Cost {
    /// Highest priority among the pods.
    pub(super) highest: i64,
    /// Number of pods.
    pub(super) pods: usize,
    /// What their users say that it costs to restart them (`controller.kubernetes.io/pod-deletion-cost`).
    pub(super) restarts: i64,
}

/// A pod that may be moved.
#[derive(Clone, Debug)]
pub(super) struct Movable<T> {
    /// Whatever it is.
    pub(super) pod: T,
    /// What it gives free.
    pub(super) request: Resources,
    /// Its priority.
    pub(super) priority: i64,
    /// Its restart cost.
    pub(super) restart: i64,
}

// === impl Cost ===

impl Cost {
    /// Of moving nobody.
    pub(super) const NONE: Self = Self {
        highest: i64::MIN,
        pods: 0,
        restarts: 0,
    };

    fn with<T>(self, pod: &Movable<T>) -> Self {
        Self {
            highest: self.highest.max(pod.priority),
            pods: self.pods + 1,
            restarts: self.restarts.saturating_add(pod.restart),
        }
    }
}

/// The cheapest sets of at most `most` pods that give `wanted` free beside what is `free` already, and from which none
/// can be left out, if they are cheaper than `bound`. The cheapest first; positions in `movable`, which is sorted by cost.
pub(super) fn sets<T>(
    movable: &mut Vec<Movable<T>>,
    wanted: &Resources,
    free: &Resources,
    most: usize,
    bound: Option<Cost>,
) -> Vec<(Cost, Vec<usize>)> {
    movable.sort_by_key(|pod| (pod.priority, pod.restart));
    movable.truncate(MOST_MOVABLE);
    let gains = movable.iter().map(|pod| pod.restart.min(0)).sum();
    let mut search = Search {
        movable,
        wanted,
        most,
        bound,
        gains,
        found: Vec::new(),
    };
    search.extend(&mut Vec::new(), free, Cost::NONE);
    search.found
}

/// The fewest pods that can give `wanted` free, resource by resource; `None` if all of them cannot.
pub(super) fn fewest(requests: &[&Resources], wanted: &Resources, free: &Resources) -> Option<usize> {
    let mut fewest = 0;
    for (lane, wanted) in wanted.iter().filter(|(_, wanted)| *wanted > 0) {
        let mut given: Vec<i64> = requests.iter().map(|request| request.get(&lane)).collect();
        given.sort_unstable_by(|one, other| other.cmp(one));
        let (mut free, mut given) = (free.get(&lane), given.into_iter());
        let mut pods = 0;
        while free < wanted {
            free += given.next()?;
            pods += 1;
        }
        fewest = fewest.max(pods);
    }
    Some(fewest)
}

struct Search<'a, T> {
    movable: &'a [Movable<T>],
    wanted: &'a Resources,
    most: usize,
    /// Only cheaper sets are of use.
    bound: Option<Cost>,
    /// By how much restarts can become cheaper with more pods: users may say that some cost less than nothing.
    gains: i64,
    /// The cheapest so far, in order.
    found: Vec<(Cost, Vec<usize>)>,
}

// === impl Search ===

impl<T> Search<'_, T> {
    fn extend(&mut self, chosen: &mut Vec<usize>, free: &Resources, cost: Cost) {
        if self.is_too_dear(cost) {
            return;
        }
        if self.wanted.fits(free) {
            if self.is_minimal(chosen, free) {
                self.keep(cost, chosen);
            }
            return;
        }
        if chosen.len() == self.most {
            return;
        }
        let next = chosen.last().map_or(0, |last| last + 1);
        for index in next..self.movable.len() {
            let pod = &self.movable[index];
            let mut more = free.clone();
            more.add(&pod.request);
            chosen.push(index);
            self.extend(chosen, &more, cost.with(pod));
            chosen.pop();
        }
    }

    /// Whether no set that begins at this cost is of use.
    fn is_too_dear(&self, cost: Cost) -> bool {
        let at_least = Cost {
            restarts: cost.restarts.saturating_add(self.gains),
            ..cost
        };
        let is_over = |bound: &Cost| at_least >= *bound;
        let worst = self.found.get(MOST_SETS - 1).map(|(cost, _)| cost);
        worst.is_some_and(is_over) || self.bound.as_ref().is_some_and(is_over)
    }

    fn keep(&mut self, cost: Cost, chosen: &[usize]) {
        if self.bound.is_some_and(|bound| cost >= bound) {
            return;
        }
        let set = (cost, chosen.to_vec());
        let place = self.found.partition_point(|known| *known <= set);
        self.found.insert(place, set);
        self.found.truncate(MOST_SETS);
    }

    /// Whether each pod of the set is needed.
    fn is_minimal(&self, chosen: &[usize], free: &Resources) -> bool {
        chosen.iter().all(|index| {
            let mut less = free.clone();
            less.sub(&self.movable[*index].request);
            !self.wanted.fits(&less)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpu(milli: i64) -> Resources {
        let mut cpu = Resources::default();
        cpu.milli_cpu = milli;
        cpu
    }

    fn mk_movable(pods: &[(i64, i64, i64)]) -> Vec<Movable<usize>> {
        let movable = pods.iter().enumerate();
        movable
            .map(|(pod, (milli, priority, restart))| Movable {
                pod,
                request: cpu(*milli),
                priority: *priority,
                restart: *restart,
            })
            .collect()
    }

    /// The first set, as names of pods, sorted.
    fn cheapest(pods: &[(i64, i64, i64)], wanted: i64, free: i64, most: usize) -> Option<Vec<usize>> {
        let mut movable = mk_movable(pods);
        let sets = sets(&mut movable, &cpu(wanted), &cpu(free), most, None);
        let (_, set) = sets.first()?;
        let mut names: Vec<usize> = set.iter().map(|index| movable[*index].pod).collect();
        names.sort_unstable();
        Some(names)
    }

    #[test]
    fn the_set_that_disturbs_least_comes_first() {
        for (what, pods, wanted, free, most, set) in [
            (
                "one is enough",
                &[(1, 0, 0), (5, 0, 0), (4, 0, 0)][..],
                5,
                1,
                3,
                Some(vec![1]),
            ),
            (
                "two small ones",
                &[(1, 0, 0), (2, 0, 0), (2, 0, 0)],
                5,
                1,
                3,
                Some(vec![1, 2]),
            ),
            (
                "too many are needed",
                &[(1, 0, 0), (1, 0, 0), (1, 0, 0)],
                3,
                0,
                2,
                None,
            ),
            ("not enough at all", &[(1, 0, 0)], 3, 0, 3, None),
            (
                "the less important",
                &[(4, 9, 0), (2, 0, 0), (2, 0, 0)],
                4,
                0,
                3,
                Some(vec![1, 2]),
            ),
            (
                "the cheaper restart",
                &[(4, 0, 7), (4, 0, 3)],
                4,
                0,
                3,
                Some(vec![1]),
            ),
            ("room is there", &[(4, 0, 0)], 4, 4, 3, Some(vec![])),
        ] {
            assert_eq!(cheapest(pods, wanted, free, most), set, "{what}");
        }
    }

    #[test]
    fn no_set_has_a_pod_too_many() {
        let mut movable = mk_movable(&[(1, 0, 0), (2, 0, 0), (3, 0, 0)]);
        let sets = sets(&mut movable, &cpu(3), &cpu(0), 3, None);
        let sets: Vec<_> = sets.into_iter().map(|(_, set)| set).collect();
        assert_eq!(sets, [vec![2], vec![0, 1]]);
    }

    /// Every subset, by counting: the search must find one as cheap.
    #[test]
    fn nothing_is_cheaper_than_what_trying_everything_finds() {
        let mut random = 7_u64;
        let mut next = |below: i64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            i64::try_from(random >> 33).unwrap() % below
        };
        for round in 0..200 {
            let pods: Vec<(i64, i64, i64)> = (0..8).map(|_| (1 + next(4), next(3), next(5) - 2)).collect();
            let (wanted, free) = (3 + next(8), next(3));
            let mut movable = mk_movable(&pods);
            let found = sets(&mut movable, &cpu(wanted), &cpu(free), 3, None)
                .first()
                .map(|(cost, _)| *cost);
            let subsets = (0_u32..256).filter(|subset| subset.count_ones() <= 3);
            let brute = subsets.filter_map(|subset| {
                let chosen = movable
                    .iter()
                    .enumerate()
                    .filter(|(index, _)| subset & (1 << index) != 0);
                let chosen: Vec<_> = chosen.map(|(_, pod)| pod).collect();
                let given: i64 = chosen.iter().map(|pod| pod.request.milli_cpu).sum();
                let cost = chosen.iter().fold(Cost::NONE, |cost, pod| cost.with(pod));
                (free + given >= wanted).then_some(cost)
            });
            let brute = brute.min();
            assert_eq!(found, brute, "round {round}: {pods:?} {wanted} {free}");
            let least = fewest(
                &movable.iter().map(|pod| &pod.request).collect::<Vec<_>>(),
                &cpu(wanted),
                &cpu(free),
            );
            if let Some(brute) = brute {
                assert!(
                    least.unwrap() <= brute.pods,
                    "round {round}: {pods:?} {wanted} {free}"
                );
                let cheaper = sets(&mut movable, &cpu(wanted), &cpu(free), 3, Some(brute));
                assert_eq!(cheaper, [], "nothing is cheaper than the cheapest");
            }
        }
    }
}
