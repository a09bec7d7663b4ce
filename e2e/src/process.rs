//! One child process with a log file: started, watched, ended.

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use parking_lot::Mutex;
use tokio::process::{Child, Command};

use crate::{
    run::{self, Folder},
    support::POLL_INTERVAL,
};

/// Clock ticks per second in /proc, which is 100 on every Linux architecture that Rust supports (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Lines of a log that an error message quotes.
const QUOTED_LINES: usize = 15;

/// What to run.
#[derive(Clone, Debug)]
pub(crate) struct Invocation {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    pub(crate) args: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    /// The network namespace to run in, by name; the caller's when not set.
    pub(crate) netns: Option<String>,
}

/// A running child process in a process group of its own; killed when dropped.
#[derive(Debug)]
pub struct Process {
    name: String,
    log: PathBuf,
    pid: u32,
    child: Mutex<Child>,
}

// === impl Invocation ===

impl Invocation {
    pub(crate) fn new(name: &str, program: PathBuf, args: Vec<String>) -> Self {
        Self {
            name: name.to_owned(),
            program,
            args,
            env: Vec::new(),
            netns: None,
        }
    }

    /// Starts the process; its output is appended to `<name>.log` in the logs of `folder`.
    pub(crate) fn start(&self, folder: &Folder) -> Result<Process> {
        let log = folder.logs().join(format!("{}.log", self.name));
        let file = OpenOptions::new().create(true).append(true).open(&log)?;
        let mut command = self.command();
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let pid = child
            .id()
            .with_context(|| format!("{} ended at once", self.name))?;
        if let Some(start) = run::start_of(pid) {
            folder.register(&format!("pid {pid} {start}"))?;
        }
        Ok(Process {
            name: self.name.clone(),
            log,
            pid,
            child: Mutex::new(child),
        })
    }

    fn command(&self) -> Command {
        let mut command = match &self.netns {
            None => Command::new(&self.program),
            // Not `ip netns exec`, which remounts /sys and so hides the cgroups from a kubelet.
            Some(netns) => {
                let mut command = Command::new("nsenter");
                command
                    .arg(format!("--net=/run/netns/{netns}"))
                    .arg("--")
                    .arg(&self.program);
                command
            }
        };
        command
            .args(&self.args)
            .envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }
}

// === impl Process ===

impl Process {
    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The file that receives the output.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Sends SIGTERM to the process.
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub async fn terminate(&self) -> Result<()> {
        self.signal("TERM").await
    }

    /// Kills the process (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// The process cannot be killed or waited for.
    pub async fn kill(&self) -> Result<()> {
        if self.exit_status()?.is_none() {
            self.signal("KILL").await?;
        }
        self.wait_exit(Duration::from_secs(10)).await.map(drop)
    }

    /// Sends a signal by its name without SIG, such as `STOP`.
    ///
    /// # Errors
    /// The signal cannot be sent.
    pub async fn signal(&self, signal: &str) -> Result<()> {
        if self.exit_status()?.is_some() {
            return Ok(());
        }
        let status = Command::new("kill")
            .args([&format!("-{signal}"), &self.pid.to_string()])
            .status()
            .await?;
        if !status.success() && self.exit_status()?.is_none() {
            bail!(
                "cannot send {signal} to {} (pid {}): {status}",
                self.name,
                self.pid
            );
        }
        Ok(())
    }

    /// The exit status if the process has ended.
    ///
    /// # Errors
    /// The process cannot be asked.
    pub fn exit_status(&self) -> Result<Option<ExitStatus>> {
        self.child
            .lock()
            .try_wait()
            .with_context(|| format!("cannot ask for the state of {}", self.name))
    }

    /// Waits for the end of the process.
    ///
    /// # Errors
    /// It still runs at the deadline.
    pub async fn wait_exit(&self, deadline: Duration) -> Result<ExitStatus> {
        let until_exit = async {
            loop {
                if let Some(status) = self.exit_status()? {
                    return Ok(status);
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        };
        let late = || format!("{} (pid {}) still runs after {deadline:?}", self.name, self.pid);
        tokio::time::timeout(deadline, until_exit)
            .await
            .with_context(late)?
    }

    /// Fails with the end of the log when the process has ended.
    ///
    /// # Errors
    /// The process has ended.
    pub fn check_running(&self) -> Result<()> {
        match self.exit_status()? {
            None => Ok(()),
            Some(status) => bail!(
                "{} ended ({status}); the end of its log:\n{}",
                self.name,
                self.log_tail()
            ),
        }
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// The process is gone.
    pub fn rss(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        Ok(
            kilobytes.with_context(|| format!("{} (pid {}) has no memory any more", self.name, self.pid))?
                * 1024,
        )
    }

    /// Processor time used so far (user and system), in seconds.
    ///
    /// # Errors
    /// The process is gone.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid))?;
        // Fields 14 and 15 of proc(5), counted from the third, which follows the command name.
        let fields = stat
            .rsplit_once(") ")
            .map(|(_, rest)| rest.split_whitespace().skip(11).take(2));
        let ticks = fields
            .into_iter()
            .flatten()
            .filter_map(|field| field.parse::<f64>().ok())
            .sum::<f64>();
        Ok(ticks / TICKS_PER_SECOND)
    }

    /// The last lines of the log.
    pub fn log_tail(&self) -> String {
        let text = fs::read(&self.log)
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(QUOTED_LINES)..].join("\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error says that the process has ended already.
        let _ = self.child.lock().start_kill();
    }
}
