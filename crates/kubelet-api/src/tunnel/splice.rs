//! Moves bytes between two streams until one of them ends.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus::IntCounter;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::metrics::OpenStream;

/// Bytes read at once by a stream that moves many. A TLS record has at most 16 KiB of plaintext, so more would stay
/// empty.
const BUFFER: usize = 16 << 10;
/// The same at first: most streams are shells that wait for keys, and shall cost little.
const FIRST_BUFFER: usize = 1 << 10;

/// Moves bytes both ways. When either direction ends, its receiver is told and the other direction gets `linger` for
/// bytes under way; then both streams are closed. (SPDY and WebSocket half-close inside their own frames, never the
/// connection, so nobody has more to say after that.) Also ends when no byte moved for `idle` to twice `idle`.
pub(super) async fn splice<A, B>(caller: A, pod: B, counted: &OpenStream, idle: Duration, linger: Duration)
where
    A: AsyncRead + AsyncWrite,
    B: AsyncRead + AsyncWrite,
{
    let moved = AtomicU64::new(0);
    let (caller_out, caller_in) = tokio::io::split(caller);
    let (pod_out, pod_in) = tokio::io::split(pod);
    let mut up = std::pin::pin!(pump(caller_out, pod_in, &counted.to_pod, &moved));
    let mut down = std::pin::pin!(pump(pod_out, caller_in, &counted.from_pod, &moved));
    tokio::select! {
        () = &mut up => drop(timeout(linger, down).await),
        () = &mut down => drop(timeout(linger, up).await),
        () = still_for(&moved, idle) => {}
    }
}

/// One direction, until its sender ends. An error ends it as an end of file does: the receiver only needs to see that
/// it is over.
async fn pump<R, W>(from: R, mut to: W, counter: &IntCounter, moved: &AtomicU64)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    if let Err(error) = copy(from, &mut to, counter, moved).await {
        tracing::debug!(%error, "stream broken off");
    }
    // Fails if the receiver has gone as well.
    let _ = to.shutdown().await;
}

async fn copy<R, W>(mut from: R, to: &mut W, counter: &IntCounter, moved: &AtomicU64) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut buffer = vec![0; FIRST_BUFFER];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..read]).await?;
        to.flush().await?;
        let bytes = u64::try_from(read).unwrap_or(u64::MAX);
        counter.inc_by(bytes);
        moved.fetch_add(bytes, Ordering::Relaxed);
        if read == buffer.len() {
            buffer.resize(BUFFER, 0);
        }
    }
}

/// Resolves when `moved` stayed the same for a whole `idle`.
async fn still_for(moved: &AtomicU64, idle: Duration) {
    let mut before = None;
    loop {
        let now = moved.load(Ordering::Relaxed);
        if before == Some(now) {
            return;
        }
        before = Some(now);
        tokio::time::sleep(idle).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Kind, Metrics};
    use tokio::io::{DuplexStream, duplex};
    use tokio::time::Instant;

    const IDLE: Duration = Duration::from_secs(4 * 3600);
    const LINGER: Duration = Duration::from_secs(5);

    /// The caller's and the pod's ends of a spliced stream, and its task.
    fn mk_spliced() -> (DuplexStream, DuplexStream, Metrics, tokio::task::JoinHandle<()>) {
        let ((caller, a), (pod, b)) = (duplex(64), duplex(64));
        let metrics = Metrics::register(&prometheus::Registry::new()).unwrap();
        let counted = metrics.open_stream(Kind::Exec);
        let task = tokio::spawn(async move { splice(a, b, &counted, IDLE, LINGER).await });
        (caller, pod, metrics, task)
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_go_both_ways_and_are_counted() {
        let (mut caller, mut pod, metrics, task) = mk_spliced();
        let sent: Vec<u8> = (0..100_000_u32).map(|i| i.to_le_bytes()[0]).collect();
        let mut got = vec![0; sent.len()];
        let (wrote, read) = tokio::join!(caller.write_all(&sent), pod.read_exact(&mut got));
        wrote.unwrap();
        read.unwrap();
        assert_eq!(got, sent);
        pod.write_all(b"answer").await.unwrap();
        let mut answer = [0; 6];
        caller.read_exact(&mut answer).await.unwrap();
        drop((caller, pod));
        task.await.unwrap();
        let text = metrics.text();
        assert!(
            text.contains(r#"tensile_kubelet_stream_bytes_total{direction="to_pod",kind="exec"} 100000"#),
            "{text}"
        );
        assert!(
            text.contains(r#"tensile_kubelet_stream_bytes_total{direction="from_pod",kind="exec"} 6"#),
            "{text}"
        );
        assert!(
            text.contains(r#"tensile_kubelet_streams{kind="exec"} 0"#),
            "{text}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn when_one_side_ends_the_other_gets_its_last_bytes_through() {
        let (mut caller, mut pod, _metrics, task) = mk_spliced();
        caller.shutdown().await.unwrap();
        let mut rest = Vec::new();
        pod.read_to_end(&mut rest).await.unwrap();
        pod.write_all(b"last words").await.unwrap();
        drop(pod);
        caller.read_to_end(&mut rest).await.unwrap();
        assert_eq!(rest, b"last words");
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_side_that_does_not_end_is_closed_after_the_linger() {
        let (mut caller, pod, _metrics, task) = mk_spliced();
        let start = Instant::now();
        drop(pod);
        let mut rest = Vec::new();
        caller.read_to_end(&mut rest).await.unwrap();
        task.await.unwrap();
        assert_eq!(start.elapsed().as_secs(), LINGER.as_secs());
        assert!(caller.write_all(b"x").await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_without_bytes_ends_after_the_idle_time_and_not_before() {
        let (mut caller, mut pod, _metrics, task) = mk_spliced();
        let start = Instant::now();
        tokio::time::sleep(IDLE / 2).await;
        caller.write_all(b"x").await.unwrap();
        pod.read_u8().await.unwrap();
        timeout(IDLE * 4, task).await.unwrap().unwrap();
        let idle = start.elapsed() - IDLE / 2;
        assert!(idle >= IDLE && idle <= IDLE * 2, "{idle:?}");
    }
}
