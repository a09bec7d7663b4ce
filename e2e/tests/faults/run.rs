//! Lets a fault happen to a lane, with pods that come and go meanwhile, and looks what became of them.

use std::time::Duration;

use anyhow::{Context, Result};
use e2e::support;
use futures::{StreamExt, TryStreamExt, stream};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::json;

use crate::lane::Lane;
use crate::picture::made_twice;
use crate::table::{Link, Row, Sizes, What, limited};
use crate::{DEADLINE, Outcome};

/// Every third pod that is made while a fault lasts takes the place of one from before.
const REMOVED: usize = 3;
/// Writes of others that a restored cluster has lost: some minutes of a quiet one, far more than it makes up for until it
/// is asked the next time.
const REVISIONS: usize = 1000;
/// Pods of the ReplicaSet that a restored cluster knows nothing of.
const LATE: usize = 5;

// === impl Lane ===

impl Lane<'_> {
    /// Lets a fault happen for each of its times.
    pub(crate) async fn suffer(&mut self, row: &Row, sizes: Sizes) -> Result<Vec<Outcome>> {
        let mut outcomes = Vec::new();
        for lasts in limited(row.lasts, sizes.longest) {
            let what = || format!("{} ({} link, {lasts:?})", row.name, row.link.name());
            let outcome = self.suffer_once(row, lasts, sizes).await.with_context(what)?;
            eprintln!("{}: {outcome:?}", what());
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }

    async fn suffer_once(&mut self, row: &Row, lasts: Duration, sizes: Sizes) -> Result<Outcome> {
        let prefix = format!("fault-{}", self.faults);
        self.faults += 1;
        for number in 0..sizes.before {
            self.make(&format!("{prefix}-before-{number}"), true).await?;
        }
        self.await_agreement(DEADLINE).await.context("before the fault")?;
        let before = self.picture().await?.pairs();
        let forgotten = match row.what {
            What::OlderState => self.lose_later(row, &prefix).await?,
            _ => 0,
        };
        self.begin(row).await?;
        let reachable = (row.link, row.what) != (Link::Upper, What::ApiServer);
        match row.what {
            What::OlderState => {}
            what if reachable => self.stir(what, &prefix, sizes, lasts).await?,
            _ => tokio::time::sleep(lasts).await,
        }
        self.end(row).await?;
        let converged = self.agreed().await;
        let picture = self.picture().await?;
        let gaps = picture.gaps(&self.wanted);
        Ok(Outcome {
            pods: picture.above.len(),
            lost: gaps.lost,
            twice: gaps.doubled + made_twice(&self.made_below()?, &self.asked),
            restarts: picture.restarts(&before).abs_diff(forgotten),
            converged,
            ..Outcome::of(row, lasts)
        })
    }

    /// How long both sides need to agree; [`DEADLINE`] when they do not.
    pub(crate) async fn agreed(&self) -> Duration {
        self.await_agreement(DEADLINE).await.unwrap_or_else(|error| {
            eprintln!("{error:#}");
            DEADLINE
        })
    }

    /// Makes, deletes and exchanges pods, evenly over the time of a fault.
    async fn stir(&mut self, what: What, prefix: &str, sizes: Sizes, lasts: Duration) -> Result<()> {
        let started = tokio::time::Instant::now();
        let mut removed = 1;
        // Not on simulated nodes: kwok deletes by name, twice, and so hits the namesake.
        if what == What::Namespace {
            self.exchange(&format!("{prefix}-before-0")).await?;
        }
        for number in 0..sizes.during {
            self.make(&format!("{prefix}-during-{number}"), true).await?;
            if number % REMOVED == 0 {
                self.remove(&format!("{prefix}-before-{removed}")).await?;
                removed += 1;
            }
            let share = u32::try_from(number + 1)? * lasts / u32::try_from(sizes.during)?;
            tokio::time::sleep_until(started + share).await;
        }
        Ok(())
    }

    /// Saves the store, and then lets things happen of which a restored cluster knows nothing: pods that it will lack,
    /// and pods that will come back. Returns how many it will lack: each is made again, once, and counts a restart.
    async fn lose_later(&mut self, row: &Row, prefix: &str) -> Result<u64> {
        self.faulty(row).save_store().await?;
        self.make_owned(&format!("{prefix}-late"), LATE).await?;
        for number in 0..2 {
            self.remove(&format!("{prefix}-before-{number}")).await?;
        }
        self.await_agreement(DEADLINE)
            .await
            .context("before the store is set back")?;
        self.grow_old(row).await?;
        let mut forgotten = 0;
        for pod in self.picture().await?.above.into_iter().filter(|pod| pod.owned) {
            *self.asked.entry(pod.name).or_insert(1) += 1;
            forgotten += 1;
        }
        Ok(forgotten)
    }

    /// Writes to the cluster what others do in the time by which a copy of its store is old.
    async fn grow_old(&self, row: &Row) -> Result<()> {
        let maps: Api<ConfigMap> = Api::namespaced(self.faulty(row).client().await?, "default");
        support::create(&maps, json!({"metadata": {"name": "age"}})).await?;
        stream::iter(0..REVISIONS)
            .map(|number| {
                let patch = Patch::Merge(json!({"data": {"number": number.to_string()}}));
                let maps = maps.clone();
                async move { maps.patch("age", &PatchParams::default(), &patch).await }
            })
            .buffer_unordered(8)
            .try_for_each(|_| async { Ok(()) })
            .await?;
        Ok(())
    }
}
