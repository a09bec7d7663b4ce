//! Set-ups that cannot work: the process ends at once and says why.

use std::net::TcpListener;

use anyhow::{Result, ensure};
use e2e::virtual_node::VirtualNodeSpec;
use e2e::{TestResult, support};
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use serde_json::json;

use crate::{DEADLINE, Site, on_site};

#[test]
fn each_impossible_set_up_is_refused_with_its_own_message() -> TestResult {
    on_site(async |site| {
        let ground = site.ground;
        let nodes: Api<Node> = Api::all(site.upper.clone());
        support::create(&nodes, json!({"metadata": {"name": "worker"}})).await?;
        let garbage = ground.upper.folder().join("garbage.kubeconfig");
        std::fs::write(&garbage, "clusters: [")?;
        let busy = TcpListener::bind("127.0.0.1:0")?;
        let port = busy.local_addr()?.port().to_string();
        let spec = || VirtualNodeSpec::new("vn-refused");
        let cases = [
            (
                spec().lower_kubeconfig("/no/such/file"),
                "kubeconfig /no/such/file",
            ),
            (spec().lower_kubeconfig(&garbage), "garbage.kubeconfig"),
            (spec().upper_kubeconfig("/no/upper"), "kubeconfig /no/upper"),
            (
                spec().lower_kubeconfig(ground.upper.kubeconfig()),
                "opens the upper cluster itself",
            ),
            (
                VirtualNodeSpec::new("worker"),
                "node worker exists and is no virtual node",
            ),
            (
                spec().args(["--kubelet-port", &port]),
                "cannot listen on --listen 127.0.0.1",
            ),
        ];
        for (spec, expected) in cases {
            refusal(site, &spec, expected).await?;
        }
        let node = nodes.get_opt("vn-refused").await?;
        ensure!(node.is_none(), "a refused virtual node made its Node");
        Ok(())
    })
}

/// Waits for the end of the process; it must fail and say `expected`.
async fn refusal(site: &Site, spec: &VirtualNodeSpec, expected: &str) -> Result<()> {
    let node = spec.spawn(&site.ground.upper, &site.ground.second).await?;
    let status = node.component.wait_exit(DEADLINE).await?;
    let log = node.component.log_tail();
    ensure!(status.code() == Some(1), "{expected}: {status}\n{log}");
    ensure!(log.contains(expected), "no {expected:?} in {log}");
    Ok(())
}
