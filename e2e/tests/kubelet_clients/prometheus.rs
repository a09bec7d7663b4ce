//! Prometheus scrapes the kubelet port and every component, promtool finds nothing wrong with our series, and what the
//! chart's dashboard and alerts ask for is there.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use e2e::webhook::{self, Webhook};
use e2e::{Component, PortLease, TestResult, program_or_report, support};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::{Child, Command};

use crate::panels;
use crate::{DEADLINE, IDLE, NODE, Site, mk_simple, on_site};

/// Pages of the kubelet port. What cAdvisor shows is written by the lower kubelets.
const PAGES: [&str; 4] = [
    "/metrics",
    "/metrics/resource",
    "/metrics/probes",
    "/metrics/cadvisor",
];
const NOT_OURS: &str = "/metrics/cadvisor";

/// A token of an account that may read metrics of nodes, and nothing else.
async fn token_file(site: &Site) -> Result<PathBuf> {
    let group = "rbac.authorization.k8s.io";
    let name = format!("prometheus-{}", site.namespace);
    let account = json!({"kind": "ServiceAccount", "name": "prometheus", "namespace": site.namespace});
    site.apply(&[
        json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "prometheus"}}),
        json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRole", "metadata": {"name": name},
            "rules": [{"apiGroups": [""], "resources": ["nodes/metrics"], "verbs": ["get"]}]}),
        json!({"apiVersion": format!("{group}/v1"), "kind": "ClusterRoleBinding", "metadata": {"name": name},
            "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": name}, "subjects": [account]}),
    ])
    .await?;
    let token = site.kubectl_ok(&["create", "token", "prometheus"]).await?;
    let path = site.ground.upper.folder().join("prometheus-token");
    std::fs::write(&path, token.trim())?;
    Ok(path)
}

/// Starts Prometheus with one job per page of the kubelet port and one per component.
async fn start(site: &Site, port: u16, components: &[(&str, SocketAddr)]) -> Result<Child> {
    let (upper, node) = (&site.ground.upper, &site.ground.node);
    let token = token_file(site).await?;
    let target = |address: SocketAddr| json!([{"targets": [address.to_string()]}]);
    let kubelet = PAGES.map(|page| {
        json!({
            "job_name": page, "scheme": "https", "metrics_path": page,
            "tls_config": {"ca_file": upper.client_ca_file()},
            "authorization": {"credentials_file": token},
            "static_configs": target(node.kubelet()),
        })
    });
    let components = components.iter().map(|(name, address)| {
        let static_configs = json!([{"targets": [address.to_string()], "labels": panels::labels(name)}]);
        json!({"job_name": name, "static_configs": static_configs})
    });
    let jobs: Vec<Value> = kubelet.into_iter().chain(components).collect();
    // JSON is YAML.
    let config = json!({
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"}, "scrape_configs": jobs,
        "rule_files": [panels::write_alerts(upper.folder()).await?],
    });
    let file = upper.folder().join("prometheus.yml");
    std::fs::write(&file, config.to_string())?;
    let log = std::fs::File::create(upper.logs_dir().join("prometheus.log"))?;
    let child = Command::new("prometheus")
        .arg(format!("--config.file={}", file.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            upper.folder().join("prometheus").display()
        ))
        .arg(format!("--web.listen-address=127.0.0.1:{port}"))
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true)
        .spawn()?;
    Ok(child)
}

/// What promtool says of a page: nothing, if all is well.
async fn check(page: &str, text: &str) -> Result<()> {
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let mut input = promtool.stdin.take().context("no input")?;
    input.write_all(text.as_bytes()).await?;
    drop(input);
    let output = promtool.wait_with_output().await?;
    let said = [output.stdout, output.stderr].concat();
    ensure!(
        output.status.success() && said.is_empty(),
        "{page}: {}",
        String::from_utf8_lossy(&said)
    );
    Ok(())
}

#[test]
fn prometheus_scrapes_the_kubelet_port_and_every_component() -> TestResult {
    if !program_or_report("prometheus", "prometheus")? {
        return Ok(());
    }
    on_site(async |site| {
        let upper = &site.ground.upper;
        site.run(&[mk_simple("shown", IDLE)]).await?;
        let webhook = Webhook::start(upper, &[]).await?;
        let (descheduler, _descheduler) = start_component(&site, "descheduler", &[])?;
        let calls = PortLease::take()?;
        let calls_at = SocketAddr::from(([127, 0, 0, 1], calls.port()));
        let listen = ["--listen", &calls_at.to_string()];
        let (extender, _extender) = start_component(&site, "scheduler-extender", &listen)?;
        let components = [
            ("virtual-node", site.ground.node.admin()),
            ("webhook", webhook.admin()),
            (
                "descheduler",
                SocketAddr::from(([127, 0, 0, 1], descheduler.port())),
            ),
            (
                "scheduler-extender",
                SocketAddr::from(([127, 0, 0, 1], extender.port())),
            ),
        ];
        let port = PortLease::take()?;
        let _prometheus = start(&site, port.port(), &components).await?;
        let address = SocketAddr::from(([127, 0, 0, 1], port.port()));
        support::await_condition("all targets up", DEADLINE, || async {
            let data = panels::ask(address, "/api/v1/targets?state=active").await?;
            let targets = data["activeTargets"].as_array().context("no targets")?;
            let down: Vec<_> = targets.iter().filter(|target| target["health"] != "up").collect();
            ensure!(
                down.is_empty() && targets.len() == PAGES.len() + components.len(),
                "{} targets, of which not up: {down:?}",
                targets.len()
            );
            Ok(Some(()))
        })
        .await?;
        webhook::register(upper, webhook.address(), "Ignore", Some(upper.client_ca_pem())).await?;
        let stir = || async {
            let review = [
                "run",
                "asked",
                "--image=i",
                "--labels=virtual-pod=true",
                "--dry-run=server",
            ];
            site.kubectl_ok(&review).await?;
            panels::filter(calls_at, NODE).await
        };
        panels::have_data(address, stir).await?;
        panels::alerts_are_evaluated(address).await?;
        for page in PAGES.iter().filter(|page| **page != NOT_OURS) {
            let path = format!("/api/v1/nodes/{NODE}/proxy{page}");
            check(page, &site.kubectl_ok(&["get", "--raw", &path]).await?).await?;
        }
        for (name, address) in components {
            check(name, &support::http_get(address, "/metrics").await?.1).await?;
        }
        Ok(())
    })
}

/// Starts a component of the upper cluster; returns the port of its admin server.
fn start_component(site: &Site, name: &str, more: &[&str]) -> Result<(PortLease, Component)> {
    let admin = PortLease::take()?;
    let kubeconfig = site.ground.upper.kubeconfig().display().to_string();
    let listen = format!("127.0.0.1:{}", admin.port());
    let clusters = site.ground.upper.folder().join("clusters");
    std::fs::create_dir_all(&clusters)?;
    std::fs::copy(site.ground.lower.kubeconfig(), clusters.join("a.kubeconfig"))?;
    let clusters = clusters.display().to_string();
    let args = [
        "--kubeconfig",
        &kubeconfig,
        "--admin-listen",
        &listen,
        "--clusters-dir",
        &clusters,
    ];
    let args: Vec<_> = args.iter().chain(more).map(|&arg| arg.to_owned()).collect();
    let component = Component::start(name, &args, &[])?;
    Ok((admin, component))
}
