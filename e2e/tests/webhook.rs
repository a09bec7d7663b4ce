//! The real webhook, called by a real API server over TLS.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use e2e::virtual_node::VirtualNodeSpec;
use e2e::webhook::{CONFIGURATION, Webhook, register};
use e2e::{Cluster, ClusterSpec, NodeTemplate, TestResult, support};
use k8s_openapi::api::admissionregistration::v1::MutatingWebhookConfiguration;
use k8s_openapi::api::apps::v1::{DaemonSet, Deployment, ReplicaSet, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Node, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tensile_core::names;

const DEADLINE: Duration = Duration::from_secs(60);

/// A pod template that takes part and has a constraint for lower nodes.
fn mk_template(app: &str) -> Value {
    json!({
        "metadata": {"labels": {"app": app, names::VIRTUAL_POD: "true"}},
        "spec": {
            "nodeSelector": {"disk": "ssd"},
            "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "10m"}}}],
        },
    })
}

fn mk_pod(name: &str, spec: &Value) -> Value {
    let mut pod = mk_template("bare");
    pod["metadata"]["name"] = name.into();
    pod["spec"] = spec.clone();
    pod["spec"]["containers"] = json!([{"name": "c", "image": "i"}]);
    pod
}

fn stash_of(pod: &Value) -> Result<Value> {
    let text = pod["metadata"]["annotations"][names::CLUSTER_SELECTOR].as_str();
    Ok(serde_json::from_str(
        text.with_context(|| format!("no stash: {pod}"))?,
    )?)
}

fn bears(pod: &Value, key: &str) -> bool {
    pod["spec"]["tolerations"]
        .as_array()
        .is_some_and(|list| list.iter().any(|one| one["key"] == key))
}

async fn create_pod(client: &Client, namespace: &str, pod: Value) -> Result<Value> {
    Ok(serde_json::to_value(
        support::create(&Api::<Pod>::namespaced(client.clone(), namespace), pod).await?,
    )?)
}

/// The first pod of an app.
async fn pod_of(client: &Client, namespace: &str, app: &str) -> Result<Value> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pod = support::await_condition(&format!("a pod of {app}"), DEADLINE, || async {
        Ok(pods
            .list(&ListParams::default().labels(&format!("app={app}")))
            .await?
            .items
            .pop())
    })
    .await?;
    Ok(serde_json::to_value(pod)?)
}

/// Makes one of each workload and checks its pods.
async fn check_workloads(client: &Client, namespace: &str) -> Result<()> {
    let spec = |app: &str| json!({"selector": {"matchLabels": {"app": app}}, "template": mk_template(app)});
    let object = |app: &str, spec: Value| json!({"metadata": {"name": app}, "spec": spec});
    let mut job = mk_template("job");
    job["spec"]["restartPolicy"] = "Never".into();
    let mut daemon = mk_template("daemon");
    daemon["spec"]["nodeSelector"] = json!({});
    let daemon_spec = json!({"selector": {"matchLabels": {"app": "daemon"}}, "template": daemon});
    let api = client.clone();
    support::create(
        &Api::<Deployment>::namespaced(api.clone(), namespace),
        object("web", spec("web")),
    )
    .await?;
    support::create(
        &Api::<StatefulSet>::namespaced(api.clone(), namespace),
        object("db", spec("db")),
    )
    .await?;
    support::create(
        &Api::<Job>::namespaced(api.clone(), namespace),
        object("job", json!({"template": job})),
    )
    .await?;
    support::create(
        &Api::<DaemonSet>::namespaced(api, namespace),
        object("daemon", daemon_spec),
    )
    .await?;
    for app in ["web", "db", "job"] {
        let pod = pod_of(client, namespace, app).await?;
        ensure!(
            stash_of(&pod)?["nodeSelector"] == json!({"disk": "ssd"}),
            "{app}: {pod}"
        );
        ensure!(
            pod["spec"]["nodeSelector"].is_null() && bears(&pod, names::PROVIDER_TAINT),
            "{app}: {pod}"
        );
    }
    let daemon = pod_of(client, namespace, "daemon").await?;
    ensure!(
        daemon["metadata"]["annotations"].is_null() && !bears(&daemon, names::PROVIDER_TAINT),
        "{daemon}"
    );
    Ok(())
}

/// A pod with every constraint there is keeps above what acts above, and the API server accepts what is left.
async fn check_every_constraint(client: &Client, namespace: &str) -> Result<()> {
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    let expression = |key: &str, operator: &str, values: &[&str]| json!({"key": key, "operator": operator, "values": values});
    let term = |list: &[Value]| json!({"matchExpressions": list});
    let apart = |key: &str| json!({"topologyKey": key, "labelSelector": {"matchLabels": {"app": "bare"}}});
    let spread = |key: &str| {
        json!({"topologyKey": key, "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"app": "bare"}}})
    };
    let mixed = term(&[
        expression("clusterID", "In", &["a", "b"]),
        expression("zone", "NotIn", &["x"]),
        expression("gpu", "Exists", &[]),
        expression("old", "DoesNotExist", &[]),
        expression("cores", "Gt", &["3"]),
        expression("age", "Lt", &["9"]),
    ]);
    let field = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}],
        "matchExpressions": [expression("clusterID", "In", &["c"])]});
    let wish = |term: Value| json!({"weight": 5, "preference": term});
    let spec = json!({
        "nodeSelector": {"clusterID": "a", "disk": "ssd"},
        "affinity": {
            "nodeAffinity": {
                required: {"nodeSelectorTerms": [mixed, field]},
                preferred: [wish(term(&[expression("zone", "In", &["y"])])), wish(term(&[expression("clusterID", "In", &["a"])]))],
            },
            "podAffinity": {preferred: [{"weight": 1, "podAffinityTerm": apart(names::HOSTNAME)}]},
            "podAntiAffinity": {required: [apart(names::HOSTNAME), apart("zone")]},
        },
        "tolerations": [{"key": "gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "topologySpreadConstraints": [spread(names::HOSTNAME), spread("zone")],
    });
    let pod = create_pod(client, namespace, mk_pod("everything", &spec)).await?;
    let (upper, stash) = (&pod["spec"], stash_of(&pod)?);
    ensure!(upper["nodeSelector"] == json!({"clusterID": "a"}), "{upper}");
    let above = &upper["affinity"]["nodeAffinity"][required]["nodeSelectorTerms"];
    ensure!(
        *above
            == json!([
                term(&[expression("clusterID", "In", &["a", "b"])]),
                term(&[expression("clusterID", "In", &["c"])])
            ]),
        "{above}"
    );
    ensure!(
        upper["affinity"]["podAntiAffinity"][required] == json!([apart("zone")]),
        "{upper}"
    );
    ensure!(
        upper["affinity"]["podAffinity"] == spec["affinity"]["podAffinity"],
        "{upper}"
    );
    ensure!(
        upper["topologySpreadConstraints"]
            .as_array()
            .is_some_and(|list| list.len() == 1),
        "{upper}"
    );
    ensure!(stash["nodeSelector"] == json!({"disk": "ssd"}), "{stash}");
    let below = stash["affinity"]["nodeAffinity"][required]["nodeSelectorTerms"]
        .as_array()
        .map(Vec::len);
    ensure!(below == Some(2), "{stash}");
    ensure!(
        stash["affinity"]["podAntiAffinity"][required] == json!([apart(names::HOSTNAME)]),
        "{stash}"
    );
    ensure!(
        stash["topologySpreadConstraints"][0]["topologyKey"] == names::HOSTNAME,
        "{stash}"
    );
    // What un-stashing writes when nothing can match is accepted, too.
    let never = json!({"affinity": {"nodeAffinity": {required: {"nodeSelectorTerms": [{}]}}}});
    let mut pod = mk_pod("never", &never);
    pod["metadata"]["labels"] = json!({});
    create_pod(client, namespace, pod).await?;
    Ok(())
}

async fn check_who_takes_part(client: &Client, namespace: &str) -> Result<()> {
    let constrained = json!({"nodeSelector": {"disk": "ssd"}});
    let mut plain = mk_pod("plain", &constrained);
    plain["metadata"]["labels"] = json!({"app": "plain"});
    let system = create_pod(client, names::KUBE_SYSTEM, mk_pod("system", &constrained)).await?;
    let own = create_pod(client, names::SYSTEM_NAMESPACE, mk_pod("own", &constrained)).await?;
    let plain_pod = create_pod(client, namespace, plain.clone()).await?;
    for pod in [system, own, plain_pod] {
        ensure!(
            pod["metadata"]["annotations"].is_null() && pod["spec"]["nodeSelector"]["disk"] == "ssd",
            "{pod}"
        );
    }
    let labelled = json!({"metadata": {"generateName": "virtual-", "labels": {names::VIRTUAL_POD: "true"},
        "annotations": {names::WHEN_UNREACHABLE: "stay"}}});
    let labelled = support::create(&Api::<Namespace>::all(client.clone()), labelled).await?;
    let labelled = labelled.metadata.name.context("no name")?;
    // At once, when the webhook's watch has hardly seen the namespace.
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
        Api::namespaced(client.clone(), &labelled);
    support::create(&accounts, json!({"metadata": {"name": "early"}})).await?;
    plain["spec"]["serviceAccountName"] = "early".into();
    let pod = create_pod(client, &labelled, plain).await?;
    ensure!(pod["metadata"]["labels"][names::VIRTUAL_POD] == "true", "{pod}");
    let tolerations = pod["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
    let limited = tolerations
        .iter()
        .filter(|one| !one["tolerationSeconds"].is_null())
        .count();
    ensure!(limited == 0 && bears(&pod, names::TAINT_UNREACHABLE), "{pod}");
    Ok(())
}

async fn check_denial(client: &Client, namespace: &str) -> Result<()> {
    let mut pod = mk_pod("denied", &json!({}));
    pod["metadata"]["annotations"] = json!({names::CLUSTER_SELECTOR: r#"{"nodeSelector": "x"}"#});
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    match pods
        .create(&PostParams::default(), &serde_json::from_value(pod)?)
        .await
    {
        Err(kube::Error::Api(status)) if status.code == 403 => {
            ensure!(
                status.message.contains("clusterSelector, at nodeSelector"),
                "{}",
                status.message
            );
            Ok(())
        }
        other => bail!("not denied: {other:?}"),
    }
}

/// The pods of a ReplicaSet that is to avoid a node stay away from it.
async fn check_avoidance(client: &Client, namespace: &str) -> Result<()> {
    let sets: Api<ReplicaSet> = Api::namespaced(client.clone(), namespace);
    let spec = json!({"replicas": 0, "selector": {"matchLabels": {"app": "moved"}}, "template": mk_template("moved")});
    let set = support::create(&sets, json!({"metadata": {"name": "moved"}, "spec": spec})).await?;
    let owner = set.metadata.uid.context("no uid")?;
    let far = json!({"virtual-a": 4_102_444_800_u64, "virtual-b": 1}).to_string();
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), names::SYSTEM_NAMESPACE);
    support::create(
        &maps,
        json!({"metadata": {"name": "tensile-avoidance"}, "data": {owner: far}}),
    )
    .await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    support::await_condition("a pod that avoids its node", DEADLINE, || async {
        // The webhook may not have seen the ConfigMap when the first pod comes.
        let scale = |replicas: u32| Patch::Merge(json!({"spec": {"replicas": replicas}}));
        sets.patch("moved", &PatchParams::default(), &scale(0)).await?;
        pods.delete_collection(
            &DeleteParams::default().grace_period(0),
            &ListParams::default().labels("app=moved"),
        )
        .await?;
        sets.patch("moved", &PatchParams::default(), &scale(1)).await?;
        let pod = pod_of(client, namespace, "moved").await?;
        let terms =
            &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        let wanted = json!({"nodeSelectorTerms": [{"matchFields": [
            {"key": "metadata.name", "operator": "NotIn", "values": ["virtual-a"]}]}]});
        ensure!(*terms == wanted, "{terms}");
        Ok(Some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_are_changed_as_they_are_created_and_the_failure_policy_decides_when_it_is_down() -> TestResult {
    let upper = Cluster::start(ClusterSpec::new("webhook")).await?;
    upper.kwok(1, NodeTemplate::default()).await?;
    let webhook = Webhook::start(&upper, &[]).await?;
    register(&upper, webhook.address(), "Fail", Some(upper.client_ca_pem())).await?;
    let client = upper.client().await?;
    let namespace = support::temp_namespace(&client).await?;
    check_registered(&client, &namespace).await?;

    check_workloads(&client, &namespace).await?;
    check_every_constraint(&client, &namespace).await?;
    check_who_takes_part(&client, &namespace).await?;
    check_denial(&client, &namespace).await?;
    check_avoidance(&client, &namespace).await?;
    ensure_metrics(&webhook).await?;

    webhook.component.terminate().await?;
    webhook.component.wait_exit(DEADLINE).await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
    let pod = |name: &str| mk_pod(name, &json!({"nodeSelector": {"disk": "ssd"}}));
    let refused = support::create(&pods, pod("refused")).await;
    assert!(refused.is_err(), "failurePolicy Fail lets nothing through");
    register(&upper, webhook.address(), "Ignore", Some(upper.client_ca_pem())).await?;
    support::await_condition("failurePolicy Ignore to let pods through", DEADLINE, || async {
        let pod = create_pod(&client, &namespace, pod("ignored")).await?;
        ensure!(pod["spec"]["nodeSelector"]["disk"] == "ssd", "{pod}");
        Ok(Some(()))
    })
    .await?;
    Ok(())
}

/// API servers take a new registration over by watch.
async fn check_registered(client: &Client, namespace: &str) -> Result<()> {
    check_admitted(client, namespace, &mk_pod("probe", &json!({})))
        .await
        .context("the registration does not act")
}

async fn ensure_metrics(webhook: &Webhook) -> Result<()> {
    for outcome in ["patched", "denied", "left_alone"] {
        let count = webhook
            .metric(&format!("tensile_webhook_reviews_total{{outcome=\"{outcome}\"}}"))
            .await?;
        ensure!(count >= 1.0, "{outcome}: {count}");
    }
    ensure!(webhook.metric("tensile_webhook_certificate_end_seconds").await? > 1.7e9);
    Ok(())
}

/// Joins each connection to one of the replicas, in turn.
async fn mk_balancer(replicas: Vec<SocketAddr>) -> Result<SocketAddr> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        for turn in 0.. {
            let Ok((mut client, _)) = listener.accept().await else {
                return;
            };
            let replica = replicas[turn % replicas.len()];
            tokio::spawn(async move {
                let mut server = tokio::net::TcpStream::connect(replica).await?;
                tokio::io::copy_bidirectional(&mut client, &mut server).await
            });
        }
    });
    Ok(address)
}

/// The CAs that the API server trusts for the webhook now.
async fn published(client: &Client) -> Result<Vec<u8>> {
    let api: Api<MutatingWebhookConfiguration> = Api::all(client.clone());
    let entries = api.get(CONFIGURATION).await?.webhooks.unwrap_or_default();
    let bundles: Vec<_> = entries
        .into_iter()
        .filter_map(|entry| entry.client_config.ca_bundle)
        .collect();
    let [first, second] = &bundles[..] else {
        bail!("not published yet")
    };
    ensure!(first == second, "published in part");
    Ok(first.0.clone())
}

/// Asks the API server for pods, without storing them, until `stop`; counts answers and keeps the first failure.
async fn load(pods: Api<Pod>, pod: Pod, stop: Arc<AtomicBool>, answers: Arc<AtomicUsize>) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let created = support::dry_run(&pods, &pod)
            .await
            .context("a pod was not admitted")?;
        ensure!(created.metadata.annotations.is_some(), "a pod was not changed");
        answers.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Life of a certificate under test: renewed after 8 s, its CA after 32 s.
const LIFE: Duration = Duration::from_secs(12);
/// Certificates and CAs to be seen while pods are admitted.
const RENEWALS: usize = 5;
const CAS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_renew_their_certificates_under_load_without_a_failed_admission() -> TestResult {
    let upper = Cluster::start(ClusterSpec::new("renewal").without_scheduler()).await?;
    let client = upper.client().await?;
    let first = Webhook::start_self_signed(&upper, LIFE).await?;
    let second = Webhook::start_self_signed(&upper, LIFE).await?;
    let replicas = [first.address(), second.address()];
    register(&upper, mk_balancer(replicas.to_vec()).await?, "Fail", None).await?;
    first.ready().await?;
    second.ready().await?;
    support::await_condition("the CA to be published", DEADLINE, || async {
        published(&client).await.map(Some)
    })
    .await?;
    let namespace = support::temp_namespace(&client).await?;
    let mut template = mk_pod("load", &json!({"nodeSelector": {"disk": "ssd"}}));
    let accounts: Api<k8s_openapi::api::core::v1::ServiceAccount> =
        Api::namespaced(client.clone(), &namespace);
    support::create(&accounts, json!({"metadata": {"name": "load"}})).await?;
    template["spec"]["serviceAccountName"] = "load".into();
    check_admitted(&client, &namespace, &template).await?;

    let (stop, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
        let pod = serde_json::from_value(template.clone())?;
        workers.spawn(load(pods, pod, Arc::clone(&stop), Arc::clone(&answers)));
    }
    let seen = watch_renewals(&client, &replicas).await?;
    stop.store(true, Ordering::Relaxed);
    while let Some(worker) = workers.join_next().await {
        worker??;
    }
    let count = answers.load(Ordering::Relaxed);
    println!(
        "{count} pods admitted over {} certificates of {} CAs",
        seen.0, seen.1
    );
    assert!(count > 500, "{count} pods admitted");
    Ok(())
}

async fn check_admitted(client: &Client, namespace: &str, pod: &Value) -> Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let pod: Pod = serde_json::from_value(pod.clone())?;
    support::await_condition("a pod to be admitted", DEADLINE, || async {
        Ok(support::dry_run(&pods, &pod)
            .await?
            .metadata
            .annotations
            .map(drop))
    })
    .await
}

/// Waits for enough renewals; at every look, what each replica serves is trusted by what is published.
async fn watch_renewals(client: &Client, replicas: &[SocketAddr]) -> Result<(usize, usize)> {
    let mut certificates = std::collections::HashSet::new();
    let mut bundles = std::collections::HashSet::new();
    let deadline = tokio::time::Instant::now() + 2 * DEADLINE;
    while certificates.len() <= RENEWALS || bundles.len() < CAS {
        ensure!(
            tokio::time::Instant::now() < deadline,
            "{} certificates, {} bundles",
            certificates.len(),
            bundles.len()
        );
        let bundle = published(client).await?;
        for replica in replicas {
            certificates.insert(
                support::served_certificate(
                    *replica,
                    std::str::from_utf8(&bundle)?,
                    &replica.ip().to_string(),
                )
                .await
                .with_context(|| format!("handshake with {replica}"))?,
            );
        }
        bundles.insert(bundle);
        tokio::time::sleep(support::POLL_INTERVAL).await;
    }
    Ok((certificates.len(), bundles.len()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_selector_that_one_lower_node_satisfies_leads_there() -> TestResult {
    let (upper, lower) = tokio::try_join!(
        Cluster::start(ClusterSpec::new("selector-upper")),
        Cluster::start(ClusterSpec::new("selector-lower")),
    )?;
    lower
        .kwok(3, NodeTemplate::default().name_prefix("plain"))
        .await?;
    let template = NodeTemplate::default().name_prefix("fast").label("disk", "ssd");
    let fast = lower.kwok(1, template).await?.remove(0);
    let virtual_node = VirtualNodeSpec::new("vn-a").start(&upper, &lower).await?;
    let webhook = Webhook::start(&upper, &[]).await?;
    register(&upper, webhook.address(), "Fail", Some(upper.client_ca_pem())).await?;
    let client = upper.client().await?;
    let labels = Api::<Node>::all(client.clone())
        .get(virtual_node.name())
        .await?
        .metadata
        .labels;
    ensure_no_disk(labels.as_ref())?;
    let namespace = support::temp_namespace(&client).await?;
    check_registered(&client, &namespace).await?;
    let deployments: Api<Deployment> = Api::namespaced(client, &namespace);
    // The upper API server merges the key into the selector; the lower one must not be shown both.
    let mut template = mk_template("web");
    template["spec"]["topologySpreadConstraints"] = json!([{"topologyKey": "zone", "maxSkew": 1,
        "whenUnsatisfiable": "ScheduleAnyway", "matchLabelKeys": ["pod-template-hash"],
        "labelSelector": {"matchLabels": {"app": "web"}}}]);
    let spec = json!({"replicas": 3, "selector": {"matchLabels": {"app": "web"}}, "template": template});
    support::create(&deployments, json!({"metadata": {"name": "web"}, "spec": spec})).await?;
    let pods: Api<Pod> = Api::namespaced(lower.client().await?, &namespace);
    support::await_condition("all pods to run on the one lower node", DEADLINE, || async {
        let pods = pods.list(&ListParams::default()).await?.items;
        ensure!(pods.len() == 3, "{} pods", pods.len());
        for pod in &pods {
            let node = pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref());
            ensure!(node == Some(&fast), "on {node:?}");
            ensure!(support::is_ready(pod), "not running");
        }
        Ok(Some(()))
    })
    .await?;
    Ok(())
}

fn ensure_no_disk(labels: Option<&std::collections::BTreeMap<String, String>>) -> Result<()> {
    ensure!(
        labels.is_some_and(|labels| !labels.contains_key("disk")),
        "{labels:?}"
    );
    Ok(())
}
