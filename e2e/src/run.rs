//! What this process started: one folder, and a guard that clears it when this process dies in any way.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::{Duration, SystemTime},
};

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;

/// The script that ends and removes everything; see there for the registry's format.
const REAPER: &str = include_str!("reaper.sh");

/// Logs of failed runs are kept for this long, long enough to be read the day after.
const LOGS_KEPT: Duration = Duration::from_secs(2 * 24 * 3600);

static CURRENT: Mutex<Option<Run>> = Mutex::new(None);
static NEXT_FOLDER: AtomicU32 = AtomicU32::new(1);
static FAILED: AtomicBool = AtomicBool::new(false);

/// The folder of this process, and the guard over it.
struct Run {
    folder: PathBuf,
    /// Its standard input ends when this process does: the guard then clears the folder.
    _guard: Child,
}

/// A folder below the run's; what it registers is ended and removed with it.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    name: String,
}

/// `${TMPDIR:-/tmp}/tensile-e2e`, where all runs of this machine live.
pub(crate) fn base() -> PathBuf {
    std::env::temp_dir().join("tensile-e2e")
}

/// Says that something failed, so that logs are kept when clusters are dropped, or when this process ends.
pub(crate) fn note_failure() {
    FAILED.store(true, Ordering::Relaxed);
    if let Some(run) = CURRENT.lock().as_ref() {
        // For the guard. If it cannot be written, logs are lost, and the failure is still told.
        let _ = fs::write(run.folder.join("failed"), "");
    }
}

fn has_failed() -> bool {
    FAILED.load(Ordering::Relaxed) || std::thread::panicking()
}

/// Ends and removes what dead runs left behind: processes, mounts, cgroups, namespaces, links, folders.
///
/// The first cluster of a process does this by itself. Returns the folders that were cleared.
///
/// # Errors
/// The folder of runs cannot be read.
pub fn clear_leftovers() -> Result<Vec<PathBuf>> {
    let runs = base().join("runs");
    let mut cleared = Vec::new();
    for entry in fs::read_dir(&runs).into_iter().flatten() {
        let path = entry?.path();
        let owner = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(parse_owner);
        if owner.is_some_and(|(pid, start)| start_of(pid) != Some(start)) {
            // Its guard or another run may be clearing it too; what is really stuck must not stop this run.
            match clear(&path) {
                Ok(()) => cleared.push(path),
                Err(error) => eprintln!("{error:#}"),
            }
        }
    }
    forget_old_logs(&base().join("failed"));
    Ok(cleared)
}

/// The name of a run's folder says which process owns it: `<pid>-<start time>`.
fn parse_owner(name: &str) -> Option<(u32, u64)> {
    let (pid, start) = name.split_once('-')?;
    Some((pid.parse().ok()?, start.parse().ok()?))
}

/// The start time of a running process in clock ticks since boot: with the id it names a process for good.
pub(crate) fn start_of(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // Field 22 of proc(5); the second field may hold spaces, but ends with the last bracket.
    stat.rsplit_once(") ")?.1.split_whitespace().nth(19)?.parse().ok()
}

fn forget_old_logs(failed: &Path) {
    for entry in fs::read_dir(failed).into_iter().flatten().flatten() {
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let age = modified
            .ok()
            .and_then(|modified| SystemTime::now().duration_since(modified).ok());
        if age.is_some_and(|age| age > LOGS_KEPT) {
            // Another process may be forgetting the same logs.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn clear(folder: &Path) -> Result<()> {
    let status = Command::new("sh")
        .args(["-c", REAPER, "reaper", "clear"])
        .arg(folder)
        .stdin(Stdio::null())
        .status();
    let status = status.context("cannot run sh")?;
    if folder.exists() {
        bail!(
            "{} could not be cleared ({status}); look for what still uses it",
            folder.display()
        );
    }
    Ok(())
}

// === impl Run ===

impl Run {
    fn start() -> Result<Self> {
        clear_leftovers()?;
        let pid = std::process::id();
        let start = start_of(pid).context("/proc/self/stat cannot be read; the harness runs on Linux")?;
        let folder = base().join("runs").join(format!("{pid}-{start}"));
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let guard = Command::new("sh")
            .args(["-c", REAPER, "reaper", "guard"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // A Ctrl-C in the terminal goes to our process group, and must not reach the guard.
            .process_group(0)
            .spawn()
            .context("cannot start the guard (sh)")?;
        Ok(Self {
            folder,
            _guard: guard,
        })
    }
}

// === impl Folder ===

impl Folder {
    /// Makes a folder of this run, starting the run with its first folder.
    pub(crate) fn create(name: &str) -> Result<Self> {
        let mut current = CURRENT.lock();
        if current.is_none() {
            *current = Some(Run::start()?);
        }
        let Some(run) = current.as_ref() else {
            bail!("the run did not start")
        };
        let number = NEXT_FOLDER.fetch_add(1, Ordering::Relaxed);
        let path = run.folder.join(format!("{number}-{name}"));
        fs::create_dir_all(path.join("logs")).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self {
            path,
            name: name.to_owned(),
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn logs(&self) -> PathBuf {
        self.path.join("logs")
    }

    /// Adds a line to the registry, before or right after the thing comes into being.
    pub(crate) fn register(&self, line: &str) -> Result<()> {
        let path = self.path.join("registry");
        let mut registry = OpenOptions::new().create(true).append(true).open(&path)?;
        writeln!(registry, "{line}").with_context(|| format!("cannot write {}", path.display()))
    }

    /// Moves the logs, if there are any, out of the folder, so that they survive it; says where they are.
    fn keep_logs(&self) {
        if fs::read_dir(self.logs()).is_ok_and(|mut logs| logs.next().is_none()) {
            return;
        }
        let run = self.path.parent().and_then(Path::file_name).unwrap_or_default();
        let kept = base()
            .join("failed")
            .join(run)
            .join(self.path.file_name().unwrap_or_default());
        let moved = fs::create_dir_all(&kept).and_then(|()| fs::rename(self.logs(), &kept));
        match moved {
            Ok(()) => eprintln!("logs of {} are kept in {}", self.name, kept.display()),
            Err(error) => eprintln!(
                "logs of {} could not be kept in {}: {error}",
                self.name,
                kept.display()
            ),
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if has_failed() {
            self.keep_logs();
        }
        if let Err(error) = clear(&self.path) {
            eprintln!("{error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_run_is_in_the_name_of_its_folder() {
        let cases = [
            ("12-345", Some((12, 345))),
            ("12", None),
            ("a-1", None),
            ("1-b", None),
        ];
        for (name, expected) in cases {
            assert_eq!(parse_owner(name), expected, "{name}");
        }
    }

    #[test]
    fn a_running_process_has_a_start_time_and_an_impossible_one_has_none() {
        assert!(start_of(std::process::id()).is_some());
        assert_eq!(start_of(u32::MAX), None);
    }
}
