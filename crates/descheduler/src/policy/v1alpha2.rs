//! `descheduler/v1alpha2` of sigs.k8s.io/descheduler, with Tensile's plugins.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_saphyr::Spanned;

use super::{Limits, Policy, PolicyError, read, refused};
use crate::pod::Mark;
use crate::strategies::{make_room, spread_violation, unschedulable_below};

const EVICTOR: &str = "DefaultEvictor";
const DESCHEDULE: [&str; 1] = [unschedulable_below::NAME];
const BALANCE: [&str; 2] = [make_room::NAME, spread_violation::NAME];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Raw {
    #[serde(rename = "apiVersion")]
    _api_version: IgnoredAny,
    #[serde(rename = "kind")]
    _kind: IgnoredAny,
    node_selector: Option<Spanned<String>>,
    max_no_of_pods_to_evict_per_node: Option<Spanned<u32>>,
    max_no_of_pods_to_evict_per_namespace: Option<Spanned<u32>>,
    max_no_of_pods_to_evict_total: Option<Spanned<u32>>,
    grace_period_seconds: Option<u32>,
    profiles: Spanned<Vec<Profile>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Profile {
    name: String,
    #[serde(default)]
    plugin_config: Vec<Spanned<PluginConfig>>,
    #[serde(default)]
    plugins: Plugins,
}

/// The points at which plugins are switched on. Upstream decodes without regard to case.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Plugins {
    deschedule: Set,
    balance: Set,
    filter: Set,
    #[serde(alias = "preEvictionFilter")]
    preevictionfilter: Set,
}

#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Set {
    enabled: Vec<Spanned<String>>,
    disabled: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(tag = "name", content = "args", deny_unknown_fields)]
enum PluginConfig {
    DefaultEvictor(Evictor),
    UnschedulableBelow(unschedulable_below::Args),
    MakeRoom(make_room::Args),
    SpreadViolation(spread_violation::Args),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Evictor {
    pod_protections: Protections,
    priority_threshold: Option<PriorityThreshold>,
    avoid_for_seconds: u64,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Protections {
    default_disabled: BTreeSet<Protection>,
    extra_enabled: BTreeSet<Extra>,
}

/// Protections that can be given up.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
enum Protection {
    PodsWithLocalStorage,
    SystemCriticalPods,
    BarePods,
}

/// Protections that can be added.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
enum Extra {
    PodsWithPVC,
}

#[derive(Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct PriorityThreshold {
    value: i64,
}

pub(super) fn parse(text: &str) -> Result<Policy, PolicyError> {
    let raw: Raw = read(text)?;
    let limits = limits(&raw)?;
    let node_selector = match &raw.node_selector {
        None => None,
        Some(text) => Some(text.value.parse().map_err(|error| {
            let problem = format!("nodeSelector: {error}");
            refused(
                text,
                problem,
                "write it as kubectl's --selector, such as zone=a,!spare",
            )
        })?),
    };
    let [profile] = raw.profiles.value.as_slice() else {
        let problem = format!("there are {} profiles", raw.profiles.value.len());
        return Err(refused(&raw.profiles, problem, "give exactly one"));
    };
    let mut policy = Policy {
        profile: profile.name.clone(),
        limits,
        node_selector,
        grace_period: raw.grace_period_seconds,
        ..Policy::default()
    };
    profile.apply(&mut policy)?;
    Ok(policy)
}

fn limits(raw: &Raw) -> Result<Limits, PolicyError> {
    let node = &raw.max_no_of_pods_to_evict_per_node;
    let namespace = &raw.max_no_of_pods_to_evict_per_namespace;
    let total = &raw.max_no_of_pods_to_evict_total;
    for limit in [node, namespace, total].into_iter().flatten() {
        if limit.value == 0 {
            let remedy = "leave the limit out, or run with --dry-run to evict nothing";
            return Err(refused(limit, "a limit of 0 evicts nothing", remedy));
        }
    }
    for part in [node, namespace].into_iter().flatten() {
        if let Some(total) = total.as_ref().filter(|total| total.value < part.value) {
            let problem = format!(
                "a part may have {} evictions, but all together only {} (line {})",
                part.value,
                total.value,
                total.referenced.line()
            );
            return Err(refused(
                part,
                problem,
                "raise maxNoOfPodsToEvictTotal, or lower this limit",
            ));
        }
    }
    let value = |limit: &Option<Spanned<u32>>| limit.as_ref().map(|limit| limit.value);
    Ok(Limits {
        per_node: value(node),
        per_namespace: value(namespace),
        total: value(total).or(Limits::default().total),
    })
}

// === impl Profile ===

impl Profile {
    fn apply(&self, policy: &mut Policy) -> Result<(), PolicyError> {
        let Plugins {
            deschedule,
            balance,
            filter,
            preevictionfilter,
        } = &self.plugins;
        deschedule.check("deschedule", &DESCHEDULE)?;
        balance.check("balance", &BALANCE)?;
        filter.check("filter", &[EVICTOR])?;
        preevictionfilter.check("preEvictionFilter", &[EVICTOR])?;
        if deschedule.disables(unschedulable_below::NAME) {
            policy.unschedulable_below = None;
        }
        if balance.enables(make_room::NAME) {
            policy.make_room = Some(make_room::Args::default());
        }
        if balance.enables(spread_violation::NAME) {
            policy.spread_violation = Some(spread_violation::Args::default());
        }
        let mut seen = BTreeSet::new();
        for config in &self.plugin_config {
            if !seen.insert(config.value.name()) {
                let problem = format!("{} is configured twice", config.value.name());
                return Err(refused(config, problem, "keep one of them"));
            }
            config
                .value
                .check()
                .map_err(|(problem, remedy)| refused(config, problem, remedy))?;
            config.value.apply(policy);
        }
        Ok(())
    }
}

// === impl Set ===

impl Set {
    fn check(&self, point: &str, known: &[&str]) -> Result<(), PolicyError> {
        for name in self.enabled.iter().chain(&self.disabled) {
            let all = name.value == "*" && self.disabled.iter().any(|disabled| disabled.value == "*");
            if !known.contains(&name.value.as_str()) && !all {
                let problem = format!("{point} has no plugin {:?}", name.value);
                return Err(refused(name, problem, format!("it has {}", known.join(", "))));
            }
        }
        Ok(())
    }

    fn enables(&self, plugin: &str) -> bool {
        self.enabled.iter().any(|name| name.value == plugin)
    }

    /// What is enabled by name stays when all others are disabled.
    fn disables(&self, plugin: &str) -> bool {
        let named = |wanted: &str| self.disabled.iter().any(|name| name.value == wanted);
        named(plugin) || named("*") && !self.enables(plugin)
    }
}

// === impl PluginConfig ===

impl PluginConfig {
    fn name(&self) -> &'static str {
        match self {
            Self::DefaultEvictor(_) => EVICTOR,
            Self::UnschedulableBelow(_) => unschedulable_below::NAME,
            Self::MakeRoom(_) => make_room::NAME,
            Self::SpreadViolation(_) => spread_violation::NAME,
        }
    }

    /// What is wrong with the arguments, and what to do about it.
    fn check(&self) -> Result<(), (String, String)> {
        match self {
            Self::DefaultEvictor(evictor) if evictor.avoid_for_seconds == 0 => Err((
                "avoidForSeconds is 0: moved pods would come right back".to_owned(),
                "give at least 1".to_owned(),
            )),
            Self::DefaultEvictor(_) => Ok(()),
            Self::UnschedulableBelow(args) => args.check(),
            Self::MakeRoom(args) => args.check(),
            Self::SpreadViolation(args) => args.check(),
        }
    }

    /// Arguments do not switch a plugin on.
    fn apply(&self, policy: &mut Policy) {
        match self {
            Self::DefaultEvictor(evictor) => evictor.apply(policy),
            Self::UnschedulableBelow(args) => {
                policy.unschedulable_below = policy.unschedulable_below.take().map(|_| args.clone());
            }
            Self::MakeRoom(args) => policy.make_room = policy.make_room.take().map(|_| args.clone()),
            Self::SpreadViolation(args) => {
                policy.spread_violation = policy.spread_violation.take().map(|_| args.clone());
            }
        }
    }
}

// === impl Evictor ===

impl Default for Evictor {
    fn default() -> Self {
        Self {
            pod_protections: Protections::default(),
            priority_threshold: None,
            avoid_for_seconds: super::DEFAULT_AVOID_FOR,
        }
    }
}

impl Evictor {
    fn apply(&self, policy: &mut Policy) {
        policy.priority_threshold = self.priority_threshold.map(|threshold| threshold.value);
        policy.avoid_for = self.avoid_for_seconds;
        for given_up in &self.pod_protections.default_disabled {
            policy.protected.remove(&match given_up {
                Protection::PodsWithLocalStorage => Mark::LocalStorage,
                Protection::SystemCriticalPods => Mark::Critical,
                Protection::BarePods => Mark::Bare,
            });
        }
        for Extra::PodsWithPVC in &self.pod_protections.extra_enabled {
            policy.protected.insert(Mark::Claim);
        }
    }
}
