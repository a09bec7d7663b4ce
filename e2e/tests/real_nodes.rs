//! Clusters with a real node: containers run, and the network can be cut.

use std::{fs, path::Path, time::Duration};

use anyhow::Result;
use e2e::{BUSYBOX_IMAGE, Cluster, ClusterSpec, TestResult, real_nodes_or_report, support};
use serde_json::{Value, json};

const DEADLINE: Duration = Duration::from_secs(90);

fn mk_web() -> String {
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "web", "labels": {"app": "web"}},
        "spec": {"terminationGracePeriodSeconds": 1, "containers": [{
            "name": "web",
            "image": BUSYBOX_IMAGE,
            "command": ["sh", "-c", "mkdir /www && echo hello from $POD > /www/index.html && echo serving && exec httpd -f -h /www"],
            "env": [{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
        }]},
    });
    let service = json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"clusterIP": "10.96.0.80", "selector": {"app": "web"}, "ports": [{"port": 80}]},
    });
    list(&[pod, service])
}

fn mk_client() -> String {
    let command = ["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1; done"];
    list(&[json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "client"},
        "spec": {"terminationGracePeriodSeconds": 1,
                 "containers": [{"name": "client", "image": BUSYBOX_IMAGE, "command": command}]},
    })])
}

fn list(items: &[Value]) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

async fn run_pod(cluster: &Cluster, manifests: &str, name: &str) -> Result<()> {
    cluster.apply(manifests).await?;
    support::pod_running(&cluster.client().await?, "default", name, DEADLINE)
        .await
        .map(drop)
}

async fn fetch(cluster: &Cluster, url: &str) -> Result<String> {
    let what = format!("an answer from {url}");
    support::await_condition(&what, DEADLINE, || async {
        // Not wget's own -T: with it Debian's static busybox crashes.
        let wget = [
            "exec", "client", "--", "timeout", "5", "wget", "-q", "-O", "-", url,
        ];
        cluster.kubectl(&wget).await?.ok().map(Some)
    })
    .await
}

/// The names of one kind in a cluster's registry.
fn registered(registry: &str, kind: &str) -> Vec<String> {
    registry
        .lines()
        .filter_map(|line| line.strip_prefix(kind))
        .map(|name| name.trim().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_runs_and_answers_logs_exec_and_its_service() -> TestResult {
    if !real_nodes_or_report()? {
        return Ok(());
    }
    let cluster = Cluster::start(ClusterSpec::new("real").with_real_node()).await?;
    run_pod(&cluster, &mk_web(), "web").await?;
    let logs = cluster.kubectl(&["logs", "web"]).await?.ok()?;
    assert!(logs == "serving\n", "{logs:?}");
    let exec = cluster
        .kubectl_with_input(&["exec", "-i", "web", "--", "cat"], "piped in")
        .await?
        .ok()?;
    assert!(exec == "piped in", "{exec:?}");
    let failed = cluster
        .kubectl(&["exec", "web", "--", "sh", "-c", "exit 7"])
        .await?;
    assert!(failed.status.code() == Some(7), "{failed:?}");

    run_pod(&cluster, &mk_client(), "client").await?;
    let page = fetch(&cluster, "http://10.96.0.80/").await?;
    assert!(page == "hello from web\n", "{page:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_cut_off_heals_reaches_the_others_and_leaves_nothing() -> TestResult {
    if !real_nodes_or_report()? {
        return Ok(());
    }
    let (one, two, upper) = tokio::try_join!(
        Cluster::start(ClusterSpec::new("one").with_real_node()),
        Cluster::start(ClusterSpec::new("two").with_real_node()),
        Cluster::start(
            ClusterSpec::new("upper")
                .reachable_from_pods()
                .without_scheduler()
        )
    )?;
    run_pod(&one, &mk_web(), "web").await?;
    run_pod(&two, &mk_client(), "client").await?;
    let web = support::pod_running(&one.client().await?, "default", "web", DEADLINE).await?;
    let address = web.status.and_then(|status| status.pod_ip).unwrap_or_default();
    let page = fetch(&two, &format!("http://{address}/")).await?;
    assert!(page == "hello from web\n", "{page:?}");
    let upper_server = upper.api_server();
    let reach_upper = format!("nc -w 5 {} {} </dev/null", upper_server.ip(), upper_server.port());
    two.kubectl(&["exec", "client", "--", "sh", "-c", &reach_upper])
        .await?
        .ok()?;

    one.partition().await?;
    let cut_off = one
        .kubectl(&["get", "--raw=/livez", "--request-timeout=2s"])
        .await?;
    assert!(!cut_off.status.success(), "a cluster that is cut off answered");
    two.kubectl(&["get", "--raw=/livez"]).await?.ok()?;
    one.heal().await?;
    one.kubectl(&["get", "--raw=/livez", "--request-timeout=30s"])
        .await?
        .ok()?;

    let folder = one.folder().to_owned();
    let registry = fs::read_to_string(folder.join("registry"))?;
    let (namespaces, cgroups) = (registered(&registry, "netns"), registered(&registry, "cgroup"));
    assert!(!namespaces.is_empty() && !cgroups.is_empty(), "{registry}");
    drop((one, two, upper));
    assert!(!folder.exists(), "{} is still there", folder.display());
    for namespace in namespaces {
        assert!(
            !Path::new("/run/netns").join(&namespace).exists(),
            "namespace {namespace} is left"
        );
    }
    for hierarchy in fs::read_dir("/sys/fs/cgroup")? {
        let hierarchy = hierarchy?.path();
        let left = cgroups
            .iter()
            .map(|name| hierarchy.join(name))
            .find(|cgroup| cgroup.exists());
        assert!(left.is_none(), "cgroup {left:?} is left");
    }
    let mounts = fs::read_to_string("/proc/mounts")?;
    assert!(
        !mounts.contains(&folder.display().to_string()),
        "mounts are left:\n{mounts}"
    );
    Ok(())
}
