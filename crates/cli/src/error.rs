//! Why a command could not be carried out.

use std::path::PathBuf;

/// Why a command could not be carried out; each message names what to change.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// A kubeconfig or its context.
    #[error("kubeconfig: {0}; give --kubeconfig and --context, or set KUBECONFIG")]
    Kubeconfig(String),
    /// A file.
    #[error("{path}: {source}; give a file that can be read", path = path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: std::io::Error,
    },
    /// An API server refused or did not answer.
    #[error("{what}: {reason}")]
    Api {
        /// What was asked.
        what: String,
        /// What it said.
        reason: String,
    },
    /// An argument names nothing.
    #[error("{0}")]
    NotFound(String),
    /// What is asked for would do harm.
    #[error("{0}")]
    Refused(String),
    /// The answer cannot be written as JSON.
    #[error("the answer cannot be written as JSON: {0}")]
    Json(#[source] serde_json::Error),
}

// === impl CliError ===

impl CliError {
    /// Names what was asked of an API server.
    pub(crate) fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |error| Self::Api {
            what,
            reason: reason(&error),
        }
    }
}

/// `None` if the API server does not let us ask.
pub(crate) fn unless_forbidden<T>(answer: kube::Result<T>) -> Option<Result<T, String>> {
    match answer {
        Err(kube::Error::Api(status)) if status.code == 403 && status.reason == "Forbidden" => None,
        answer => Some(answer.map_err(|error| reason(&error))),
    }
}

/// What an API server or the way to it said, in one line.
pub(crate) fn reason(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => {
            let causes = std::iter::successors(Some(other as &dyn std::error::Error), |error| error.source());
            // The last cause says what happened; those before it only where.
            causes
                .last()
                .map_or_else(|| other.to_string(), ToString::to_string)
        }
    }
}
