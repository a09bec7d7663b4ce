//! The chart's dashboard and alerts, asked of a Prometheus that scrapes all components.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use e2e::{Binaries, support};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::DEADLINE;

const CHART: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/tensile");
/// Where the release would be.
const NAMESPACE: &str = "tensile-system";

/// What the chart's PodMonitor makes of a pod of the component.
pub(crate) fn labels(component: &str) -> Value {
    // Its pod is the scheduler's.
    let component = component.strip_suffix("-extender").unwrap_or(component);
    json!({
        "namespace": NAMESPACE, "pod": format!("tensile-{component}-0"), "app_kubernetes_io_component": component,
    })
}

/// Writes the chart's alerts as Prometheus reads them; promtool must find nothing wrong with them.
pub(crate) async fn write_alerts(folder: &Path) -> Result<PathBuf> {
    let mut helm = Command::new(Binaries::obtain().await?.path("helm"));
    helm.args(["template", "tensile", CHART, "--namespace", NAMESPACE])
        .args(["--set", "monitoring.alerts.enabled=true"])
        .args(["--show-only", "templates/monitoring/alerts.yaml"]);
    let output = helm.stderr(Stdio::inherit()).output().await?;
    ensure!(output.status.success(), "helm: {}", output.status);
    let manifest = String::from_utf8(output.stdout)?;
    let (_, rules) = manifest.split_once("\nspec:\n").context("no spec")?;
    let file = folder.join("alerts.yml");
    // The operator hands the spec over as it is.
    std::fs::write(&file, rules)?;
    let check = Command::new("promtool")
        .args(["check", "rules"])
        .arg(&file)
        .output()
        .await?;
    ensure!(
        check.status.success(),
        "promtool: {}",
        String::from_utf8_lossy(&check.stderr)
    );
    Ok(file)
}

/// Every query of the dashboard returns a number while `stir` gives the components something to do.
pub(crate) async fn have_data<F>(prometheus: SocketAddr, stir: impl Fn() -> F) -> Result<()>
where
    F: Future<Output = Result<()>>,
{
    let dashboard: Value =
        serde_json::from_str(&std::fs::read_to_string(format!("{CHART}/files/dashboard.json"))?)?;
    let panels = dashboard["panels"].as_array().context("no panels")?;
    let targets = panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().into_iter().flatten());
    let queries: Vec<&str> = targets.filter_map(|target| target["expr"].as_str()).collect();
    ensure!(queries.len() > 10, "{queries:?}");
    for query in queries {
        support::await_condition(query, DEADLINE, || async {
            stir().await?;
            let data = ask(prometheus, &format!("/api/v1/query?query={}", encode(query))).await?;
            let series = data["result"].as_array().context("no series")?;
            let is_number = |series: &Value| series["value"][1].as_str().is_some_and(|value| value != "NaN");
            Ok(series.iter().any(is_number).then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// Asks the extender whether a pod fits, as kube-scheduler does.
pub(crate) async fn filter(extender: SocketAddr, node: &str) -> Result<()> {
    let pod = json!({"metadata": {"name": "p", "namespace": "default"}, "spec": {"containers": []}});
    let body = json!({"Pod": pod, "NodeNames": [node]}).to_string();
    let json = "Content-Type: application/json\r\n";
    let (status, answer) = support::http_send(extender, "POST", "/scheduler/filter", json, &body).await?;
    ensure!(status == 200, "{answer}");
    Ok(())
}

/// Prometheus could evaluate every alert, and none of them is about a system where all is well.
pub(crate) async fn alerts_are_evaluated(prometheus: SocketAddr) -> Result<()> {
    support::await_condition("all alerts evaluated", DEADLINE, || async {
        let data = ask(prometheus, "/api/v1/rules?type=alert").await?;
        let rules = data["groups"][0]["rules"].as_array().context("no rules")?;
        let bad: Vec<_> = rules
            .iter()
            .filter(|rule| rule["health"] != "ok" || rule["state"] != "inactive")
            .collect();
        ensure!(
            rules.len() > 5 && bad.is_empty(),
            "{} rules, of which bad: {bad:?}",
            rules.len()
        );
        Ok(Some(()))
    })
    .await
}

/// The data of an answer of Prometheus' API.
pub(crate) async fn ask(prometheus: SocketAddr, path: &str) -> Result<Value> {
    let (status, text) = support::http_get(prometheus, path).await?;
    // The body may come in chunks.
    let (start, end) = (
        text.find('{').context("no JSON")?,
        text.rfind('}').context("no JSON")?,
    );
    let mut answer: Value = serde_json::from_str(&text[start..=end]).with_context(|| text.clone())?;
    ensure!(status == 200, "{path}: {answer}");
    Ok(answer["data"].take())
}

fn encode(query: &str) -> String {
    query.bytes().map(|byte| format!("%{byte:02X}")).collect()
}
