//! Many execs at a time, again and again: nothing is left of them.
//!
//! Runs for three seconds in an ordinary test run; `just load` runs for a minute.

mod support;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use support::{TOKEN, mk_echo, mk_router, serve};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

/// Execs at a time.
const EXECS: usize = 200;
/// Longest time for anything to settle.
const DEADLINE: Duration = Duration::from_secs(20);
/// Growth of the process that is no leak: allocators keep what was freed, in steps of some MiB.
const SLACK_KIB: u64 = 16 << 10;

/// What the process holds.
#[derive(Clone, Copy, Debug)]
struct Held {
    descriptors: usize,
    tasks: usize,
    resident_kib: u64,
}

fn held() -> Held {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    Held {
        descriptors: std::fs::read_dir("/proc/self/fd").unwrap().count(),
        tasks: Handle::current().metrics().num_alive_tasks(),
        resident_kib: line.split_whitespace().next().unwrap().parse().unwrap(),
    }
}

/// Opens an exec.
async fn open(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /exec/ns/p/c?input=1&output=1 HTTP/1.1\r\nHost: vn\r\nAuthorization: Bearer {TOKEN}\r\n\
         Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await.unwrap());
    }
    assert!(
        answer.starts_with(b"HTTP/1.1 101"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    stream
}

/// One exec that says something, hears it back, and ends.
async fn exec(address: SocketAddr) {
    let mut stream = open(address).await;
    let said = [7; 4000];
    stream.write_all(&said).await.unwrap();
    let mut heard = [0; 4000];
    stream.read_exact(&mut heard).await.unwrap();
    assert_eq!(said, heard);
}

/// Waits until no more is held than `before`, memory aside.
async fn settled(before: Held) -> Held {
    let wait = async {
        loop {
            let now = held();
            if now.descriptors <= before.descriptors && now.tasks <= before.tasks {
                return now;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let settled = tokio::time::timeout(DEADLINE, wait).await;
    settled.unwrap_or_else(|_| panic!("left: {:?} after {before:?}", held()))
}

/// Runs execs, so many at a time, until the time is over; returns how many there were.
async fn load(address: SocketAddr, time: Duration) -> usize {
    let end = Instant::now() + time;
    let mut callers = JoinSet::new();
    for _ in 0..EXECS {
        callers.spawn(async move {
            let mut count = 0;
            while Instant::now() < end {
                exec(address).await;
                count += 1;
            }
            count
        });
    }
    callers.join_all().await.into_iter().sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn execs_leave_no_sockets_tasks_or_memory() {
    let seconds = std::env::var("TENSILE_LOAD_SECONDS").ok();
    let seconds: u64 = seconds.and_then(|text| text.parse().ok()).unwrap_or(3);
    let (router, registry) = mk_router(mk_echo().await);
    let address = serve(router).await;
    exec(address).await;
    // The first stretch fills pools and caches, the second must add nothing.
    let before = settled(held()).await;
    load(address, Duration::from_secs(seconds)).await;
    let warm = settled(before).await;
    let count = load(address, Duration::from_secs(seconds)).await;
    let after = settled(before).await;
    println!("{count} execs, {EXECS} at a time: {before:?}, {warm:?}, {after:?}");
    assert!(count > EXECS, "only {count} execs");
    assert!(
        after.resident_kib < warm.resident_kib + SLACK_KIB,
        "{warm:?} {after:?}"
    );
    let text = prometheus::TextEncoder::new()
        .encode_to_string(&registry.gather())
        .unwrap();
    assert!(
        text.contains("tensile_kubelet_streams{kind=\"exec\"} 0\n"),
        "{text}"
    );
}
