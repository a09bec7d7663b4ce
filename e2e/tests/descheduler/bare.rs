//! Pods that nobody makes again, moved by a descheduler that is killed between any two steps.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{TestResult, support};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, WatchEvent, WatchParams};
use serde_json::json;
use tensile_core::names;

use crate::fleet::{DEADLINE, Site, node_of, on_site, uid_of};

/// Pods, one of which is moved in each round.
const PODS: usize = 6;
/// How often each moment is tried; `TENSILE_DESCHEDULER_KILLS` sets another number.
const KILLS: usize = 1;

const POLICY: &str = "
apiVersion: descheduler/v1alpha2
kind: DeschedulerPolicy
maxNoOfPodsToEvictTotal: 1
profiles:
- name: live
  pluginConfig:
  - name: DefaultEvictor
    args: {podProtections: {defaultDisabled: [BarePods]}}
  - name: UnschedulableBelow
    args: {thresholdSeconds: 1}
";

/// What is there of a pod that is being moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Moment {
    /// A record, and the pod as it was.
    Recorded,
    /// The pod is going.
    Going,
    /// There is no pod of this name.
    Gone,
    /// The pod has been made again.
    Made,
}

const MOMENTS: [Moment; 4] = [Moment::Recorded, Moment::Going, Moment::Gone, Moment::Made];

fn kills() -> usize {
    let kills = std::env::var("TENSILE_DESCHEDULER_KILLS");
    kills.ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS)
}

#[test]
fn pods_without_owner_are_moved_by_a_descheduler_that_is_killed_between_any_two_steps() -> TestResult {
    on_site(async |site| {
        site.cordon_below("va", true).await?;
        for round in 0..kills() {
            sweep(site, round).await?;
        }
        Ok(())
    })
}

async fn sweep(site: &Site<'_>, round: usize) -> Result<()> {
    let before = stuck(site, round).await?;
    // Later and later, so that every step after what is seen is met as well.
    let late = Duration::from_millis(2 * round as u64);
    for moment in MOMENTS {
        let from = site
            .pods()
            .list(&ListParams::default())
            .await?
            .metadata
            .resource_version;
        let descheduler = site.descheduler(POLICY, &[])?;
        let seen = seen(site, moment, from.as_deref().unwrap_or_default());
        tokio::time::timeout(DEADLINE, seen)
            .await
            .with_context(|| format!("no pod was {moment:?} in time"))??;
        tokio::time::sleep(late).await;
        site.kill(descheduler).await?;
    }
    let last = site.descheduler(POLICY, &[])?;
    let after = support::await_condition("all of them to run elsewhere", DEADLINE, || async {
        last.component.check_running()?;
        // A pod on its way is in neither list if it is made again between the two; one that is lost stays missing.
        let after = by_name(site, round).await?;
        ensure!(after.len() == PODS, "{} of {PODS} pods", after.len());
        for (name, pod) in &after {
            ensure!(
                node_of(pod) == "vb" && support::is_ready(pod),
                "{name} does not run yet"
            );
        }
        let left = site
            .maps()
            .list(&ListParams::default().labels(names::MOVING_POD))
            .await?;
        ensure!(left.items.is_empty(), "{} records are left", left.items.len());
        Ok(Some(after))
    })
    .await?;
    for (name, pod) in &after {
        let annotations = pod.metadata.annotations.clone().unwrap_or_default();
        let first = before.get(name).context("a new name")?;
        ensure!(
            annotations.get(names::MOVED_FROM) == Some(first),
            "{name}: {annotations:?}"
        );
        ensure!(
            annotations.get("own").is_some_and(|own| own == "kept"),
            "{name}: {annotations:?}"
        );
    }
    let below = site.below("vb").await?.list(&of(round)).await?.items.len();
    ensure!(below == PODS, "{below} pods below");
    site.end(last).await
}

/// Waits until some pod is as it is at that moment.
async fn seen(site: &Site<'_>, moment: Moment, from: &str) -> Result<()> {
    let (records, all) = (
        WatchParams::default().labels(names::MOVING_POD),
        WatchParams::default(),
    );
    match moment {
        Moment::Recorded => {
            first(&site.maps(), &records, from, |event| {
                matches!(event, WatchEvent::Added(_))
            })
            .await
        }
        Moment::Going => {
            let going = |event: &WatchEvent<Pod>| match event {
                WatchEvent::Modified(pod) => pod.metadata.deletion_timestamp.is_some(),
                _ => false,
            };
            first(&site.pods(), &all, from, going).await
        }
        Moment::Gone => {
            first(&site.pods(), &all, from, |event| {
                matches!(event, WatchEvent::Deleted(_))
            })
            .await
        }
        Moment::Made => {
            first(&site.pods(), &all, from, |event| {
                matches!(event, WatchEvent::Added(_))
            })
            .await
        }
    }
}

async fn first<K>(
    api: &Api<K>,
    params: &WatchParams,
    from: &str,
    is_it: impl Fn(&WatchEvent<K>) -> bool,
) -> Result<()>
where
    K: Clone + std::fmt::Debug + serde::de::DeserializeOwned,
{
    let events = api.watch(params, from).await?;
    let mut found = std::pin::pin!(events.try_filter(|event| futures::future::ready(is_it(event))));
    found.try_next().await?.context("the watch ended")?;
    Ok(())
}

fn of(round: usize) -> ListParams {
    ListParams::default().labels(&format!("round={round}"))
}

/// Pods that were put on `va` and that no node takes there; their UIDs by name.
async fn stuck(site: &Site<'_>, round: usize) -> Result<BTreeMap<String, String>> {
    for index in 0..PODS {
        let mut pod = site.mk_template("bare", "50m")?;
        pod["metadata"]["name"] = json!(format!("bare-{round}-{index}"));
        pod["metadata"]["labels"]["round"] = json!(round.to_string());
        pod["metadata"]["annotations"] = json!({"own": "kept"});
        pod["spec"]["nodeName"] = json!("va");
        support::create(&site.pods(), pod).await?;
    }
    let pods = by_name(site, round).await?;
    pods.iter()
        .map(|(name, pod)| Ok((name.clone(), uid_of(pod)?.to_owned())))
        .collect()
}

async fn by_name(site: &Site<'_>, round: usize) -> Result<BTreeMap<String, Pod>> {
    named(site.pods().list(&of(round)).await?.items)
}

fn named(pods: Vec<Pod>) -> Result<BTreeMap<String, Pod>> {
    let named = pods.into_iter();
    named
        .map(|pod| Ok((pod.metadata.name.clone().context("no name")?, pod)))
        .collect()
}
