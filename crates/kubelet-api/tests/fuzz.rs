//! Fuzzing of requests as bytes: mutated heads in, never a panic, nothing without credentials, and nothing below but the
//! pod that was resolved.
//!
//! Runs for two seconds in an ordinary test run. Longer, from another start:
//! `TENSILE_FUZZ_SECONDS=3600 TENSILE_FUZZ_SEED=7 cargo test -p tensile-kubelet-api --release --test fuzz`.
//! A failing input is printed in full.

mod support;

use std::time::{Duration, Instant};

use axum::Router;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use support::{TOKEN, mk_router, mk_told};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio::sync::mpsc::unbounded_channel;
use tower::ServiceExt as _;

/// What mutations insert: parts of paths, queries and heads, and characters that parsers trip over.
const TOKENS: [&str; 26] = [
    "/",
    "//",
    "/../",
    "%2F",
    "%00",
    "%",
    "%ff",
    "?",
    "&",
    "=",
    "#",
    "\r\n",
    "\r\n\r\n",
    " ",
    "\0",
    "ns",
    "p",
    "c",
    "uid",
    "command=",
    "port=0,",
    "tailLines=99999999999999999999",
    "sinceTime=",
    "Connection: Upgrade\r\n",
    "Upgrade: websocket\r\n",
    "Content-Length: 18446744073709551616\r\n",
];
/// Where all requests below must lead.
const POD: &str = "/api/v1/namespaces/lower-ns/pods/lower-p/";
const END: &[u8] = b"\r\n\r\n";

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ (mixed >> 31)) % end as u64).unwrap()
    }
}

fn mk_corpus(token: &str) -> Vec<Vec<u8>> {
    let upgrade =
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Protocol: v4.channel.k8s.io\r\n";
    [
        ("GET /exec/ns/p/c?command=sh&input=1&output=1&error=1&tty=1", upgrade),
        ("POST /exec/ns/p/c?command=sh&output=1", "Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"),
        ("GET /attach/ns/p/c?output=1", upgrade),
        ("GET /portForward/ns/p?port=80,81", upgrade),
        (
            "GET /containerLogs/ns/p/c?follow=true&tailLines=5&sinceTime=2026-11-23T18%3A00%3A00Z&limitBytes=1",
            "",
        ),
        ("GET /metrics/resource", ""),
        ("GET /stats/summary?only_cpu_and_memory=true", ""),
        ("GET /configz", ""),
    ]
    .map(|(line, more)| {
        format!("{line} HTTP/1.1\r\nHost: vn\r\nAuthorization: Bearer {token}\r\n{more}\r\n").into_bytes()
    })
    .to_vec()
}

fn mutate(input: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(input.len().max(1)).min(input.len());
    match random.below(5) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 => {
            let end = (at + random.below(12)).min(input.len());
            input.drain(at..end);
        }
        2 => {
            let end = (at + random.below(40)).min(input.len());
            let part = input[at..end].to_vec();
            input.splice(at..at, part);
        }
        _ => {
            let token = TOKENS[random.below(TOKENS.len())];
            input.splice(at..at, token.bytes());
        }
    }
}

/// The answer to the bytes of one connection.
async fn answer(router: &Router, input: &[u8]) -> Vec<u8> {
    let (mut caller, server) = duplex(1 << 20);
    let router = router.clone();
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        router.clone().oneshot(request.map(axum::body::Body::new))
    });
    let serving = tokio::spawn(
        hyper::server::conn::http1::Builder::new()
            .half_close(true)
            .serve_connection(TokioIo::new(server), service)
            .with_upgrades(),
    );
    caller.write_all(input).await.unwrap();
    caller.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), caller.read_to_end(&mut answer)).await;
    drop(caller);
    if let Err(error) = serving.await {
        panic!("{error}");
    }
    answer
}

#[tokio::test]
async fn no_bytes_break_the_server_or_get_past_the_guard() {
    let number = |name: &str, default: u64| {
        let text = std::env::var(name).ok();
        text.and_then(|text| text.parse().ok()).unwrap_or(default)
    };
    let mut random = Random(number("TENSILE_FUZZ_SEED", 1));
    let end = Instant::now() + Duration::from_secs(number("TENSILE_FUZZ_SECONDS", 2));
    let (tell, mut told) = unbounded_channel();
    let (router, _) = mk_router(mk_told(tell));
    let corpora = [mk_corpus("bad"), mk_corpus(TOKEN)];
    let (mut runs, mut reached) = (0_u64, 0_u64);
    while Instant::now() < end {
        let allowed = runs % 2 == 1;
        let corpus = &corpora[usize::from(allowed)];
        let mut input = corpus[random.below(corpus.len())].clone();
        for _ in 0..random.below(4) {
            mutate(&mut input, &mut random);
        }
        // Without its end a head would be waited for.
        input.extend_from_slice(END);
        let answer = answer(&router, &input).await;
        let shown = || String::from_utf8_lossy(&input).into_owned();
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{}", shown());
        while let Ok(path) = told.try_recv() {
            assert!(allowed && path.starts_with(POD), "{path}: {}", shown());
            reached += 1;
        }
        runs += 1;
    }
    println!("{runs} inputs, {reached} of them reached the pod");
    assert!(
        runs > 100 && reached > runs / 20,
        "{runs} inputs, {reached} reached the pod"
    );
}
