//! The rights that the chart grants, so that components under test have no others.

use std::{fs, path::Path, path::PathBuf};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::{Binaries, Cluster};

/// The release's namespace, which `lower-role.yaml` uses too.
const NAMESPACE: &str = "tensile-system";
const GROUPS: [&str; 2] = ["system:serviceaccounts", "system:authenticated"];

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/tensile")
}

/// Applies the chart's roles for virtual nodes, to be used in an upper cluster; returns a kubeconfig with them.
///
/// # Errors
/// helm cannot be run, or the API server refuses what it made.
pub async fn for_upper(upper: &Cluster) -> Result<PathBuf> {
    for_upper_with(upper, &[]).await
}

/// As [`for_upper`], with further values of the chart, as `helm --set` takes them.
///
/// # Errors
/// As [`for_upper`].
pub async fn for_upper_with(upper: &Cluster, values: &[&str]) -> Result<PathBuf> {
    let mut command = Command::new(Binaries::obtain().await?.path("helm"));
    command.args(["template", "tensile", "--no-hooks"]).arg(chart());
    command.args(["--namespace", NAMESPACE, "--set", "webhook.enabled=false"]);
    for value in values {
        command.args(["--set", value]);
    }
    let output = command.output().await.context("cannot run helm")?;
    ensure!(
        output.status.success(),
        "helm: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let namespace = format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {NAMESPACE}}}}}");
    upper.apply(&namespace).await?;
    upper.apply(&String::from_utf8(output.stdout)?).await?;
    upper.kubeconfig_for(
        &format!("system:serviceaccount:{NAMESPACE}:tensile-virtual-node"),
        &GROUPS,
    )
}

/// Applies the chart's role for a lower cluster; returns a kubeconfig with it.
///
/// # Errors
/// The API server refuses it.
pub async fn for_lower(lower: &Cluster) -> Result<PathBuf> {
    lower
        .apply(&fs::read_to_string(chart().join("files/lower-role.yaml"))?)
        .await?;
    lower.kubeconfig_for(&format!("system:serviceaccount:{NAMESPACE}:tensile"), &GROUPS)
}
