//! `kubectl port-forward` with many connections at a time, by an old kubectl and by the newest.

use std::net::SocketAddr;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use e2e::{TestResult, support};
use futures::future::try_join_all;
use tokio::io::BufReader;

use crate::client::{Kubectl, await_line};
use crate::{DEADLINE, Site, mk_simple, on_site};

/// Connections at a time.
const CONNECTIONS: usize = 20;
/// A page of 256 KiB on one port, and a small one on another.
pub(crate) const SERVER: &str = "mkdir /one /two; dd if=/dev/zero bs=1024 count=256 status=none | tr '\\0' x > /one/index.html; \
    echo two > /two/index.html; httpd -p 8082 -h /two; exec httpd -f -p 8081 -h /one";

async fn check(site: &Site, kubectl: &Kubectl<'_>) -> Result<()> {
    site.run(&[mk_simple("server", SERVER)]).await?;
    let mut forward = kubectl
        .command(&["port-forward", "pod/server", ":8081", ":8082"])
        .stdout(Stdio::piped())
        .spawn()?;
    let mut output = BufReader::new(forward.stdout.take().context("no output")?);
    let mut addresses = Vec::new();
    for port in ["-> 8081", "-> 8082"] {
        let line = loop {
            let line = await_line(&mut output, port).await?;
            if line.contains("127.0.0.1:") {
                break line;
            }
        };
        let mut words = line.split_whitespace();
        let address = words
            .find(|word| word.starts_with("127.0.0.1:"))
            .context("no address")?;
        addresses.push(address.parse::<SocketAddr>()?);
    }
    // The servers in the pod may still be starting.
    support::await_condition("the small page", DEADLINE, || async {
        let page = support::http_get(addresses[1], "/").await?;
        ensure!(page == (200, "two\n".to_owned()), "{page:?}");
        Ok(Some(()))
    })
    .await?;
    let pages = (0..CONNECTIONS).map(|_| support::http_get(addresses[0], "/"));
    let pages = tokio::time::timeout(DEADLINE, try_join_all(pages)).await??;
    for (status, page) in pages {
        ensure!(
            status == 200 && page.len() == 256 << 10,
            "{status}, {} bytes",
            page.len()
        );
        ensure!(page.bytes().all(|byte| byte == b'x'), "the page is damaged");
    }
    Ok(())
}

#[test]
fn the_newest_kubectl_forwards_many_connections() -> TestResult {
    on_site(async |site| check(&site, &Kubectl::newest(&site).await?).await)
}

#[test]
fn an_old_kubectl_forwards_many_connections() -> TestResult {
    on_site(async |site| check(&site, &Kubectl::old(&site).await?).await)
}
