//! `doctor`: looks for what is wrong, each finding with its remedy.

mod check;
mod expiry;
mod facts;
mod gather;

use std::time::Duration;

use serde::Serialize;
use tokio::time::Instant;

use crate::connect::Upper;
use crate::error::CliError;
use crate::output::{Outcome, Report};

/// Flags of the command.
#[derive(Clone, Debug, clap::Args)]
pub struct DoctorArgs {
    /// Also show what is well.
    #[arg(long)]
    pub all: bool,
    /// Look again for so many seconds while something does not work.
    #[arg(long, default_value = "0")]
    pub wait: u64,
}

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Ok,
    /// It works, but not for ever or not as meant.
    Warning,
    /// Something does not work.
    Error,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Finding {
    level: Level,
    /// What it is about, such as `cluster a`.
    subject: String,
    message: String,
    /// What to do; empty if nothing is wrong.
    remedy: String,
}

/// The answer.
#[derive(Debug, Serialize)]
pub(crate) struct Diagnosis {
    findings: Vec<Finding>,
    #[serde(skip)]
    all: bool,
}

/// Asks everything, then judges.
pub(crate) async fn run(upper: &Upper, args: &DoctorArgs) -> Result<Diagnosis, CliError> {
    let deadline = Instant::now() + Duration::from_secs(args.wait);
    loop {
        let facts = gather::facts(upper).await?;
        let diagnosis = Diagnosis {
            findings: check::check(&facts),
            all: args.all,
        };
        if diagnosis.outcome() == Outcome::Good || Instant::now() >= deadline {
            return Ok(diagnosis);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

// === impl Finding ===

impl Finding {
    fn ok(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Self::new(Level::Ok, subject, message, "")
    }

    fn warning(subject: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Level::Warning, subject, message, remedy)
    }

    fn error(subject: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::new(Level::Error, subject, message, remedy)
    }

    fn new(
        level: Level,
        subject: impl Into<String>,
        message: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            level,
            subject: subject.into(),
            message: message.into(),
            remedy: remedy.into(),
        }
    }

    fn text(&self) -> String {
        let level = match self.level {
            Level::Ok => "ok",
            Level::Warning => "warning",
            Level::Error => "error",
        };
        let head = format!("{level:<7}  {}: {}\n", self.subject, self.message);
        if self.remedy.is_empty() {
            return head;
        }
        format!("{head}         remedy: {}\n", self.remedy)
    }
}

// === impl Diagnosis ===

impl Diagnosis {
    fn count(&self, level: Level) -> usize {
        self.findings
            .iter()
            .filter(|finding| finding.level == level)
            .count()
    }
}

impl Report for Diagnosis {
    fn text(&self) -> String {
        let shown = self
            .findings
            .iter()
            .filter(|finding| self.all || finding.level != Level::Ok);
        let lines: String = shown.map(Finding::text).collect();
        let (ok, warnings, errors) = (
            self.count(Level::Ok),
            self.count(Level::Warning),
            self.count(Level::Error),
        );
        format!("{lines}{ok} well, {warnings} warnings, {errors} errors\n")
    }

    fn outcome(&self) -> Outcome {
        Outcome::good_if(self.count(Level::Error) == 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_well_is_counted_and_shown_only_on_request() {
        let mut diagnosis = Diagnosis {
            findings: vec![
                Finding::ok("webhook", "answers"),
                Finding::error("cluster a", "is down", "start it"),
            ],
            all: false,
        };
        let quiet = "error    cluster a: is down\n         remedy: start it\n1 well, 0 warnings, 1 errors\n";
        assert_eq!(diagnosis.text(), quiet);
        diagnosis.all = true;
        assert!(diagnosis.text().starts_with("ok       webhook: answers\n"));
        assert_eq!(diagnosis.outcome(), Outcome::Bad);
    }
}
