//! Memory of streams that are open and carry nothing.

use std::time::Duration;

use anyhow::Result;
use e2e::measure::{Line, Report};
use e2e::support;

use crate::connection::Dialer;
use crate::ground::{Ground, POD};

/// Goal: KB per idle stream.
const GOAL: f64 = 64.0;
/// Streams that are opened and closed before anything is measured: pools and caches are then filled.
const WARM_UP: usize = 20;
const DEADLINE: Duration = Duration::from_secs(60);

/// Measures, and adds the lines. Port-forwards are opened, which start no process below: for the virtual node one
/// stream is like the other.
pub(crate) async fn measure(ground: &Ground, streams: usize, report: &mut Report) -> Result<()> {
    let dialer = Dialer::new(&ground.upper)?;
    let head = format!(
        "POST /portForward/{}/{POD} HTTP/1.1\nUpgrade: SPDY/3.1\n\
         X-Stream-Protocol-Version: portforward.k8s.io\n",
        ground.namespace
    );
    let open = async |count: usize| {
        let mut open = Vec::new();
        for _ in 0..count {
            open.push(dialer.open(ground.node.kubelet(), &head).await?);
        }
        await_streams(ground, count).await?;
        anyhow::Ok(open)
    };
    drop(open(WARM_UP).await?);
    await_streams(ground, 0).await?;
    let before = ground.node.component.rss()?;
    let held = open(streams).await?;
    let during = ground.node.component.rss()?;
    drop(held);
    await_streams(ground, 0).await?;
    let after = ground.node.component.rss()?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    report.lines.push(
        Line::new(
            "resident memory of one idle stream",
            during.saturating_sub(before) as f64 / 1e3 / streams as f64,
            "KB",
            format!(
                "{streams} port-forwards: {:.1} MiB before, {:.1} MiB while they are open, {:.1} MiB after",
                mib(before),
                mib(during),
                mib(after)
            ),
        )
        .at_most(GOAL),
    );
    Ok(())
}

/// Waits until the virtual node counts so many open streams.
async fn await_streams(ground: &Ground, count: usize) -> Result<()> {
    support::await_condition(&format!("{count} open streams"), DEADLINE, || async {
        let open = ground
            .node
            .metric("tensile_kubelet_streams{")
            .await
            .unwrap_or(0.0);
        anyhow::ensure!((open - count as f64).abs() < 0.5, "{open}");
        Ok(Some(()))
    })
    .await
}
