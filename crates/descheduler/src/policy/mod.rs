//! What may be moved, by which strategies and how much of it: the policy file.
//!
//! Two versions are read: `descheduler/v1alpha2` of sigs.k8s.io/descheduler with our plugins, and the part of
//! `descheduler/v1alpha1` that tensile-kube knew. What is not known is refused, not ignored: a limit that is
//! misspelt must not become no limit.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_saphyr::Spanned;
use tensile_core::labels::Selector;

use crate::pod::Mark;
use crate::strategies::{make_room, spread_violation, unschedulable_below};

mod v1alpha1;
mod v1alpha2;

/// Evictions in a round if the policy says nothing: a wrong judgement then stays small.
const DEFAULT_TOTAL: u32 = 50;
/// How long owners avoid a node that a pod of theirs was moved from, if the policy says nothing. Longer than
/// autoscalers need to add a node (minutes), shorter than an operator's patience.
const DEFAULT_AVOID_FOR: u64 = 600;

/// What may be moved, by which strategies and how much of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// Name of the profile, for reasons and events.
    pub profile: String,
    /// How much.
    pub limits: Limits,
    /// Which virtual nodes pods are moved from; `None` for all of them.
    pub node_selector: Option<Selector>,
    /// Grace period of the evicted pods in seconds; `None` for their own.
    pub grace_period: Option<u32>,
    /// Marks of pods that are never moved.
    pub protected: BTreeSet<Mark>,
    /// Pods of this priority or a higher one are not moved.
    pub priority_threshold: Option<i64>,
    /// For how many seconds owners avoid a node that a pod of theirs was moved from.
    pub avoid_for: u64,
    /// Pods that their lower cluster cannot run.
    pub unschedulable_below: Option<unschedulable_below::Args>,
    /// Room for pending pods that fit nowhere.
    pub make_room: Option<make_room::Args>,
    /// Shares and spread over clusters that no longer hold.
    pub spread_violation: Option<spread_violation::Args>,
}

/// The most evictions in one round. `None` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// From one virtual node.
    pub per_node: Option<u32>,
    /// From one namespace.
    pub per_namespace: Option<u32>,
    /// In all.
    pub total: Option<u32>,
}

/// Namespaces that a strategy looks at. At most one of the two may be given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Namespaces {
    /// Only these, if there are any.
    #[serde(default)]
    pub include: BTreeSet<String>,
    /// Not these.
    #[serde(default)]
    pub exclude: BTreeSet<String>,
}

/// Why a policy file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// It cannot be read.
    #[error("--policy-config-file {path}: {source}; give the path of a readable file", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        #[source]
        source: std::io::Error,
    },
    /// It is not YAML, or lacks what every policy has, or has what no policy has.
    #[error("policy, line {line}: {problem}; see docs/descheduler.md for the fields of a policy")]
    Malformed {
        /// Where; 0 if the parser does not say.
        line: u64,
        /// What is wrong.
        problem: String,
    },
    /// It says something that cannot be done.
    #[error("policy, line {line}: {problem}; {remedy}")]
    Refused {
        /// Where.
        line: u64,
        /// What is wrong.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
}

/// What tells versions apart.
#[derive(Deserialize)]
struct Header {
    #[serde(rename = "apiVersion")]
    api_version: Spanned<String>,
    kind: Spanned<String>,
}

// === impl Policy ===

impl Default for Policy {
    fn default() -> Self {
        Self {
            profile: "default".to_owned(),
            limits: Limits::default(),
            node_selector: None,
            grace_period: None,
            protected: [
                Mark::Static,
                Mark::DaemonSet,
                Mark::PreferNoEviction,
                Mark::Critical,
                Mark::LocalStorage,
                Mark::Bare,
            ]
            .into(),
            priority_threshold: None,
            avoid_for: DEFAULT_AVOID_FOR,
            unschedulable_below: Some(unschedulable_below::Args::default()),
            make_room: None,
            spread_violation: None,
        }
    }
}

impl Policy {
    /// Reads a policy file.
    ///
    /// # Errors
    /// When it cannot be read or used.
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        let text = std::fs::read_to_string(path).map_err(|source| PolicyError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text)
    }

    /// Reads a policy.
    ///
    /// # Errors
    /// When it cannot be used; the message names line and remedy.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        let Header { api_version, kind } = read(text)?;
        if kind.value != "DeschedulerPolicy" {
            let problem = format!("kind is {:?}", kind.value);
            return Err(refused(&kind, problem, "it must be DeschedulerPolicy"));
        }
        match api_version.value.as_str() {
            "descheduler/v1alpha1" => v1alpha1::parse(text),
            "descheduler/v1alpha2" => v1alpha2::parse(text),
            other => {
                let problem = format!("apiVersion is {other:?}");
                Err(refused(
                    &api_version,
                    problem,
                    "it must be descheduler/v1alpha2 or descheduler/v1alpha1",
                ))
            }
        }
    }
}

// === impl Limits ===

impl Default for Limits {
    fn default() -> Self {
        Self {
            per_node: None,
            per_namespace: None,
            total: Some(DEFAULT_TOTAL),
        }
    }
}

// === impl Namespaces ===

impl Namespaces {
    /// Whether they can be meant.
    ///
    /// # Errors
    /// What is wrong, and what to do about it.
    pub fn check(&self) -> Result<(), (String, String)> {
        if self.include.is_empty() || self.exclude.is_empty() {
            return Ok(());
        }
        let problem = "namespaces has both include and exclude".to_owned();
        Err((problem, "keep one of them".to_owned()))
    }

    /// Whether the strategy looks at pods of this namespace.
    #[must_use]
    pub fn admit(&self, namespace: &str) -> bool {
        (self.include.is_empty() || self.include.contains(namespace)) && !self.exclude.contains(namespace)
    }
}

/// Reads YAML strictly; the error has its line.
fn read<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, PolicyError> {
    serde_saphyr::from_str(text).map_err(|error| {
        let error = error.without_snippet();
        PolicyError::Malformed {
            line: error.location().map_or(0, |location| location.line()),
            problem: error.to_string(),
        }
    })
}

fn refused<T>(at: &Spanned<T>, problem: impl Into<String>, remedy: impl Into<String>) -> PolicyError {
    PolicyError::Refused {
        line: at.referenced.line(),
        problem: problem.into(),
        remedy: remedy.into(),
    }
}

#[cfg(test)]
mod tests;
