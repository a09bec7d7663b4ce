//! The chart: every combination of its switches is accepted, wrong values are refused, and the roles that it grants
//! are enough for the components.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use e2e::{
    Binaries, Cluster, ClusterSpec, NodeTemplate, PortLease, TestResult, support,
    virtual_node::VirtualNodeSpec,
};
use k8s_openapi::api::{
    admissionregistration::v1::MutatingWebhookConfiguration,
    core::v1::{ConfigMap, Namespace, Pod, Secret},
};
use kube::{
    Api,
    api::{DeleteParams, Patch, PatchParams},
};
use serde_json::{Value, json};
use tensile_runtime::shutdown::Shutdown;
use tokio::process::Command;

const DEADLINE: Duration = Duration::from_secs(60);

/// The release's namespace, which the components take from there.
const NAMESPACE: &str = "tensile-system";

const CLUSTER_A: &str = "virtualNode.clusters[0].name=a,virtualNode.clusters[0].secretName=lower-a";

/// What can be switched, as values; all combinations of them are tried.
const SWITCHES: [&str; 6] = [
    "virtualNode.enabled=false",
    "webhook.enabled=false",
    CLUSTER_A,
    "virtualNode.clusters[1].name=b,virtualNode.clusters[1].secretName=lower-b,virtualNode.clusters[1].nodeName=west,\
     virtualNode.clusters[1].clusterID=W,virtualNode.clusters[1].nodeLabel=team:blue,\
     virtualNode.clusters[1].extraArgs[0]=--pod-workers=8",
    "webhook.tls.secretName=cert,webhook.tls.caBundle=ca,virtualNode.tlsSecretName=cert,\
     webhook.annotations.cert-manager\\.io/inject-ca-from=tensile-system/cert",
    "webhook.replicas=1,priorityClassName=high,nodeSelector.disk=ssd,tolerations[0].operator=Exists,podLabels.a=b,\
     podAnnotations.c=d,imagePullSecrets[0].name=pull,fullnameOverride=other,image.tag=v1,ignoreSelectorKeys={a,b}",
];

fn chart() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../charts/tensile"))
}

/// Runs helm on the chart; its standard output, or as an error what it complained about.
async fn helm(args: &[&str], sets: &[&str]) -> Result<String> {
    let binary = Binaries::obtain().await?.path("helm");
    let mut command = Command::new(binary);
    command.args(args).arg(chart()).args(["--namespace", NAMESPACE]);
    sets.iter().for_each(|set| {
        command.args(["--set", set]);
    });
    let output = command.output().await.context("cannot run helm")?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(
        output.status.success(),
        "helm {sets:?}: {}{}",
        text(&output.stderr),
        text(&output.stdout)
    );
    Ok(text(&output.stdout))
}

async fn mk_system_namespace(cluster: &Cluster) -> Result<()> {
    let namespaces = Api::<Namespace>::all(cluster.client().await?);
    support::create(&namespaces, json!({"metadata": {"name": NAMESPACE}}))
        .await
        .map(drop)
}

/// The subset of [`SWITCHES`] that the bits of `number` choose. The second cluster needs the first before it.
fn combination(number: usize) -> Vec<&'static str> {
    let chosen = SWITCHES
        .iter()
        .enumerate()
        .filter(|(bit, _)| number & (1 << bit) != 0);
    chosen.map(|(_, set)| *set).collect()
}

fn combinations() -> impl Iterator<Item = (usize, Vec<&'static str>)> {
    let all = (0..1 << SWITCHES.len()).map(|number| (number, combination(number)));
    all.filter(|(_, sets)| !sets.contains(&SWITCHES[3]) || sets.contains(&CLUSTER_A))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_takes_every_combination_of_switches() -> TestResult {
    let cluster = Cluster::start(
        ClusterSpec::new("chart")
            .without_scheduler()
            .without_controller_manager(),
    )
    .await?;
    mk_system_namespace(&cluster).await?;
    let mut manifests = String::new();
    for (number, mut sets) in combinations() {
        // Another name for every release, so that one request holds them all.
        let (release, name) = (format!("r{number}"), format!("fullnameOverride=r{number}"));
        sets.push(&name);
        manifests.push_str(&helm(&["template", &release], &sets).await?);
    }
    // Both ends of the table: all on, and nothing but notes.
    assert!(
        manifests.contains("name: r60-vn-b") && !manifests.contains("name: r3-"),
        "{manifests}"
    );
    let answer = cluster
        .kubectl_with_input(
            &["apply", "--dry-run=server", "--validate=strict", "-f", "-"],
            &manifests,
        )
        .await?
        .ok()?;
    assert!(answer.contains("deployment.apps/r60-vn-b created"), "{answer}");
    Ok(())
}

#[tokio::test]
async fn lint_finds_nothing() -> TestResult {
    for sets in [vec![], SWITCHES[2..].to_vec()] {
        let report = helm(&["lint", "--strict"], &sets).await?;
        assert!(report.contains("0 chart(s) failed"), "{report}");
    }
    Ok(())
}

#[tokio::test]
async fn wrong_values_are_refused_by_name() -> TestResult {
    for (wrong, named) in [
        ("webhook.replicas=0", "replicas"),
        ("webhook.replica=1", "replica"),
        ("webhook.failurePolicy=fail", "failurePolicy"),
        ("webhook.whenUnreachable=never", "whenUnreachable"),
        ("virtualNode.clusters[0].name=a", "secretName"),
        (
            "virtualNode.clusters[0].name=A,virtualNode.clusters[0].secretName=s",
            "name",
        ),
        ("image.repository=", "repository"),
        ("logFormat=xml", "logFormat"),
    ] {
        let refusal = helm(&["template", "r"], &[wrong])
            .await
            .err()
            .map(|error| error.to_string());
        let refusal = refusal.with_context(|| format!("{wrong} was taken"))?;
        assert!(
            refusal.contains("schema") && refusal.contains(named),
            "{wrong}: {refusal}"
        );
    }
    Ok(())
}

/// A kubeconfig with the rights of a service account.
fn mk_service_account(cluster: &Cluster, name: &str) -> Result<std::path::PathBuf> {
    let groups = ["system:serviceaccounts", "system:authenticated"];
    cluster.kubeconfig_for(&format!("system:serviceaccount:{NAMESPACE}:{name}"), &groups)
}

/// Requests of the service account that were refused for want of rights, as `verb path`.
fn forbidden(cluster: &Cluster, account: &str) -> Result<Vec<String>> {
    let user = format!("system:serviceaccount:{NAMESPACE}:{account}");
    let log = fs::read_to_string(cluster.audit_log())?;
    let events = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let of_user: Vec<Value> = events
        .filter(|event| event["user"]["username"] == *user)
        .collect();
    ensure!(!of_user.is_empty(), "{user} asked for nothing");
    let refused = of_user
        .iter()
        .filter(|event| event["responseStatus"]["code"] == 403);
    Ok(refused
        .map(|event| format!("{} {}", event["verb"], event["requestURI"]))
        .collect())
}

fn mk_pod() -> Value {
    json!({
        "metadata": {"name": "web"},
        "spec": {
            "tolerations": [{"key": "virtual-kubelet.io/provider", "operator": "Exists"}],
            "volumes": [{"name": "config", "configMap": {"name": "config"}}],
            "containers": [{
                "name": "web", "image": "web:1",
                "volumeMounts": [{"name": "config", "mountPath": "/config"}],
                "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "a"}}}],
            }],
        },
    })
}

/// Has everything done that changes something: creates, renews, patches, streams and deletes.
async fn exercise(upper: &Cluster, lower: &Cluster) -> Result<()> {
    let client = upper.client().await?;
    let namespace = support::temp_namespace(&client).await?;
    let objects = json!({"apiVersion": "v1", "kind": "List", "items": [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "config", "namespace": namespace}, "data": {"a": "1"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "secret", "namespace": namespace}, "stringData": {"a": "1"}},
    ]});
    upper.apply(&objects.to_string()).await?;
    let pods = Api::<Pod>::namespaced(client.clone(), &namespace);
    support::await_condition("the default service account", DEADLINE, || async {
        support::create(&pods, mk_pod()).await.map(Some)
    })
    .await?;
    support::pod_running(&client, &namespace, "web", DEADLINE).await?;
    upper.kubectl(&["-n", &namespace, "logs", "web"]).await?.ok()?;
    upper
        .kubectl(&["-n", &namespace, "exec", "web", "--", "true"])
        .await?
        .ok()?;

    let change = json!({"metadata": {"labels": {"new": "yes"}}, "spec": {"containers": [{"name": "web", "image": "web:2"}]}});
    pods.patch("web", &PatchParams::default(), &Patch::Strategic(change))
        .await?;
    upper
        .kubectl(&[
            "-n",
            &namespace,
            "patch",
            "configmap",
            "config",
            "-p",
            r#"{"data": {"a": "2"}}"#,
        ])
        .await?
        .ok()?;
    let below_client = lower.client().await?;
    let below = Api::<Pod>::namespaced(below_client.clone(), &namespace);
    let maps = Api::<ConfigMap>::namespaced(below_client.clone(), &namespace);
    let secrets = Api::<Secret>::namespaced(below_client, &namespace);
    support::await_condition("the change below", DEADLINE, || async {
        let pod = serde_json::to_value(below.get("web").await?)?;
        let data = maps.get("config").await?.data.unwrap_or_default();
        let carried = pod["spec"]["containers"][0]["image"] == "web:2" && data["a"] == "2";
        Ok(carried.then_some(()))
    })
    .await?;
    pods.delete("web", &DeleteParams::default()).await?;
    support::pod_gone(&client, &namespace, "web", DEADLINE).await?;
    support::await_condition("the copies to be removed", DEADLINE, || async {
        Ok(secrets.get_opt("secret").await?.is_none().then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_roles_are_enough_for_a_virtual_node() -> TestResult {
    let (upper, lower) = tokio::try_join!(
        Cluster::start(ClusterSpec::new("rights-upper").with_audit_log()),
        Cluster::start(ClusterSpec::new("rights-lower").with_audit_log()),
    )?;
    lower.kwok(1, NodeTemplate::default()).await?;
    lower.add_kwok_log("hello")?;
    mk_system_namespace(&upper).await?;
    upper
        .apply(&helm(&["template", "tensile"], &[CLUSTER_A, "webhook.enabled=false"]).await?)
        .await?;
    lower
        .apply(&fs::read_to_string(chart().join("files/lower-role.yaml"))?)
        .await?;
    let node = VirtualNodeSpec::new("vn-a")
        .upper_kubeconfig(mk_service_account(&upper, "tensile-virtual-node")?)
        .lower_kubeconfig(mk_service_account(&lower, "tensile")?)
        .start(&upper, &lower)
        .await?;
    exercise(&upper, &lower).await?;
    drop(node);
    let refused = [
        forbidden(&upper, "tensile-virtual-node")?,
        forbidden(&lower, "tensile")?,
    ];
    assert!(refused.iter().all(Vec::is_empty), "{refused:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_roles_are_enough_for_a_webhook_that_makes_its_own_certificate() -> TestResult {
    let upper = Cluster::start(
        ClusterSpec::new("webhook-rights")
            .without_scheduler()
            .with_audit_log(),
    )
    .await?;
    mk_system_namespace(&upper).await?;
    upper.apply(&helm(&["template", "tensile"], &[]).await?).await?;
    let kubeconfig = mk_service_account(&upper, "tensile-webhook")?;
    let (listen, admin) = (PortLease::take()?, PortLease::take()?);
    let address = |port: &PortLease| SocketAddr::from(([127, 0, 0, 1], port.port()));
    let flags = [
        "tensile-webhook".to_owned(),
        "--self-signed".to_owned(),
        "--webhook-configuration=tensile".to_owned(),
        format!("--kubeconfig={}", kubeconfig.display()),
        format!("--listen={}", address(&listen)),
        format!("--admin-listen={}", address(&admin)),
    ];
    let shutdown = Shutdown::default();
    let webhook = tokio::spawn(tensile_webhook::run(
        tensile_webhook::Args::try_parse_from(flags)?,
        shutdown.clone(),
    ));

    let configurations = Api::<MutatingWebhookConfiguration>::all(upper.client().await?);
    support::await_condition("the CA in every entry, and readiness", DEADLINE, || async {
        let entries = configurations.get("tensile").await?.webhooks.unwrap_or_default();
        let published = !entries.is_empty()
            && entries
                .iter()
                .all(|entry| entry.client_config.ca_bundle.is_some());
        let (status, page) = support::http_get(address(&admin), "/readyz").await?;
        ensure!(status == 200, "{page}");
        Ok(published.then_some(()))
    })
    .await?;
    shutdown.trigger();
    webhook.await??;
    let refused = forbidden(&upper, "tensile-webhook")?;
    assert!(refused.is_empty(), "{refused:#?}");
    Ok(())
}
