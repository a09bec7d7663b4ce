//! Counters that never go back, made from what sources tell from time to time. Pure.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use super::Sample;

/// CPU and memory at one time, as a source tells them. Sources know the CPU time used, the CPU in use, or both.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Figure {
    /// When it was taken, in milliseconds since 1970.
    pub time_ms: i64,
    /// CPU time used since the start, in nanoseconds of one core.
    pub cpu_core_nanos: Option<u64>,
    /// CPU in use, in billionths of a core.
    pub cpu_nano_cores: Option<u64>,
    /// Memory that cannot be reclaimed under pressure, in bytes.
    pub working_set_bytes: u64,
}

/// Starts that differ by less are the same: sources round them differently, to the second at most.
const SAME_START_MS: u64 = 1000;

/// Counters of containers, by a key of the caller's choice.
#[derive(Debug)]
pub struct Ledger<K> {
    lives: HashMap<K, Life>,
}

/// A container (or node) from its start to its next.
#[derive(Clone, Copy, Debug)]
struct Life {
    started_ms: Option<i64>,
    last: Sample,
    /// The source's counter at the last figure, if it has one.
    anchor: Option<u64>,
}

/// The sum over parts that come and go, as one counter.
#[derive(Debug, Default)]
pub struct Sum {
    parts: Ledger<String>,
    cpu_core_nanos: u64,
    begun: bool,
}

// === impl Ledger ===

impl<K> Default for Ledger<K> {
    fn default() -> Self {
        Self {
            lives: HashMap::new(),
        }
    }
}

impl<K: Eq + Hash> Ledger<K> {
    /// Takes a figure and returns the sample to show. While a container lives (its start stays the same), neither CPU
    /// time nor clock goes back, also when the figures come from another source than before.
    pub fn take(&mut self, key: K, started_ms: Option<i64>, figure: &Figure) -> Sample {
        let same_life = |life: &&mut Life| match (life.started_ms, started_ms) {
            (Some(before), Some(now)) => before.abs_diff(now) < SAME_START_MS,
            _ => true,
        };
        if let Some(life) = self.lives.get_mut(&key).filter(same_life) {
            life.started_ms = life.started_ms.or(started_ms);
            return life.advance(figure);
        }
        let life = Life::new(started_ms, figure);
        self.lives.insert(key, life);
        life.last
    }

    /// Forgets what `is_live` does not know.
    pub fn retain(&mut self, mut is_live: impl FnMut(&K) -> bool) {
        self.lives.retain(|key, _| is_live(key));
    }

    fn cpu_core_nanos(&self, key: &K) -> Option<u64> {
        self.lives.get(key).map(|life| life.last.cpu_core_nanos)
    }
}

// === impl Life ===

impl Life {
    fn new(started_ms: Option<i64>, figure: &Figure) -> Self {
        Self {
            started_ms,
            last: Sample {
                time_ms: figure.time_ms,
                // A counter made of rates starts at one: metrics-server takes zero for "not measured".
                cpu_core_nanos: figure.cpu_core_nanos.unwrap_or(1),
                cpu_nano_cores: figure.cpu_nano_cores,
                working_set_bytes: figure.working_set_bytes,
            },
            anchor: figure.cpu_core_nanos,
        }
    }

    fn advance(&mut self, figure: &Figure) -> Sample {
        let Ok(passed_ms @ 1..) = u64::try_from(figure.time_ms - self.last.time_ms) else {
            return self.last;
        };
        let gained = match (figure.cpu_core_nanos, self.anchor) {
            (Some(now), Some(before)) => now.saturating_sub(before),
            // The source has changed: what its counter holds from before was counted already, or is not ours to know.
            (Some(_), None) => 0,
            (None, _) => scale(figure.cpu_nano_cores.unwrap_or(0), passed_ms, 1000),
        };
        let counted = figure.cpu_core_nanos.is_some() && self.anchor.is_some();
        self.anchor = figure.cpu_core_nanos;
        self.last = Sample {
            time_ms: figure.time_ms,
            cpu_core_nanos: self.last.cpu_core_nanos.saturating_add(gained),
            cpu_nano_cores: figure
                .cpu_nano_cores
                .or_else(|| counted.then(|| scale(gained, 1000, passed_ms))),
            working_set_bytes: figure.working_set_bytes,
        };
        self.last
    }
}

/// `number × by / over` without overflow on the way.
fn scale(number: u64, by: u64, over: u64) -> u64 {
    let scaled = u128::from(number) * u128::from(by) / u128::from(over);
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

// === impl Sum ===

impl Sum {
    /// Takes the figures of all parts that are there now; `None` without any. A part that comes later adds what it
    /// uses from then on; one that goes takes nothing away.
    pub fn take(&mut self, figures: &[(String, Figure)]) -> Option<Sample> {
        let mut sum: Option<Sample> = None;
        for (name, figure) in figures {
            let before = self.parts.cpu_core_nanos(name);
            let now = self.parts.take(name.clone(), None, figure);
            let known = before.unwrap_or(if self.begun { now.cpu_core_nanos } else { 0 });
            let gained = now.cpu_core_nanos.saturating_sub(known);
            self.cpu_core_nanos = self.cpu_core_nanos.saturating_add(gained);
            sum = Some(sum.map_or(now, |sum| sum.plus(&now)));
        }
        let present: HashSet<&str> = figures.iter().map(|(name, _)| &**name).collect();
        self.parts.retain(|part| present.contains(&**part));
        self.begun |= !figures.is_empty();
        sum.map(|sum| Sample {
            cpu_core_nanos: self.cpu_core_nanos,
            ..sum
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CORE: u64 = 1_000_000_000;

    fn mk_counted(seconds: i64, nanos: u64) -> Figure {
        Figure {
            time_ms: seconds * 1000,
            cpu_core_nanos: Some(nanos),
            cpu_nano_cores: None,
            working_set_bytes: 7,
        }
    }

    fn mk_rate(seconds: i64, nano_cores: u64) -> Figure {
        Figure {
            time_ms: seconds * 1000,
            cpu_core_nanos: None,
            cpu_nano_cores: Some(nano_cores),
            working_set_bytes: 7,
        }
    }

    #[test]
    fn counters_follow_their_source_within_a_life() {
        // Start, figure, and the CPU time and rate that are shown.
        let cases = [
            (Some(0), mk_counted(10, 5 * CORE), 5 * CORE, None),
            // Half a core for ten seconds.
            (Some(0), mk_counted(20, 10 * CORE), 10 * CORE, Some(CORE / 2)),
            // Older and equally old figures change nothing.
            (Some(0), mk_counted(20, 30 * CORE), 10 * CORE, Some(CORE / 2)),
            (Some(0), mk_counted(15, 30 * CORE), 10 * CORE, Some(CORE / 2)),
            // The start is rounded by another source.
            (Some(999), mk_counted(30, 10 * CORE), 10 * CORE, Some(0)),
            // A counter that goes back without a new start is no reason to go back.
            (Some(0), mk_counted(40, 3 * CORE), 10 * CORE, Some(0)),
            (None, mk_counted(50, 4 * CORE), 11 * CORE, Some(CORE / 10)),
            // A source that knows rates only, and the first one again.
            (None, mk_rate(60, CORE), 21 * CORE, Some(CORE)),
            (Some(0), mk_counted(70, 90 * CORE), 21 * CORE, None),
            (Some(0), mk_counted(80, 91 * CORE), 22 * CORE, Some(CORE / 10)),
            // A restart.
            (Some(75_000), mk_counted(90, CORE), CORE, None),
        ];
        let mut ledger = Ledger::default();
        for (step, (started, figure, cpu, rate)) in cases.into_iter().enumerate() {
            let sample = ledger.take("c", started, &figure);
            assert_eq!(
                (sample.cpu_core_nanos, sample.cpu_nano_cores),
                (cpu, rate),
                "step {step}"
            );
        }
    }

    #[test]
    fn rates_add_up_from_one() {
        let mut ledger = Ledger::default();
        let shown = [mk_rate(0, CORE), mk_rate(15, CORE / 3), mk_rate(30, 0)]
            .map(|figure| ledger.take("c", None, &figure).cpu_core_nanos);
        assert_eq!(shown, [1, 1 + 5 * CORE - 5, 1 + 5 * CORE - 5]);
    }

    #[test]
    fn what_is_not_live_is_forgotten() {
        let mut ledger = Ledger::default();
        ledger.take("gone", None, &mk_rate(0, CORE));
        ledger.take("gone", None, &mk_rate(9, CORE));
        ledger.retain(|key| *key != "gone");
        assert_eq!(ledger.take("gone", None, &mk_rate(10, CORE)).cpu_core_nanos, 1);
    }

    #[test]
    fn a_sum_grows_by_what_its_parts_use_while_they_are_there() {
        let mut sum = Sum::default();
        let mut take = |parts: &[(&str, Figure)]| {
            let parts: Vec<_> = parts
                .iter()
                .map(|(name, figure)| ((*name).to_owned(), *figure))
                .collect();
            sum.take(&parts)
                .map(|sample| (sample.cpu_core_nanos, sample.working_set_bytes))
        };
        assert_eq!(take(&[]), None);
        let first = [("a", mk_counted(0, 10)), ("b", mk_counted(0, 20))];
        assert_eq!(take(&first), Some((30, 14)));
        // One more, which has used much before it came.
        let joined = [
            ("a", mk_counted(10, 11)),
            ("b", mk_counted(10, 22)),
            ("c", mk_counted(10, 9000)),
        ];
        assert_eq!(take(&joined), Some((33, 21)));
        assert_eq!(take(&[("c", mk_counted(20, 9005))]), Some((38, 7)));
        assert_eq!(take(&[]), None);
        let back = [("a", mk_counted(30, 500)), ("c", mk_counted(30, 9006))];
        assert_eq!(take(&back), Some((38, 14)));
    }

    proptest! {
        #[test]
        fn nothing_goes_back_while_a_container_lives(
            steps in prop::collection::vec((0..100_i64, prop::option::of(any::<u64>()), prop::option::of(any::<u64>())), 1..20),
        ) {
            let (mut ledger, mut sum) = (Ledger::default(), Sum::default());
            let mut before = (i64::MIN, 0, 0);
            for (seconds, cpu_core_nanos, cpu_nano_cores) in steps {
                let figure = Figure { time_ms: seconds * 1000, cpu_core_nanos, cpu_nano_cores, working_set_bytes: 1 };
                let shown = ledger.take((), Some(0), &figure);
                let total = sum.take(&[("a".to_owned(), figure)]).unwrap();
                let now = (shown.time_ms, shown.cpu_core_nanos, total.cpu_core_nanos);
                prop_assert!(now.0 >= before.0 && now.1 >= before.1 && now.2 >= before.2, "{before:?} {now:?}");
                before = now;
            }
        }
    }
}
