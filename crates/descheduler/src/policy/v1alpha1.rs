//! `descheduler/v1alpha1`, as far as tensile-kube knew it: the strategy PodLifeTime with one parameter.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_saphyr::Spanned;

use super::{Policy, PolicyError, read, refused};
use crate::strategies::unschedulable_below;

/// The one strategy of tensile-kube.
const POD_LIFE_TIME: &str = "PodLifeTime";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Raw {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    strategies: BTreeMap<String, Spanned<Strategy>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Strategy {
    #[serde(default)]
    enabled: bool,
    #[serde(default)]
    params: Params,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Params {
    max_pod_life_time_seconds: Option<Spanned<u64>>,
}

/// PodLifeTime moves pods that their lower cluster called unschedulable at once, and pods that have been pending for
/// longer than its parameter; so does UnschedulableBelow, with its own patience.
pub(super) fn parse(text: &str) -> Result<Policy, PolicyError> {
    let raw: Raw = read(text)?;
    let mut policy = Policy {
        unschedulable_below: None,
        ..Policy::default()
    };
    for (name, strategy) in raw.strategies {
        if name != POD_LIFE_TIME {
            let problem = format!("strategy {name:?} is not known");
            let remedy =
                "descheduler/v1alpha1 is read for PodLifeTime only; write a descheduler/v1alpha2 policy";
            return Err(refused(&strategy, problem, remedy));
        }
        let Some(seconds) = &strategy.value.params.max_pod_life_time_seconds else {
            let problem = "PodLifeTime has no params.maxPodLifeTimeSeconds";
            return Err(refused(
                &strategy,
                problem,
                "say how many seconds a pod may be pending",
            ));
        };
        if strategy.value.enabled {
            policy.unschedulable_below = Some(unschedulable_below::Args {
                max_pod_life_time_seconds: Some(seconds.value),
                ..unschedulable_below::Args::default()
            });
        }
    }
    Ok(policy)
}
