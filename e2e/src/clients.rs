//! Kubernetes clients in other languages: their libraries are installed by their own package managers, pinned, into the
//! cache, when a test first asks for one.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::binaries::{cache_folder, fingerprint, lock};
use crate::real::missing;

/// The word for other clients in `TENSILE_REQUIRE`.
const CLIENTS: &str = "clients";
/// There once everything is installed.
const COMPLETE: &str = "complete";

/// A client library, and a script of ours that uses it.
#[derive(Clone, Copy, Debug)]
pub struct ClientLibrary {
    name: &'static str,
    /// Commands that show whether it can be installed and run here, and the Debian package that helps if not.
    needs: &'static [(&'static [&'static str], &'static str)],
    /// What decides which versions are installed.
    pins: &'static [(&'static str, &'static str)],
    /// Installs, in the folder with the pins.
    install: &'static [&'static [&'static str]],
    /// Runs the script.
    program: &'static str,
    script: (&'static str, &'static str),
}

/// The client for Python, `kubernetes` on PyPI.
pub const PYTHON: ClientLibrary = ClientLibrary {
    name: "python",
    needs: &[(&["python3", "-c", "import ensurepip, venv"], "python3-venv")],
    pins: &[(
        "requirements.txt",
        include_str!("../clients/python/requirements.txt"),
    )],
    install: &[
        &["python3", "-m", "venv", "venv"],
        &[
            "venv/bin/python",
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--requirement",
            "requirements.txt",
        ],
    ],
    program: "venv/bin/python",
    script: ("client.py", include_str!("../clients/python/client.py")),
};

/// The client for JavaScript, `@kubernetes/client-node` on npm.
pub const JAVASCRIPT: ClientLibrary = ClientLibrary {
    name: "javascript",
    needs: &[(&["node", "--version"], "nodejs"), (&["npm", "--version"], "npm")],
    pins: &[
        ("package.json", include_str!("../clients/javascript/package.json")),
        (
            "package-lock.json",
            include_str!("../clients/javascript/package-lock.json"),
        ),
    ],
    install: &[&["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]],
    program: "node",
    script: ("client.mjs", include_str!("../clients/javascript/client.mjs")),
};

// === impl ClientLibrary ===

impl ClientLibrary {
    /// For the first line of a test: true when it can be installed and run here, else false after printing the reason.
    ///
    /// # Errors
    /// It cannot although `TENSILE_REQUIRE` contains `clients`.
    pub fn available_or_report(&self) -> Result<bool> {
        let works = |command: &[&str]| {
            let (program, args) = command.split_first()?;
            let mut command = std::process::Command::new(program);
            command
                .args(args)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            command.status().ok().filter(std::process::ExitStatus::success)
        };
        match self.needs.iter().find(|(command, _)| works(command).is_none()) {
            None => Ok(true),
            Some((command, package)) => missing(
                CLIENTS,
                &format!("`{}` does not work: apt-get install {package}", command.join(" ")),
            ),
        }
    }

    /// Installs the library if it is not there, within a minute, and returns the command that runs our script.
    ///
    /// # Errors
    /// The package manager fails; what it said is in the message.
    pub async fn command(&self) -> Result<Command> {
        let library = *self;
        let folder = tokio::task::spawn_blocking(move || library.installed())
            .await
            .context("the installation ended early")??;
        let program = match Path::new(self.program).parent() {
            Some(parent) if parent != Path::new("") => folder.join(self.program),
            _ => PathBuf::from(self.program),
        };
        // The name says which version it is: an older test may run at the same time, with its own.
        let (name, text) = self.script;
        let script = folder.join(format!("{}-{name}", fingerprint("script", [text])));
        fs::write(&script, text).with_context(|| format!("cannot write {}", script.display()))?;
        let mut command = Command::new(program);
        command.arg(script).kill_on_drop(true);
        Ok(command)
    }

    fn installed(&self) -> Result<PathBuf> {
        let inputs = self.pins.iter().map(|(_, text)| *text);
        let folder = cache_folder("clients")?.join(fingerprint(self.name, inputs));
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let _lock = lock(&folder.join("lock"))?;
        if folder.join(COMPLETE).exists() {
            return Ok(folder);
        }
        eprintln!("installing the Kubernetes client for {}", self.name);
        for (name, text) in self.pins {
            fs::write(folder.join(name), text)?;
        }
        for command in self.install {
            run(command, &folder)?;
        }
        fs::write(folder.join(COMPLETE), "")?;
        Ok(folder)
    }
}

fn run(command: &[&str], folder: &Path) -> Result<()> {
    let (program, args) = command.split_first().context("an empty command")?;
    let own = folder.join(program);
    let program = if own.exists() { own } else { PathBuf::from(program) };
    let output = std::process::Command::new(program)
        .args(args)
        .current_dir(folder)
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} in {}: {}{}",
        folder.display(),
        String::from_utf8_lossy(&output.stderr),
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_name_versions_and_no_places() {
        for (name, text) in PYTHON.pins.iter().chain(JAVASCRIPT.pins) {
            assert!(!text.contains("://"), "{name} names a place");
        }
        let unpinned = PYTHON.pins[0].1.lines().find(|line| !line.contains("=="));
        assert_eq!(unpinned, None);
    }
}
