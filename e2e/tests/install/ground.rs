//! One upper and two lower clusters with real nodes, Tensile's image on the upper one, and a user's shell.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context, Result, ensure};
use e2e::{BUSYBOX_IMAGE, Binaries, Cluster, ClusterSpec, Output, support};
use k8s_openapi::api::core::v1::Namespace;
use kube::Api;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::image::{self, Images};

/// Where the release is installed.
pub(crate) const NAMESPACE: &str = "tensile-system";

/// What the test runs on.
pub(crate) struct Ground {
    pub(crate) upper: Cluster,
    pub(crate) lower: [Cluster; 2],
    path: String,
}

// === impl Ground ===

impl Ground {
    pub(crate) async fn make() -> Result<Self> {
        let real = |name: &str| Cluster::start(ClusterSpec::new(name).with_real_node().with_audit_log());
        let (upper, a, b) = tokio::try_join!(real("install"), real("lower-a"), real("lower-b"))?;
        let images = Images::build(upper.folder().join("image-build")).await?;
        images.import(&upper).await?;
        let path = tools(&upper).await?;
        let ground = Self {
            upper,
            lower: [a, b],
            path,
        };
        ground.lay_out_shell()?;
        let namespaces: Api<Namespace> = Api::all(ground.upper.client().await?);
        // What the strictest of clusters asks for.
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        support::create(
            &namespaces,
            json!({"metadata": {"name": NAMESPACE, "labels": labels}}),
        )
        .await?;
        Ok(ground)
    }

    /// The folder in which the user works has what the docs name.
    fn lay_out_shell(&self) -> Result<()> {
        let folder = self.upper.folder();
        let charts = concat!(env!("CARGO_MANIFEST_DIR"), "/../charts");
        std::os::unix::fs::symlink(charts, folder.join("charts"))?;
        for (cluster, id) in self.lower.iter().zip(["a", "b"]) {
            fs::copy(
                cluster.kubeconfig(),
                folder.join(format!("lower-{id}.admin.kubeconfig")),
            )?;
        }
        Ok(())
    }

    /// Runs a script as the user, who stops at the first error; what it printed.
    pub(crate) async fn bash(&self, script: &str) -> Result<String> {
        let mut command = self.command("bash");
        command.args(["-euo", "pipefail", "-c", script]);
        let done = finish(command).await;
        if done.is_err() {
            // What `helm test` saw; it is kept when it failed.
            let logs = ["-n", NAMESPACE, "logs", "tensile-test"];
            eprintln!("{:?}", self.upper.kubectl(&logs).await);
        }
        done.with_context(|| script.to_owned())
    }

    pub(crate) async fn helm(&self, args: &[&str]) -> Result<String> {
        let mut command = self.command("helm");
        command.args(args).args(["--namespace", NAMESPACE]);
        finish(command).await.with_context(|| format!("helm {args:?}"))
    }

    /// `helm upgrade` to the values of the quick start and these.
    pub(crate) async fn upgrade(&self, sets: &[&str]) -> Result<()> {
        let mut args = vec![
            "upgrade",
            "tensile",
            "charts/tensile",
            "--reset-then-reuse-values",
            "--wait",
            "--timeout",
            "3m",
        ];
        args.extend(sets.iter().flat_map(|set| ["--set", set]));
        self.helm(&args).await.map(drop)
    }

    pub(crate) async fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.upper.kubectl(args).await.and_then(Output::ok)
    }

    fn command(&self, program: &str) -> Command {
        let folder = self.upper.folder();
        let mut command = Command::new(program);
        command
            .current_dir(folder)
            .env("PATH", &self.path)
            .env("HOME", folder)
            .env("KUBECONFIG", self.upper.kubeconfig())
            .env("REPOSITORY", image::REPOSITORY)
            .env("WORKLOAD", BUSYBOX_IMAGE)
            .kill_on_drop(true);
        command
    }

    /// A pod that takes part and asks for little; `scheduler` may be null.
    pub(crate) fn mk_pod(&self, name: &str, scheduler: &Value) -> Value {
        let command = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1; done"];
        let container = json!({"name": "c", "image": BUSYBOX_IMAGE, "command": command, "resources": {"requests": {"cpu": "10m"}}});
        json!({
            "metadata": {"name": name},
            "spec": {
                "schedulerName": scheduler, "terminationGracePeriodSeconds": 1,
                "nodeSelector": {"clusterID": "a"}, "containers": [container],
            },
        })
    }

    /// Requests of Tensile's service accounts, in all clusters, that were refused for want of rights.
    pub(crate) fn forbidden(&self) -> Result<BTreeSet<String>> {
        let mut refused = BTreeSet::new();
        let mut asked = 0;
        for cluster in self.lower.iter().chain([&self.upper]) {
            for line in fs::read_to_string(cluster.audit_log())?.lines() {
                let Ok(event) = serde_json::from_str::<Value>(line) else {
                    continue;
                };
                let user = event["user"]["username"].as_str().unwrap_or_default();
                // The test's own account may not do everything that doctor would like to try.
                let ours =
                    user.starts_with("system:serviceaccount:tensile-system:") && !user.ends_with("-test");
                asked += usize::from(ours);
                if ours && event["responseStatus"]["code"] == 403 {
                    refused.insert(format!(
                        "{}: {user} {} {}",
                        cluster.name(),
                        event["verb"],
                        event["requestURI"]
                    ));
                }
            }
        }
        ensure!(
            asked > 0,
            "the audit logs know none of Tensile's service accounts"
        );
        Ok(refused)
    }
}

/// kubectl, helm and the plugin under the names that a user types; the PATH with their folder first.
async fn tools(cluster: &Cluster) -> Result<String> {
    let folder = cluster.folder().join("bin");
    fs::create_dir(&folder)?;
    let binaries = Binaries::obtain().await?;
    for name in ["kubectl", "helm"] {
        std::os::unix::fs::symlink(binaries.path(name), folder.join(name))?;
    }
    fs::copy(
        env!("CARGO_BIN_EXE_tensile-component"),
        folder.join("kubectl-tensile"),
    )?;
    Ok(format!("{}:{}", folder.display(), std::env::var("PATH")?))
}

async fn finish(mut command: Command) -> Result<String> {
    let output = command.output().await?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(
        output.status.success(),
        "{}: {}{}",
        output.status,
        text(&output.stderr),
        text(&output.stdout)
    );
    Ok(text(&output.stdout))
}
