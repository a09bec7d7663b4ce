//! The process is killed in the middle of a burst of pods, at a moment that nobody chose.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use futures::{StreamExt, TryStreamExt, stream};
use kube::api::DeleteParams;
use tokio::sync::Notify;

use crate::Outcome;
use crate::lane::Lane;
use crate::picture::made_twice;
use crate::table::Sizes;

/// Pods that are made or deleted at a time.
const WRITERS: usize = 8;

/// The moments of one run, from a seed that is printed (splitmix64).
struct Moments(u64);

// === impl Moments ===

impl Moments {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % u64::try_from(end.max(1)).unwrap_or(1)).unwrap_or_default()
    }
}

// === impl Lane ===

impl Lane<'_> {
    /// In each round makes a burst of pods and deletes that of the round before, and kills the process meanwhile.
    pub(crate) async fn be_killed(&mut self, sizes: Sizes, seed: u64) -> Result<Outcome> {
        eprintln!("the process is killed at moments of seed {seed}");
        let mut moments = Moments(seed);
        let mut total = Outcome {
            name: "process killed (kill -9) in a burst of pods",
            link: "both",
            lasts: format!("{} × {} pods", sizes.rounds, sizes.burst),
            ..Outcome::default()
        };
        let mut old: Vec<String> = Vec::new();
        for round in 0..sizes.rounds {
            let new: Vec<String> = (0..sizes.burst)
                .map(|number| format!("r{round}-{number}"))
                .collect();
            let moment = moments.below(sizes.burst);
            let converged = self.round(&old, &new, moment).await;
            let converged = converged.with_context(|| format!("round {round}, killed at pod {moment}"))?;
            let picture = self.picture().await?;
            let gaps = picture.gaps(&self.wanted);
            total.pods += sizes.burst;
            total.lost += gaps.lost;
            total.twice += gaps.doubled;
            total.restarts += picture.restarts(&std::collections::BTreeMap::new());
            total.converged = total.converged.max(converged);
            eprintln!("round {round}: killed at pod {moment}, agreed after {converged:?}");
            old = new;
        }
        total.twice += made_twice(&self.made_below()?, &self.asked);
        Ok(total)
    }

    async fn round(&mut self, old: &[String], new: &[String], moment: usize) -> Result<Duration> {
        let (done, now) = (&AtomicUsize::new(0), &Notify::new());
        let lane = &*self;
        let pairs = new
            .iter()
            .enumerate()
            .map(|(number, name)| (name, old.get(number)));
        let load = stream::iter(pairs)
            .map(|(name, old)| async move {
                if done.fetch_add(1, Ordering::Relaxed) == moment {
                    now.notify_one();
                }
                lane.create(name, false).await?;
                match old {
                    Some(old) => lane.delete(old, &DeleteParams::default()).await,
                    None => Ok(()),
                }
            })
            .buffer_unordered(WRITERS)
            .try_collect::<()>();
        let kill = async {
            now.notified().await;
            lane.node.component.kill().await?;
            lane.spec.spawn(lane.upper, lane.lower).await
        };
        let ((), node) = tokio::try_join!(load, kill)?;
        self.node = node;
        self.wanted.names = new.iter().cloned().collect();
        self.asked.extend(new.iter().map(|name| (name.clone(), 1)));
        Ok(self.agreed().await)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_differ_and_follow_from_the_seed() {
        let of = |seed| -> Vec<usize> {
            let mut moments = Moments(seed);
            (0..20).map(|_| moments.below(1000)).collect()
        };
        assert_eq!(of(7), of(7));
        assert_ne!(of(7), of(8));
        let mut different = of(7);
        different.sort_unstable();
        different.dedup();
        assert!(different.len() > 15 && different.iter().all(|moment| *moment < 1000));
    }
}
