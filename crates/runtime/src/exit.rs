//! How a binary ends: with one line that says what is wrong, whatever `RUST_BACKTRACE` says.

use std::fmt::Display;
use std::process::ExitCode;

/// Says why a binary ends, and gives its exit code: 1 for an error.
pub fn exit<E: Display>(result: Result<(), E>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not logged: the log may not be set up yet, and its level must not hide this.
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
