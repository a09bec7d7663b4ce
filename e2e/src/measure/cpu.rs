//! Which process used the processor, and the memory, how much.

use std::collections::BTreeMap;

use anyhow::{Context, Result};

use crate::{Cluster, Process};

/// Processor seconds by process, at one moment or between two.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct CpuTimes(BTreeMap<String, f64>);

// === impl CpuTimes ===

impl CpuTimes {
    /// Adds all running components of a cluster, as `<cluster> <component>`.
    ///
    /// # Errors
    /// A component has ended.
    pub fn add_cluster(&mut self, cluster: &Cluster) -> Result<()> {
        for component in cluster.pids().into_keys() {
            let name = format!("{} {component}", cluster.name());
            self.add(&name, &*cluster.process(&component)?)?;
        }
        Ok(())
    }

    /// Adds a process.
    ///
    /// # Errors
    /// It has ended.
    pub fn add(&mut self, name: &str, process: &Process) -> Result<()> {
        let seconds = process
            .cpu_seconds()
            .with_context(|| format!("{name} has ended:\n{}", process.log_tail()))?;
        self.0.insert(name.to_owned(), seconds);
        Ok(())
    }

    /// Adds the calling thread, which makes the load.
    ///
    /// # Errors
    /// The kernel does not count (`CONFIG_SCHED_INFO`).
    pub fn add_own_thread(&mut self, name: &str) -> Result<()> {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
        let nanoseconds: f64 = text
            .split_whitespace()
            .next()
            .context("/proc/thread-self/schedstat is empty")?
            .parse()?;
        self.0.insert(name.to_owned(), nanoseconds / 1e9);
        Ok(())
    }

    /// What was used since `earlier`; a process that came later counts from its start.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let used = |(name, &now): (&String, &f64)| {
            let before = earlier.0.get(name).copied().unwrap_or_default();
            (name.clone(), now - before)
        };
        Self(self.0.iter().map(used).collect())
    }

    /// The seconds of one process; 0 when it is not known.
    #[must_use]
    pub fn of(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or_default()
    }

    /// The seconds of all processes.
    #[must_use]
    pub fn total(&self) -> f64 {
        self.0.values().sum()
    }

    /// The names of all processes.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.0.keys()
    }
}

/// The most resident memory that a process ever had, in bytes.
///
/// # Errors
/// The process is gone.
pub fn peak_rss(process: &Process) -> Result<u64> {
    memory(process, "VmHWM")
}

/// What of the resident memory of a process is pages of files, most of them its binary, in bytes.
///
/// # Errors
/// The process is gone.
pub fn file_rss(process: &Process) -> Result<u64> {
    memory(process, "RssFile")
}

fn memory(process: &Process, figure: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(figure)?.strip_prefix(':'));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kilobytes.with_context(|| format!("no {figure} in /proc/PID/status"))? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_thread_is_charged_for_its_work() {
        let now = || {
            let mut times = CpuTimes::default();
            times.add_own_thread("me").unwrap();
            times
        };
        let before = now();
        let work = (0..3_000_000_u64).fold(0, |sum, n| std::hint::black_box(sum ^ n));
        let used = now().since(&before).of("me");
        assert!(used > 0.0 && used < 60.0, "{used} s for {work}");
    }

    #[test]
    fn a_difference_counts_new_processes_from_their_start() {
        let mk = |times: &[(&str, f64)]| {
            CpuTimes(
                times
                    .iter()
                    .map(|&(name, seconds)| (name.to_owned(), seconds))
                    .collect(),
            )
        };
        let used = mk(&[("a", 3.0), ("b", 1.5)]).since(&mk(&[("a", 1.0), ("gone", 9.0)]));
        assert_eq!((used.of("a"), used.of("b"), used.of("gone")), (2.0, 1.5, 0.0));
        assert!((used.total() - 3.5).abs() < 1e-9);
    }
}
