//! How many bytes a process has sent and received over TCP, as the kernel counts them for each open connection.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::Process;

/// Bytes of the TCP connections of one process, by its port and the other end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Traffic(BTreeMap<(String, String), Bytes>);

/// Bytes in both directions, TLS included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// Sent by the process.
    pub sent: u64,
    /// Received by it.
    pub received: u64,
}

// === impl Traffic ===

impl Traffic {
    /// What the connections of `process` have carried so far.
    ///
    /// # Errors
    /// `ss` (iproute2) cannot be run.
    pub async fn of(process: &Process) -> Result<Self> {
        let output = Command::new("ss").args(["-tinpHO"]).output().await;
        let output = output.context("cannot run ss of iproute2")?;
        ensure!(
            output.status.success(),
            "ss: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(Self::parse(
            &String::from_utf8_lossy(&output.stdout),
            process.pid(),
        ))
    }

    fn parse(text: &str, pid: u32) -> Self {
        let owner = format!("pid={pid},");
        let lines = text.lines().filter(|line| line.contains(&owner));
        Self(lines.filter_map(connection).collect())
    }

    /// What was carried since `earlier`, by connections that are still open.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Bytes {
        let mut all = Bytes::default();
        for (connection, now) in &self.0 {
            let before = earlier.0.get(connection).copied().unwrap_or_default();
            all.sent += now.sent.saturating_sub(before.sent);
            all.received += now.received.saturating_sub(before.received);
        }
        all
    }
}

/// `State Recv-Q Send-Q Local Peer Process … bytes_sent:1 … bytes_received:2 …`
fn connection(line: &str) -> Option<((String, String), Bytes)> {
    let mut words = line.split_whitespace().skip(3);
    let ends = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut bytes = Bytes::default();
    for word in words {
        if let Some(sent) = word.strip_prefix("bytes_sent:") {
            bytes.sent = sent.parse().ok()?;
        } else if let Some(received) = word.strip_prefix("bytes_received:") {
            bytes.received = received.parse().ok()?;
        }
    }
    Some((ends, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_by_process_and_connection() {
        let mk = |sent: u64, more: &str| {
            let text = format!(
                "ESTAB 0 0 127.0.0.1:40 127.0.0.1:6443 users:((\"vn\",pid=7,fd=9)) cubic bytes_sent:{sent} bytes_received:20\n\
                 ESTAB 0 0 127.0.0.1:6443 127.0.0.1:40 users:((\"api\",pid=77,fd=9)) cubic bytes_sent:20 bytes_received:9\n{more}"
            );
            Traffic::parse(&text, 7)
        };
        let new = "ESTAB 0 0 [::1]:41 [::1]:6443 users:((\"vn\",pid=7,fd=3)) bytes_received:5\n";
        let bytes = mk(110, new).since(&mk(10, ""));
        assert_eq!(
            bytes,
            Bytes {
                sent: 100,
                received: 5
            }
        );
    }
}
