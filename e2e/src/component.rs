//! Starts Tensile's own components as child processes.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::{
    process::{Invocation, Process},
    run::Folder,
};

/// The binary of this crate that is all of Tensile's components in one.
const BINARY: &str = "tensile-component";
/// The binary that is all of them too, so that `cargo demo` builds only one.
const DEMO: &str = "demo";

/// One of Tensile's components as a process of its own, with a log file; killed when dropped.
pub struct Component {
    process: Process,
    // Last: dropping it clears what the process has left.
    folder: Folder,
}

// === impl Component ===

impl Component {
    /// Starts `tensile-component <component> <args>`.
    ///
    /// # Errors
    /// The binary is not built, or cannot be started.
    pub fn start(component: &str, args: &[String], env: &[(&str, &str)]) -> Result<Self> {
        Self::start_from(None, component, args, env)
    }

    /// Starts the component from `own`, its own binary as users run it, if there is one, else as
    /// [`start`](Self::start).
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_from(
        own: Option<&Path>,
        component: &str,
        args: &[String],
        env: &[(&str, &str)],
    ) -> Result<Self> {
        let name = own.is_none().then(|| component.to_owned());
        let args = name.into_iter().chain(args.iter().cloned()).collect();
        let binary = own.map_or_else(binary, |own| Ok(own.to_owned()))?;
        let folder = Folder::create(component)?;
        let mut invocation = Invocation::new(component, binary, args);
        invocation.env = env
            .iter()
            .map(|&(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Ok(Self {
            process: invocation.start(&folder)?,
            folder,
        })
    }

    /// A folder for the component's files; it is removed with the component.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }
}

impl std::ops::Deref for Component {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

/// Cargo puts binaries beside the folder of the test that runs (`deps`), or beside another binary.
fn binary() -> Result<PathBuf> {
    let current = std::env::current_exe().context("cannot find the running program")?;
    if current.file_stem().is_some_and(|name| name == DEMO) {
        return Ok(current);
    }
    let candidates = current
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join(BINARY));
    let Some(found) = candidates.into_iter().find(|path| path.is_file()) else {
        bail!(
            "{BINARY} is not built beside {}: run `cargo build -p e2e --bin {BINARY}`",
            current.display()
        );
    };
    Ok(found)
}
