//! One exec stream at a time, the output of a command, by three paths in turn.
//!
//! The other way is left out: an exec with input of more than some ten MiB at full speed ends early, also straight from the
//! lower API server, when containerd closes its standard input.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::measure::{Line, Report, Samples};
use tokio::io::AsyncReadExt as _;

use crate::connection::Dialer;
use crate::ground::{CONTAINER, Ground, POD};

/// Goal: at least 80 % of the throughput, so at most 1.25 times the time.
const GOAL: f64 = 1.25;
/// Bytes of a small stream before anything is measured.
const WARM_UP: usize = 8 << 20;
/// In the last message, the status on a channel of its own, when the command ended well.
const SUCCESS: &[u8] = br#""status":"Success""#;
/// Bytes at the end in which the status is looked for; it is alone there, and has about a hundred.
const TAIL: usize = 1 << 10;

/// Where an exec is asked for.
struct Path {
    what: &'static str,
    dialer: Dialer,
    address: SocketAddr,
    /// The request target without the command.
    target: String,
}

fn paths(ground: &Ground) -> Result<[Path; 3]> {
    let api = format!(
        "/api/v1/namespaces/{}/pods/{POD}/exec?container={CONTAINER}&stdout=true",
        ground.namespace
    );
    Ok([
        Path {
            what: "straight to the lower API server",
            dialer: Dialer::new(&ground.lower)?,
            address: ground.lower.api_server(),
            target: api.clone(),
        },
        Path {
            what: "through the virtual node",
            dialer: Dialer::new(&ground.upper)?,
            address: ground.node.kubelet(),
            target: format!("/exec/{}/{POD}/{CONTAINER}?output=1", ground.namespace),
        },
        Path {
            what: "through the upper API server and the virtual node",
            dialer: Dialer::new(&ground.upper)?,
            address: ground.upper.api_server(),
            target: api,
        },
    ])
}

/// Measures, and adds the lines.
pub(crate) async fn measure(ground: &Ground, bytes: usize, rounds: usize, report: &mut Report) -> Result<()> {
    let paths = paths(ground)?;
    let mut times = [const { Vec::new() }; 3];
    for round in 0..=rounds {
        for (path, times) in paths.iter().zip(&mut times) {
            let bytes = if round == 0 { WARM_UP } else { bytes };
            let took = path.time(bytes).await.context(path.what)?;
            if round > 0 {
                times.push(took);
            }
        }
    }
    let medians = times.map(|times| Samples::millis(times).median());
    let mib_per_second = |millis: f64| bytes as f64 / f64::from(1 << 20) / (millis / 1e3);
    for (path, millis) in paths.iter().zip(medians).skip(1) {
        let line = Line::new(
            format!("output of a command, {}", path.what),
            millis / medians[0],
            "×",
            format!(
                "{:.0} MiB/s, and {:.0} MiB/s {}",
                mib_per_second(millis),
                mib_per_second(medians[0]),
                paths[0].what
            ),
        );
        // The upper API server is not ours; its share is shown and has no goal.
        let is_ours = path.address == ground.node.kubelet();
        report.lines.push(if is_ours { line.at_most(GOAL) } else { line });
    }
    Ok(())
}

// === impl Path ===

impl Path {
    async fn time(&self, bytes: usize) -> Result<Duration> {
        let head = format!(
            "GET {}&command=head&command=-c&command={bytes}&command=%2Fdev%2Fzero HTTP/1.1\nUpgrade: websocket\n\
             Sec-WebSocket-Version: 13\nSec-WebSocket-Key: dGVuc2lsZSBzYW1wbGUhIQ==\n\
             Sec-WebSocket-Protocol: v4.channel.k8s.io\n",
            self.target
        );
        let mut stream = self.dialer.open(self.address, &head).await?;
        let start = Instant::now();
        let received = drain(&mut stream).await?;
        ensure!(received >= bytes, "{received} of {bytes} bytes came");
        Ok(start.elapsed())
    }
}

/// Reads until the command has ended well; counts. What is after the status does not matter: servers of Go end without
/// close_notify.
async fn drain(reader: &mut (impl tokio::io::AsyncRead + Unpin)) -> Result<usize> {
    let (mut buffer, mut tail, mut total) = (vec![0; 64 << 10], Vec::new(), 0);
    loop {
        let read = reader.read(&mut buffer).await?;
        ensure!(read > 0, "the stream ended without a status after {total} bytes");
        total += read;
        tail.extend_from_slice(&buffer[read.saturating_sub(TAIL)..read]);
        tail.drain(..tail.len().saturating_sub(TAIL));
        if tail.windows(SUCCESS.len()).any(|bytes| bytes == SUCCESS) {
            return Ok(total);
        }
    }
}
