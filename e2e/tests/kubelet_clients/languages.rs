//! The Kubernetes clients for Python and JavaScript, with their own libraries, through the upper API server.
//!
//! They offer v5 of the subprotocols first, which the API server translates to SPDY; v4 and the older ones reach the
//! virtual node as WebSockets.

use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use e2e::TestResult;
use e2e::clients::{ClientLibrary, JAVASCRIPT, PYTHON};
use serde_json::{Value, json};

use crate::containers::mk_listener;
use crate::ports::SERVER;
use crate::{DEADLINE, IDLE, Site, mk_simple, on_site};

/// SHA-256 of 4 MiB of `y`.
const BULK: &str = "08ee247a1209e469151434e71e6448ed5eea3300ede957f60ecb4d0dff19fa89";

/// What the script of a library saw, line by line.
async fn seen(site: &Site, library: &ClientLibrary, more: &[&str]) -> Result<Vec<Value>> {
    site.run(&[
        mk_simple("shell", IDLE),
        mk_listener(),
        mk_simple("server", SERVER),
    ])
    .await?;
    let mut command = library.command().await?;
    command.arg(site.ground.upper.kubeconfig()).arg(&site.namespace);
    let output = command.args(more).stdin(Stdio::null()).output();
    let output = tokio::time::timeout(2 * DEADLINE, output)
        .await
        .context("the client does not end")??;
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {err}{out}", output.status);
    let lines = out.lines().map(serde_json::from_str).collect::<Result<_, _>>();
    lines.with_context(|| out.into_owned())
}

fn expect(seen: &[Value], wanted: &[Value]) -> Result<()> {
    for (seen, wanted) in seen.iter().zip(wanted) {
        ensure!(seen == wanted, "{seen}, not {wanted}");
    }
    ensure!(seen.len() == wanted.len(), "{seen:?}");
    Ok(())
}

#[test]
fn the_python_client_streams() -> TestResult {
    if !PYTHON.available_or_report()? {
        return Ok(());
    }
    on_site(async |site| {
        let streams = |protocol: &str| {
            json!({
                "protocol": protocol,
                "run": ["out\n", "err\n", 7],
                "bulk": [4 << 20, BULK],
                "typed": "heard hello\n",
                "resized": "sized\n",
                "attached": "got python\n",
            })
        };
        let wanted = [
            streams("v5.channel.k8s.io"),
            streams("v4.channel.k8s.io"),
            json!({"page": ["two\n", null]}),
        ];
        expect(&seen(&site, &PYTHON, &[]).await?, &wanted)
    })
}

#[test]
fn the_javascript_client_streams() -> TestResult {
    if !JAVASCRIPT.available_or_report()? {
        return Ok(());
    }
    on_site(async |site| {
        let kubelet = site.ground.node.kubelet().to_string();
        let spoken = json!({"protocols": {
            "channel.k8s.io": "spoken\n",
            "base64.channel.k8s.io": "spoken\n",
            "v4.channel.k8s.io": "spoken\n",
            "v4.base64.channel.k8s.io": "spoken\n",
            "v5.channel.k8s.io": "spoken\n",
        }});
        let wanted = [
            json!({
                "run": ["out\n", "err\n", 7],
                "bulk": [4 << 20, BULK],
                "counted": "1048576\n",
                "resized": "sized\n",
                "attached": "got javascript\n",
                "page": "two\n",
            }),
            // Through the API server, and at the port itself.
            spoken.clone(),
            spoken,
        ];
        expect(&seen(&site, &JAVASCRIPT, &[&kubelet]).await?, &wanted)
    })
}
