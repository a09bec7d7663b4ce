//! `kubectl tensile`, as a user runs it: kubectl finds the plugin in the PATH, and the clusters are real.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use e2e::{
    Binaries, Cluster, ClusterSpec, NodeTemplate, Output, TestResult, support,
    virtual_node::{VirtualNode, VirtualNodeSpec},
};
use k8s_openapi::api::core::v1::{Node, Pod, Secret};
use kube::{Api, api::DeleteParams};
use serde_json::{Value, json};
use tokio::process::Command;

const DEADLINE: Duration = Duration::from_secs(60);
const NAMESPACE: &str = "tensile-system";

/// One upper and one lower cluster with two nodes of four CPUs, and the plugin in a folder of its own.
struct Ground {
    upper: Cluster,
    lower: Cluster,
    path: String,
}

// === impl Ground ===

impl Ground {
    async fn make() -> Result<Self> {
        let (upper, lower) = tokio::try_join!(
            Cluster::start(ClusterSpec::new("cli-upper")),
            Cluster::start(ClusterSpec::new("cli-lower")),
        )?;
        let node = NodeTemplate::default().cpu("4").memory("8Gi");
        lower.kwok(2, node).await?;
        let folder = upper.folder().join("plugins");
        fs::create_dir(&folder)?;
        std::os::unix::fs::symlink(
            env!("CARGO_BIN_EXE_tensile-component"),
            folder.join("kubectl-tensile"),
        )?;
        let path = format!("{}:{}", folder.display(), std::env::var("PATH")?);
        Ok(Self { upper, lower, path })
    }

    /// `kubectl tensile ARGS` with the upper cluster's kubeconfig where kubectl looks for it.
    async fn tensile(&self, args: &[&str]) -> Result<Output> {
        let mut command = Command::new(Binaries::obtain().await?.path("kubectl"));
        command
            .arg("tensile")
            .args(args)
            .env("PATH", &self.path)
            .env("KUBECONFIG", self.upper.kubeconfig());
        let output = command.output().await.context("cannot run kubectl")?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok(Output {
            status: output.status,
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        })
    }

    /// Runs it and compares the exit code; standard output and standard error.
    async fn expect(&self, code: i32, args: &[&str]) -> Result<String> {
        let output = self.tensile(args).await?;
        ensure!(
            output.status.code() == Some(code),
            "{args:?} ended with {}, not {code}: {output:?}",
            output.status
        );
        Ok(output.stdout + &output.stderr)
    }

    async fn json(&self, code: i32, args: &[&str]) -> Result<Value> {
        let args: Vec<&str> = args.iter().copied().chain(["-o", "json"]).collect();
        let output = self.tensile(&args).await?;
        ensure!(
            output.status.code() == Some(code),
            "{args:?} ended with {}, not {code}: {output:?}",
            output.status
        );
        Ok(serde_json::from_str(&output.stdout)?)
    }

    fn lower_kubeconfig(&self) -> String {
        self.lower.kubeconfig().display().to_string()
    }

    async fn start_virtual_node(&self) -> Result<VirtualNode> {
        VirtualNodeSpec::new("vn-a")
            .args(["--cluster-id=a"])
            .spawn(&self.upper, &self.lower)
            .await
    }
}

fn mk_pod(name: &str, cpu: &str) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "tolerations": [{"key": "virtual-kubelet.io/provider", "operator": "Exists"}],
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu, "memory": "1Gi"}}}],
        },
    })
}

async fn joins_and_is_refused(ground: &Ground) -> Result<()> {
    support::await_condition("a virtual node without a Secret", DEADLINE, || async {
        let without_secret = ground.tensile(&["clusters"]).await?.stdout;
        ensure!(without_secret.contains("ByFile"), "{without_secret}");
        Ok(Some(()))
    })
    .await?;
    let lower = ground.lower_kubeconfig();
    let joined = ground
        .json(0, &["join", "a", "--lower-kubeconfig", &lower])
        .await?;
    assert!(
        joined["virtualNodes"][0]["name"] == "vn-a" && joined["problem"].is_null(),
        "{joined}"
    );

    let twice = ground
        .expect(1, &["join", "b", "--lower-kubeconfig", &lower])
        .await?;
    assert!(twice.contains("there already, as a"), "{twice}");
    let upper = ground.upper.kubeconfig().display().to_string();
    let itself = ground
        .expect(1, &["join", "b", "--lower-kubeconfig", &upper])
        .await?;
    assert!(itself.contains("opens the upper cluster itself"), "{itself}");
    ground.expect(2, &["join"]).await.map(drop)
}

/// The kubeconfig in the Secret is not the administrator's: it opens what the role says and nothing else.
async fn holds_no_more_rights_than_the_role(ground: &Ground) -> Result<()> {
    let secrets: Api<Secret> = Api::namespaced(ground.upper.client().await?, NAMESPACE);
    let secret = secrets.get("tensile-cluster-a").await?;
    let data = secret.data.unwrap_or_default();
    let kubeconfig: PathBuf = ground.upper.folder().join("joined.kubeconfig");
    fs::write(
        &kubeconfig,
        &data.get("kubeconfig").context("no key kubeconfig")?.0,
    )?;
    let kubectl = Binaries::obtain().await?.path("kubectl");
    for (verb, resource, allowed) in [
        ("create", "pods", true),
        ("delete", "nodes", false),
        ("get", "roles", false),
    ] {
        let answer = Command::new(&kubectl)
            .args([
                "auth",
                "can-i",
                verb,
                resource,
                "--all-namespaces",
                "--kubeconfig",
            ])
            .arg(&kubeconfig)
            .output()
            .await?;
        assert!(
            answer.status.success() == allowed,
            "{verb} {resource}: {answer:?}"
        );
    }
    Ok(())
}

async fn shows_clusters_and_pods(ground: &Ground, namespace: &str) -> Result<()> {
    let clusters = ground.json(0, &["clusters"]).await?;
    let row = &clusters["clusters"][0];
    assert!(
        row["state"] == "Ready" && row["nodes"]["ready"] == 2,
        "{clusters}"
    );

    let client = ground.upper.client().await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    for (name, cpu) in [("runs", "2"), ("huge", "5")] {
        support::create(&pods, mk_pod(name, cpu)).await?;
    }
    support::pod_running(&client, namespace, "runs", DEADLINE).await?;
    let runs = ground.expect(0, &["why", &format!("{namespace}/runs")]).await?;
    assert!(
        runs.contains("on virtual node vn-a, cluster a") && runs.contains("on node cli-lower-"),
        "{runs}"
    );
    // The virtual node has eight CPUs and no lower node has five free: the scheduler is wrong, and the plugin says so.
    let huge = support::await_condition("the pod that fits nowhere to be seen below", DEADLINE, || async {
        let huge = ground.json(3, &["why", "huge", "-n", namespace]).await?;
        ensure!(
            huge["place"]["below"]["message"]
                .as_str()
                .is_some_and(|text| text.contains("cpu")),
            "{huge}"
        );
        Ok(Some(huge))
    });
    huge.await?;
    ground.expect(1, &["why", "nobody", "-n", namespace]).await?;

    let fragments = ground.json(3, &["fragments"]).await?;
    let room = &fragments["clusters"]["a"];
    assert!(
        room["free"]["cpu"] == "6" && room["largestFragment"]["cpu"] == "4",
        "{fragments}"
    );
    assert!(fragments["waiting"][0]["fits"] == json!({}), "{fragments}");
    Ok(())
}

async fn finds_what_is_wrong(ground: &Ground) -> Result<()> {
    let well = ground.expect(0, &["doctor", "--all"]).await?;
    assert!(
        well.contains("cluster a: all rights are there") && well.contains("0 errors"),
        "{well}"
    );
    assert!(well.contains("warning  webhook: is not registered"), "{well}");

    let secrets: Api<Secret> = Api::namespaced(ground.upper.client().await?, NAMESPACE);
    let broken = json!({
        "metadata": {"name": "broken", "labels": {"tensile.dev/cluster": "broken"}},
        "stringData": {"kubeconfig": "nonsense"},
    });
    support::create(&secrets, broken).await?;
    let wrong = ground.json(3, &["doctor"]).await?;
    let findings = wrong["findings"].as_array().context("no findings")?;
    let found = findings
        .iter()
        .find(|finding| finding["subject"] == "cluster broken");
    let found = found.context("the broken cluster was not found")?;
    assert!(found["level"] == "error" && found["remedy"] != "", "{found}");
    secrets.delete("broken", &DeleteParams::default()).await?;
    Ok(())
}

async fn drains_and_leaves(ground: &Ground, node: VirtualNode, namespace: &str) -> Result<()> {
    let refused = ground.expect(1, &["drain", "a"]).await?;
    assert!(
        refused.contains(&format!("{namespace}/runs")) && refused.contains("--force"),
        "{refused}"
    );
    let drained = ground.json(0, &["drain", "vn-a", "--force"]).await?;
    assert!(
        drained["evicted"].as_array().map(Vec::len) == Some(2) && drained["remaining"] == json!([]),
        "{drained}"
    );
    let nodes: Api<Node> = Api::all(ground.upper.client().await?);
    let cordoned = nodes.get("vn-a").await?.spec.and_then(|spec| spec.unschedulable);
    assert!(cordoned == Some(true), "vn-a is not cordoned");

    drop(node);
    nodes.delete("vn-a", &DeleteParams::default()).await?;
    ground.expect(0, &["leave", "a"]).await?;
    ground.expect(1, &["leave", "a"]).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_joins_is_looked_at_is_drained_and_leaves() -> TestResult {
    let ground = Ground::make().await?;
    let none = ground.expect(0, &["clusters"]).await?;
    assert!(none.contains("no lower cluster yet"), "{none}");
    let node = ground.start_virtual_node().await?;
    joins_and_is_refused(&ground).await?;
    holds_no_more_rights_than_the_role(&ground).await?;
    let namespace = support::namespace_for_pods(&ground.upper.client().await?).await?;
    shows_clusters_and_pods(&ground, &namespace).await?;
    finds_what_is_wrong(&ground).await?;
    drains_and_leaves(&ground, node, &namespace).await?;
    let script = ground.expect(0, &["completion", "bash"]).await?;
    assert!(script.contains("kubectl-tensile"), "{script}");
    Ok(())
}
