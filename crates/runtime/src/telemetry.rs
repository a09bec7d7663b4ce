//! Logging, set up once per process.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

/// Why logging cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level is not a filter of tracing-subscriber.
    #[error("--log-level {level:?}: {source}; use error, warn, info, debug, trace or target=level,…")]
    Level {
        /// What was given.
        level: String,
        /// What is wrong with it.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
}

/// Starts logging to standard error. A second call in one process changes nothing, so tests may call it.
///
/// kube logs every failed request at `error`; what matters of these is said by the caller, hence `off`.
///
/// # Errors
/// When `level` cannot be parsed.
pub fn init(format: LogFormat, level: &str) -> Result<(), TelemetryError> {
    let directives = format!("kube_client=off,{level}");
    let filter = EnvFilter::try_new(directives).map_err(|source| TelemetryError::Level {
        level: level.to_owned(),
        source,
    })?;
    let colours = std::io::stderr().is_terminal();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(colours)
        .with_writer(std::io::stderr);
    let _already_set = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_level_is_refused_with_the_flag_named() {
        let error = init(LogFormat::Text, "a=b=c")
            .err()
            .map(|e| e.to_string())
            .unwrap_or_default();
        assert!(error.contains("--log-level"), "{error}");
        assert!(init(LogFormat::Text, "info,hyper=warn").is_ok());
    }
}
