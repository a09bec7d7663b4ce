//! The chart: every combination of its switches is accepted, wrong values are refused, and the roles that it grants
//! are enough for the components.

use std::{collections::BTreeSet, fs, net::SocketAddr, path::Path, time::Duration};

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

/// What can be switched, as values; all combinations of them are tried.
const SWITCHES: [&str; 7] = [
    "virtualNode.enabled=false",
    "webhook.enabled=false",
    "clusters[0].id=a,clusters[0].kubeconfig=a,clusters[1].id=b,clusters[1].kubeconfig=b,\
     clusters[1].nodes[0].name=b-gpu,clusters[1].nodes[0].selector.matchLabels.gpu=yes,\
     clusters[1].overrides[0].patch[0].op=remove",
    "descheduler.enabled=true,descheduler.dryRun=true,descheduler.policy.apiVersion=descheduler/v1alpha2",
    "scheduler.enabled=true",
    "webhook.tls.secretName=cert,webhook.tls.caBundle=ca,virtualNode.tlsSecretName=cert,scheduler.tlsSecretName=cert,webhook.replicas=1,\
     webhook.annotations.cert-manager\\.io/inject-ca-from=tensile-system/cert,webhook.excludedNamespaces={infra},\
     priorityClassName=,nodeSelector.disk=ssd,tolerations[0].operator=Exists,podLabels.a=b,podAnnotations.c=d,\
     imagePullSecrets[0].name=pull,fullnameOverride=other,image.tag=v1,ignoreSelectorKeys={a,b},\
     scheduler.mode=replacement",
    "networkPolicy.enabled=true,monitoring.podMonitor.enabled=true,monitoring.alerts.enabled=true,\
     monitoring.dashboard.enabled=true,test.enabled=false,uninstall.leave=false,virtualNode.replicas=1,\
     virtualNode.extraArgs[0]=--pod-workers=8",
];

/// Kinds of the Prometheus operator, as far as an API server must know them.
const OPERATOR_KINDS: [(&str, &str); 2] = [
    ("PodMonitor", "podmonitors"),
    ("PrometheusRule", "prometheusrules"),
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

/// The subset of [`SWITCHES`] that the bits of `number` choose.
fn combination(number: usize) -> Vec<&'static str> {
    let chosen = SWITCHES
        .iter()
        .enumerate()
        .filter(|(bit, _)| number & (1 << bit) != 0);
    chosen.map(|(_, set)| *set).collect()
}

/// The objects of all combinations: most combinations share most of them.
async fn distinct_objects() -> Result<BTreeSet<String>> {
    let mut objects = BTreeSet::new();
    for number in 0..1 << SWITCHES.len() {
        let manifests = helm(&["template", "tensile"], &combination(number)).await?;
        let documents = manifests
            .split("\n---\n")
            .map(|text| text.trim_start_matches("---").trim());
        objects.extend(documents.filter(|text| text.contains("kind:")).map(str::to_owned));
    }
    Ok(objects)
}

fn mk_definition(kind: &str, plural: &str) -> Value {
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.monitoring.coreos.com")},
        "spec": {
            "group": "monitoring.coreos.com", "scope": "Namespaced", "names": {"kind": kind, "plural": plural},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {
                "type": "object", "x-kubernetes-preserve-unknown-fields": true,
            }}}],
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_takes_every_combination_of_switches() -> TestResult {
    let cluster = Cluster::start(
        ClusterSpec::new("chart")
            .without_scheduler()
            .without_controller_manager()
            // There is nobody who makes service accounts, and hooks are pods.
            .api_server_args(["--disable-admission-plugins=ServiceAccount"]),
    )
    .await?;
    mk_system_namespace(&cluster).await?;
    for (kind, plural) in OPERATOR_KINDS {
        cluster.apply(&mk_definition(kind, plural).to_string()).await?;
    }
    let objects = distinct_objects().await?;
    assert!(objects.len() > 60, "{}", objects.len());
    let manifests: Vec<String> = objects.into_iter().collect();
    let manifests = manifests.join("\n---\n");
    support::await_condition("all objects to be taken", DEADLINE, || async {
        // The kinds of the operator may not be served yet.
        let apply = ["apply", "--dry-run=server", "--validate=strict", "-f", "-"];
        cluster
            .kubectl_with_input(&apply, &manifests)
            .await?
            .ok()
            .map(Some)
    })
    .await
    .map(|answer| {
        for expected in [
            "deployment.apps/tensile-virtual-node",
            "secret/tensile-cluster-b",
            "job.batch/tensile-leave",
            "validatingadmissionpolicy.admissionregistration.k8s.io/tensile-virtual-node.tensile-system",
            "deployment.apps/tensile-scheduler",
            "pod/tensile-test",
            "deployment.apps/tensile-descheduler",
        ] {
            assert!(answer.contains(&format!("{expected} created")), "{answer}");
        }
    })?;
    Ok(())
}

/// Alerts and dashboard ask for metrics that the components have.
#[tokio::test]
async fn alerts_and_dashboard_name_only_metrics_that_exist() -> TestResult {
    let alerts = helm(
        &["template", "tensile"],
        &["monitoring.alerts.enabled=true,monitoring.dashboard.enabled=true"],
    )
    .await?;
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = alerts
        .split(|c: char| !is_word(c))
        .filter(|word| word.starts_with("tensile_"));
    let asked: BTreeSet<&str> = words.collect();
    assert!(asked.len() > 8, "{asked:?}");
    let source = sources(&chart().join("../../crates"))?;
    let unknown: Vec<_> = asked
        .into_iter()
        .map(|name| name.trim_end_matches("_bucket").trim_end_matches("_count"))
        .filter(|name| !source.contains(&format!("\"{name}\"")))
        // These names are put together.
        .filter(|name| {
            !name
                .strip_prefix("tensile_kubelet_")
                .is_some_and(|rest| source.contains(&format!("\"{rest}\"")))
        })
        .collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    Ok(())
}

/// All Rust files below a folder.
fn sources(folder: &Path) -> Result<String> {
    let mut text = String::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            text += &sources(&path)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &fs::read_to_string(&path)?;
        }
    }
    Ok(text)
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
        ("clusters[0].id=a", "kubeconfig"),
        ("clusters[0].id=A,clusters[0].kubeconfig=k", "id"),
        ("clusters[0].id=a,clusters[0].kubeconfig=", "kubeconfig"),
        (
            "clusters[0].id=a,clusters[0].kubeconfig=k,clusters[0].nodeName=n",
            "nodeName",
        ),
        (
            "clusters[0].id=a,clusters[0].kubeconfig=k,clusters[0].nodes[0].label=x",
            "label",
        ),
        (
            "clusters[0].id=a,clusters[0].kubeconfig=k,clusters[0].overrides[0].selector=x",
            "patch",
        ),
        ("virtualNode.replicas=0", "replicas"),
        ("virtualNode.clusters[0]=a", "clusters"),
        ("uninstall.timeout=2m", "timeout"),
        ("image.repository=", "repository"),
        ("logFormat=xml", "logFormat"),
        ("scheduler.mode=third", "mode"),
        ("scheduler.weight=0", "weight"),
        ("scheduler.httpTimeout=2", "httpTimeout"),
        ("webhook.resources.request.cpu=1", "request"),
        ("webhook.excludedNamespaces={A}", "excludedNamespaces"),
        ("virtualNode.extraArgs={pod-workers=8}", "extraArgs"),
        ("descheduler.interval=0s", "interval"),
        ("monitoring.podMonitor.interval=often", "interval"),
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

/// What the role of a virtual node would let it do to any Node, the admission policy lets it do to its own kind only.
async fn nodes_of_others_are_out_of_reach(upper: &Cluster) -> Result<()> {
    let account = format!("system:serviceaccount:{NAMESPACE}:tensile-virtual-node");
    let try_on = async |node: &str, args: &[&str]| {
        let head = ["--as", &account, "--dry-run=server"];
        upper
            .kubectl(&[&args[..1], &["node", node], &args[1..], &head].concat())
            .await
    };
    let foreign = r#"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "foreign"}}"#;
    upper.apply(foreign).await?;
    let delete: &[&str] = &["delete"];
    let disguise: &[&str] = &["label", "type=virtual-kubelet"];
    for act in [delete, disguise] {
        support::await_condition("the policy to act", DEADLINE, || async {
            let refused = try_on("foreign", act).await?.stderr;
            ensure!(refused.contains("type=virtual-kubelet only"), "{refused}");
            Ok(Some(()))
        })
        .await?;
    }
    try_on("vn-a", delete).await?.ok()?;
    try_on("vn-a", &["label", "more=yes"]).await?.ok().map(drop)
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
        .apply(&helm(&["template", "tensile", "--no-hooks"], &["webhook.enabled=false"]).await?)
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
    nodes_of_others_are_out_of_reach(&upper).await?;
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
    upper
        .apply(&helm(&["template", "tensile", "--no-hooks"], &[]).await?)
        .await?;
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
