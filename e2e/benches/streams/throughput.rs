//! One exec stream at a time, down (the output of a command) and up (its input), by three paths in turn.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::measure::{Line, Report, Samples};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::connection::Dialer;
use crate::ground::{CONTAINER, Ground, POD};

/// Goal: at least 80 % of the throughput, so at most 1.25 times the time.
const GOAL: f64 = 1.25;
/// Bytes of a message, as clients send them.
const MESSAGE: usize = 32 << 10;
/// Bytes of a small stream before anything is measured.
const WARM_UP: usize = 8 << 20;
/// Channels: standard input, and one to close others by their number.
const STDIN: u8 = 0;
const CLOSE: u8 = 255;
/// In the last message, the status on a channel of its own, when the command ended well.
const SUCCESS: &[u8] = br#""status":"Success""#;
/// Bytes at the end in which the status is looked for; it is alone there, and has about a hundred.
const TAIL: usize = 1 << 10;

/// Where an exec is asked for.
struct Path {
    what: &'static str,
    dialer: Dialer,
    address: SocketAddr,
    /// The request target without the command, and what its switches are called.
    target: String,
    switches: [&'static str; 2],
}

#[derive(Clone, Copy, Debug)]
enum Direction {
    Down,
    Up,
}

// === impl Direction ===

impl Direction {
    /// Only the newest can tell that the input is at its end. An API server translates it to SPDY; the others pass it as
    /// they are, so that the way down is the shorter one.
    fn protocol(self) -> &'static str {
        match self {
            Self::Down => "v4.channel.k8s.io",
            Self::Up => "v5.channel.k8s.io",
        }
    }
}

fn paths(ground: &Ground) -> Result<[Path; 3]> {
    let api = format!(
        "/api/v1/namespaces/{}/pods/{POD}/exec?container={CONTAINER}&",
        ground.namespace
    );
    let switches = ["stdin=true", "stdout=true"];
    Ok([
        Path {
            what: "straight to the lower API server",
            dialer: Dialer::new(&ground.lower)?,
            address: ground.lower.api_server(),
            target: api.clone(),
            switches,
        },
        Path {
            what: "through the virtual node",
            dialer: Dialer::new(&ground.upper)?,
            address: ground.node.kubelet(),
            target: format!("/exec/{}/{POD}/{CONTAINER}?", ground.namespace),
            switches: ["input=1", "output=1"],
        },
        Path {
            what: "through the upper API server and the virtual node",
            dialer: Dialer::new(&ground.upper)?,
            address: ground.upper.api_server(),
            target: api,
            switches,
        },
    ])
}

/// Measures, and adds the lines.
pub(crate) async fn measure(ground: &Ground, bytes: usize, rounds: usize, report: &mut Report) -> Result<()> {
    let paths = paths(ground)?;
    for direction in [Direction::Down, Direction::Up] {
        let mut times = [const { Vec::new() }; 3];
        for round in 0..=rounds {
            for (path, times) in paths.iter().zip(&mut times) {
                let bytes = if round == 0 { WARM_UP } else { bytes };
                let took = path.time(direction, bytes).await;
                let took = took.with_context(|| format!("{direction:?}, {}", path.what))?;
                if round > 0 {
                    times.push(took);
                }
            }
        }
        let medians = times.map(|times| Samples::millis(times).median());
        let mib_per_second = |millis: f64| bytes as f64 / f64::from(1 << 20) / (millis / 1e3);
        for (path, millis) in paths.iter().zip(medians).skip(1) {
            let line = Line::new(
                format!("{direction:?}: {}", path.what),
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
    }
    Ok(())
}

// === impl Path ===

impl Path {
    async fn time(&self, direction: Direction, bytes: usize) -> Result<Duration> {
        let (command, switches) = match direction {
            Direction::Down => (format!("head -c {bytes} /dev/zero"), &self.switches[1..]),
            Direction::Up => ("cat > /dev/null".to_owned(), &self.switches[..]),
        };
        let command = command.replace(' ', "+").replace('>', "%3E").replace('/', "%2F");
        let target = format!(
            "{}{}&command=sh&command=-c&command={command}",
            self.target,
            switches.join("&")
        );
        let head = format!(
            "GET {target} HTTP/1.1\nUpgrade: websocket\nSec-WebSocket-Version: 13\n\
             Sec-WebSocket-Key: dGVuc2lsZSBzYW1wbGUhIQ==\nSec-WebSocket-Protocol: {}\n",
            direction.protocol()
        );
        let stream = self.dialer.open(self.address, &head).await?;
        let start = Instant::now();
        let (mut reader, mut writer) = tokio::io::split(stream);
        let send = async {
            if let Direction::Up = direction {
                let mut left = bytes;
                while left > 0 {
                    let size = left.min(MESSAGE);
                    writer.write_all(&message(STDIN, size)).await?;
                    left -= size;
                }
                writer.write_all(&message(CLOSE, 1)).await?;
                writer.flush().await?;
            }
            anyhow::Ok(())
        };
        let (sent, received) = tokio::join!(send, drain(&mut reader));
        sent?;
        let received = received?;
        if let Direction::Down = direction {
            ensure!(received >= bytes, "{received} of {bytes} bytes came");
        }
        Ok(start.elapsed())
    }
}

/// Reads until the command has ended well; counts. What is after the status does not matter: servers of Go end with no
/// close_notify, or with a reset if a byte from here is still unread.
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

/// A binary message on a channel, so many zeros, masked with zeros, which changes nothing. Zero is the channel of
/// standard input, too, when it is closed.
fn message(channel: u8, bytes: usize) -> Vec<u8> {
    let length = u16::try_from(bytes + 1).unwrap_or(u16::MAX);
    let mut message = vec![0x82, 0x80 | 126];
    message.extend(length.to_be_bytes());
    message.extend([0, 0, 0, 0, channel]);
    message.resize(message.len() + bytes, 0);
    message
}
