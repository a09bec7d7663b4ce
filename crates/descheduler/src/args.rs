//! Command line of `tensile-descheduler`.

use std::path::PathBuf;
use std::time::Duration;

use tensile_core::names;
use tensile_runtime::args::{CommonArgs, entries};
use tensile_world::Settings;
use tensile_world::source::SourceArgs;

/// Moves pods that their lower cluster cannot run to where they fit.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "tensile-descheduler", version)]
pub struct Args {
    /// Flags that all components share.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Policy file: a DeschedulerPolicy of descheduler/v1alpha2, or tensile-kube's of descheduler/v1alpha1; without
    /// it, UnschedulableBelow with its defaults.
    #[arg(long, env = "POLICY_CONFIG_FILE")]
    pub policy_config_file: Option<PathBuf>,
    /// Seconds between two rounds; 0 is one round, then exit. A pod that becomes due wakes us earlier.
    #[arg(long, env = "DESCHEDULING_INTERVAL", value_parser = seconds, default_value = "60")]
    pub descheduling_interval: Duration,
    /// Plan and report, and touch nothing.
    #[arg(long, env = "DRY_RUN")]
    pub dry_run: bool,
    /// Where the lower clusters are told.
    #[command(flatten)]
    pub clusters: SourceArgs,
    /// Label keys that only virtual nodes have, separated by commas; as the webhook's flag.
    #[arg(long, env = "IGNORE_SELECTOR_KEYS", value_delimiter = ',', default_value = names::CLUSTER_ID)]
    pub ignore_selector_keys: Vec<String>,
}

// === impl Args ===

impl Args {
    /// What the models are judged by. What cannot be judged is never a place to move to.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings {
            ignored_keys: entries(&self.ignore_selector_keys),
            ..Settings::default()
        }
    }
}

/// Seconds, or Go's notation with one unit, as tensile-kube's manifests have it: `10`, `10s`, `5m`, `1h`.
fn seconds(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(['s', 'm', 'h']);
    let unit = match &text[digits.len()..] {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong(text)),
    };
    let number: u64 = digits.parse().map_err(|_| wrong(text))?;
    Ok(Duration::from_secs(number.saturating_mul(unit)))
}

fn wrong(text: &str) -> String {
    format!("{text:?} is no duration; give seconds, or a number with one of the units s, m and h")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_seconds_or_have_one_unit() {
        for (text, wanted) in [("0", 0), ("10", 10), ("10s", 10), ("5m", 300), ("1h", 3600)] {
            assert_eq!(seconds(text), Ok(Duration::from_secs(wanted)), "{text}");
        }
        for text in ["", "s", "1d", "-1", "1m30s", "1sm"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
