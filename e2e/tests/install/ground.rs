//! One upper and two lower clusters with real nodes, Tensile's image on them, and a user's shell.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::{BUSYBOX_IMAGE, Binaries, Cluster, ClusterSpec, Output, rights, support};
use k8s_openapi::api::core::v1::{Namespace, Pod};
use kube::Api;
use kube::api::ListParams;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::image::{self, Images};

/// Where releases are installed.
pub(crate) const NAMESPACE: &str = "tensile-system";
/// Where the workload runs.
pub(crate) const DEMO: &str = "demo";

/// How long helm may take, and that it waits.
const PATIENCE: [&str; 3] = ["--wait", "--timeout", "3m"];

/// How long the webhook may take to be reached once it is Ready.
const DEADLINE: Duration = Duration::from_secs(30);

/// What the test runs on.
pub(crate) struct Ground {
    pub(crate) upper: Cluster,
    pub(crate) lower: [Cluster; 2],
    path: String,
}

// === impl Ground ===

impl Ground {
    pub(crate) async fn make() -> Result<Self> {
        let build = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("image-build");
        if build.exists() {
            fs::remove_dir_all(&build)?;
        }
        let real = |name: &str| Cluster::start(ClusterSpec::new(name).with_real_node().with_audit_log());
        let (upper, a, b, images) = tokio::try_join!(
            real("install"),
            real("lower-a"),
            real("lower-b"),
            Images::build(build.clone())
        )?;
        // On the second lower cluster too, which will be the upper one of a second release.
        tokio::try_join!(images.import(&upper), images.import(&b))?;
        fs::remove_dir_all(&build)?;
        let path = tools(&upper).await?;
        let ground = Self {
            upper,
            lower: [a, b],
            path,
        };
        ground.lay_out_shell()?;
        ground.make_system_namespace().await?;
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

    /// As the strictest of clusters asks for it.
    async fn make_system_namespace(&self) -> Result<()> {
        let namespaces: Api<Namespace> = Api::all(self.upper.client().await?);
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let namespace = json!({"metadata": {"name": NAMESPACE, "labels": labels}});
        support::create(&namespaces, namespace).await.map(drop)
    }

    /// A file of values: the first `number` lower clusters, a and b, and these.
    pub(crate) async fn values(&self, number: usize, more: &Value) -> Result<String> {
        let mut clusters = Vec::new();
        for (cluster, id) in self.lower.iter().zip(["a", "b"]).take(number) {
            let kubeconfig = fs::read_to_string(rights::for_lower(cluster).await?)?;
            clusters.push(json!({"id": id, "kubeconfig": kubeconfig}));
        }
        let mut values = more.clone();
        values["clusters"] = clusters.into();
        values["image"] = json!({"repository": image::REPOSITORY});
        let file = self.upper.folder().join("values.yaml");
        // JSON is YAML.
        fs::write(&file, values.to_string())?;
        Ok(file.display().to_string())
    }

    /// Runs a script as the user, who stops at the first error; what it printed.
    pub(crate) async fn bash(&self, script: &str) -> Result<String> {
        let mut command = self.command(&self.upper, "bash");
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
        self.helm_on(&self.upper, args).await
    }

    pub(crate) async fn helm_on(&self, cluster: &Cluster, args: &[&str]) -> Result<String> {
        let mut command = self.command(cluster, "helm");
        command.args(args).args(["--namespace", NAMESPACE]);
        finish(command).await.with_context(|| format!("helm {args:?}"))
    }

    /// `helm install --wait` of the release `tensile` with [`Ground::values`].
    pub(crate) async fn install(&self, cluster: &Cluster, number: usize, values: &Value) -> Result<()> {
        let values = self.values(number, values).await?;
        let head = ["install", "tensile", "charts/tensile", "--values", &values];
        self.helm_on(cluster, &[&head, &PATIENCE[..]].concat())
            .await
            .map(drop)
    }

    /// Another version and other flags for all components, and back; no pod below notices.
    pub(crate) async fn upgrade_and_rollback(&self) -> Result<()> {
        let before = (self.pods_below(0).await?, self.pods_below(1).await?);
        let tag = format!("image.tag={}", image::TAGS[1]);
        let upgrade = [
            "upgrade",
            "tensile",
            "charts/tensile",
            "--reset-then-reuse-values",
        ];
        let changes = ["--set", "logLevel=debug", "--set", &tag];
        self.helm(&[&upgrade[..], &changes, &PATIENCE[..]].concat())
            .await?;
        let upgraded = (self.pods_below(0).await?, self.pods_below(1).await?);
        ensure!(
            upgraded == before,
            "pods moved with the upgrade: {before:?}, {upgraded:?}"
        );
        self.helm(&[&["rollback", "tensile", "1"][..], &PATIENCE[..]].concat())
            .await?;
        let back = (self.pods_below(0).await?, self.pods_below(1).await?);
        ensure!(
            back == before,
            "pods moved with the rollback: {before:?}, {back:?}"
        );
        Ok(())
    }

    pub(crate) async fn uninstall(&self, cluster: &Cluster) -> Result<()> {
        let uninstall = ["uninstall", "tensile"];
        self.helm_on(cluster, &[&uninstall[..], &PATIENCE[..]].concat())
            .await
            .map(drop)
    }

    pub(crate) async fn kubectl(&self, args: &[&str]) -> Result<String> {
        self.upper.kubectl(args).await.and_then(Output::ok)
    }

    /// kubectl in the namespace of the workload.
    pub(crate) async fn demo(&self, args: &[&str]) -> Result<String> {
        self.kubectl(&[&["-n", DEMO], args].concat()).await
    }

    pub(crate) async fn demo_apply(&self, object: &Value) -> Result<()> {
        self.upper.apply(&object.to_string()).await
    }

    fn command(&self, cluster: &Cluster, program: &str) -> Command {
        let folder = self.upper.folder();
        let mut command = Command::new(program);
        command
            .current_dir(folder)
            .env("PATH", &self.path)
            .env("HOME", folder)
            .env("KUBECONFIG", cluster.kubeconfig())
            .env("REPOSITORY", image::REPOSITORY)
            .env("WORKLOAD", BUSYBOX_IMAGE)
            .kill_on_drop(true);
        command
    }

    /// A namespace for the workload that takes part; its pods pass the webhook.
    pub(crate) async fn make_demo(&self) -> Result<()> {
        let labels = json!({"virtual-pod": "true"});
        let namespace =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": DEMO, "labels": labels}});
        self.upper.apply(&namespace.to_string()).await?;
        let client = self.upper.client().await?;
        support::service_account(&client, DEMO).await?;
        // kube-proxy may pass nothing on for a second after the webhook's pods are Ready (its `minSyncPeriod`).
        let pods: Api<Pod> = Api::namespaced(client, DEMO);
        let pod = json!({"metadata": {"name": "dry-run"}, "spec": {"containers": mk_containers()}});
        let pod: Pod = serde_json::from_value(pod)?;
        support::await_condition("the webhook to be reached", DEADLINE, || async {
            Ok(Some(support::dry_run(&pods, &pod).await?))
        })
        .await
        .map(drop)
    }

    /// UID and restarts of the workload's pods in the lower cluster with this number.
    pub(crate) async fn pods_below(&self, number: usize) -> Result<Vec<(String, i32)>> {
        let pods: Api<Pod> = Api::namespaced(self.lower[number].client().await?, DEMO);
        let alive = pods.list(&ListParams::default()).await?.into_iter();
        let mut found: Vec<_> = alive
            .filter(|pod| pod.metadata.deletion_timestamp.is_none())
            .map(|pod| {
                let statuses = pod.status.and_then(|status| status.container_statuses);
                let restarts = statuses.into_iter().flatten().map(|one| one.restart_count).sum();
                (pod.metadata.uid.unwrap_or_default(), restarts)
            })
            .collect();
        found.sort();
        Ok(found)
    }
}

/// The containers of a pod that says hello and then waits, and asks for little.
pub(crate) fn mk_containers() -> Value {
    let command = [
        "sh",
        "-c",
        "trap 'exit 0' TERM; echo hello; while :; do sleep 1; done",
    ];
    json!([{"name": "c", "image": BUSYBOX_IMAGE, "command": command, "resources": {"requests": {"cpu": "10m"}}}])
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
