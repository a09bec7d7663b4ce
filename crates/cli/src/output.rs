//! What a command answers, and how it is printed.

use std::process::ExitCode;

use serde::Serialize;

use crate::error::CliError;

/// Exit code of an answer that was found and is bad; 1 is an error and 2 clap's for wrong usage.
const BAD: u8 = 3;

/// How an answer looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Whether an answer is what one hopes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Good,
    Bad,
}

impl Outcome {
    pub(crate) fn good_if(good: bool) -> Self {
        if good { Self::Good } else { Self::Bad }
    }
}

/// The answer of a command. Its JSON is its fields.
pub(crate) trait Report: Serialize {
    /// The answer for people; ends with a line break unless it is empty.
    fn text(&self) -> String;
    /// Whether it is good.
    fn outcome(&self) -> Outcome;
}

/// An answer, ready to be printed.
pub(crate) struct Printed {
    text: String,
    outcome: Outcome,
}

// === impl Printed ===

impl Printed {
    pub(crate) fn of(report: &impl Report, format: Format) -> Result<Self, CliError> {
        let text = match format {
            Format::Text => report.text(),
            Format::Json => serde_json::to_string_pretty(report).map_err(CliError::Json)? + "\n",
        };
        Ok(Self {
            text,
            outcome: report.outcome(),
        })
    }

    pub(crate) fn nothing(outcome: Outcome) -> Self {
        Self {
            text: String::new(),
            outcome,
        }
    }

    pub(crate) fn print(&self) -> ExitCode {
        print!("{}", self.text);
        match self.outcome {
            Outcome::Good => ExitCode::SUCCESS,
            Outcome::Bad => ExitCode::from(BAD),
        }
    }
}
