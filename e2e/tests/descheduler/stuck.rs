//! What is stuck below moves within two rounds, by a taint, a filled node, a cordoned node or its size; what fits nowhere stays.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use e2e::descheduler::{Descheduler, write_clusters};
use e2e::virtual_node::{VirtualNode, VirtualNodeSpec};
use e2e::webhook::{self, Webhook};
use e2e::{Cluster, ClusterSpec, NodeTemplate, TestResult, support};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{
    ConfigMap, Event, Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod,
};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tensile_core::names;

/// A claim, and its volumes.
const CLAIM: &str = "shared";
const DEADLINE: Duration = Duration::from_secs(60);

/// Refusals count after two seconds.
const POLICY: &str = "
apiVersion: descheduler/v1alpha2
kind: DeschedulerPolicy
profiles:
- name: live
  pluginConfig:
  - name: UnschedulableBelow
    args: {thresholdSeconds: 2}
";

/// The same for room that is made.
const WITH_ROOM: &str = "
  - name: MakeRoom
    args: {thresholdSeconds: 2}
  plugins:
    balance: {enabled: [MakeRoom]}
";

/// An upper cluster with the webhook, and two lower ones. Behind `a` stands a virtual node already.
struct Ground {
    upper: Cluster,
    a: Cluster,
    b: Cluster,
    _webhook: Webhook,
    _va: VirtualNode,
    namespace: String,
    client: Client,
    clusters: PathBuf,
    policy: PathBuf,
}

/// Cluster `a` has a tainted node, a node that is full, a cordoned one and a free one, all of 4 CPUs; `b` one of 16.
async fn mk_ground() -> Result<Ground> {
    let (upper, a, b) = tokio::try_join!(
        Cluster::start(ClusterSpec::new("desched-upper")),
        Cluster::start(ClusterSpec::new("desched-a")),
        Cluster::start(ClusterSpec::new("desched-b")),
    )?;
    let four = |pool: &str| {
        let template = NodeTemplate::default().cpu("4").memory("8Gi");
        template.name_prefix(pool).label("pool", pool)
    };
    a.kwok(1, four("tainted").taint("only", "others", "NoSchedule"))
        .await?;
    a.kwok(1, four("full")).await?;
    let cordoned = a.kwok(1, four("cordoned")).await?;
    let free = a.kwok(1, four("free")).await?;
    label(&a, &free[0], &json!({"only-a": "yes"})).await?;
    let sixteen = NodeTemplate::default().cpu("16").memory("64Gi");
    let b_nodes = b.kwok(1, sixteen).await?;
    cordon(&a, &cordoned[0]).await?;
    label(
        &b,
        &b_nodes[0],
        &json!({"tainted": "yes", "full": "yes", "cordoned": "yes", "free": "yes"}),
    )
    .await?;
    for pool in ["tainted", "full", "cordoned", "free"] {
        label_pool(&a, pool).await?;
    }
    fill(&a).await?;
    let webhook = Webhook::start(&upper, &[]).await?;
    webhook::register(&upper, webhook.address(), "Fail", Some(upper.client_ca_pem())).await?;
    let va = VirtualNodeSpec::new("va").start(&upper, &a).await?;
    let client = upper.client().await?;
    let namespace = support::namespace_for_pods(&client).await?;
    let clusters = write_clusters(webhook.component.folder(), &[("va", &a), ("vb", &b)])?;
    let policy = webhook.component.folder().join("policy.yaml");
    std::fs::write(&policy, POLICY)?;
    Ok(Ground {
        upper,
        a,
        b,
        _webhook: webhook,
        _va: va,
        namespace,
        client,
        clusters,
        policy,
    })
}

async fn cordon(cluster: &Cluster, node: &str) -> Result<()> {
    let nodes: Api<Node> = Api::all(cluster.client().await?);
    nodes.cordon(node).await?;
    Ok(())
}

async fn label(cluster: &Cluster, node: &str, labels: &Value) -> Result<()> {
    let nodes: Api<Node> = Api::all(cluster.client().await?);
    let patch = Patch::Merge(json!({"metadata": {"labels": labels}}));
    nodes.patch(node, &PatchParams::default(), &patch).await?;
    Ok(())
}

/// Gives the nodes of a pool the label that pods select them by.
async fn label_pool(cluster: &Cluster, pool: &str) -> Result<()> {
    let nodes: Api<Node> = Api::all(cluster.client().await?);
    let of_pool = ListParams::default().labels(&format!("pool={pool}"));
    for node in nodes.list(&of_pool).await? {
        let name = node.metadata.name.context("no name")?;
        label(cluster, &name, &json!({pool: "yes"})).await?;
    }
    Ok(())
}

/// Lets a pod of the lower cluster itself take the node `full`.
async fn fill(cluster: &Cluster) -> Result<()> {
    let client = cluster.client().await?;
    support::service_account(&client, "default").await?;
    let pods: Api<Pod> = Api::namespaced(client.clone(), "default");
    let spec = json!({
        "nodeSelector": {"pool": "full"},
        "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "3"}}}],
    });
    support::create(&pods, json!({"metadata": {"name": "filler"}, "spec": spec})).await?;
    support::pod_running(&client, "default", "filler", DEADLINE).await?;
    Ok(())
}

/// A claim that has a volume in every cluster: in `a` of a zone where no node is, in `b` of any. The one in `b` is there as
/// if a pod had used it: what a pod finds there is a part of where it fits.
async fn volumes(ground: &Ground) -> Result<()> {
    let in_zone = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [
        {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["elsewhere"]}
    ]}]}});
    for (cluster, affinity) in [
        (&ground.upper, Value::Null),
        (&ground.a, in_zone),
        (&ground.b, Value::Null),
    ] {
        let volumes: Api<PersistentVolume> = Api::all(cluster.client().await?);
        let spec = json!({
            "storageClassName": "", "accessModes": ["ReadWriteMany"], "capacity": {"storage": "1Gi"},
            "nfs": {"server": "nowhere", "path": "/"}, "nodeAffinity": affinity,
        });
        support::create(&volumes, json!({"metadata": {"name": CLAIM}, "spec": spec})).await?;
    }
    let spec = json!({
        "storageClassName": "", "accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}},
    });
    let claims =
        |client: &Client| Api::<PersistentVolumeClaim>::namespaced(client.clone(), &ground.namespace);
    let above = support::create(
        &claims(&ground.client),
        json!({"metadata": {"name": CLAIM}, "spec": spec}),
    )
    .await?;
    let below = ground.b.client().await?;
    let namespaces: Api<Namespace> = Api::all(below.clone());
    support::create(&namespaces, json!({"metadata": {"name": ground.namespace}})).await?;
    let upper: Namespace = Api::all(ground.client.clone()).get("kube-system").await?;
    let labels = json!({names::ORIGIN_CLUSTER: upper.metadata.uid, names::ORIGIN_UID: above.metadata.uid});
    let claim = json!({"metadata": {"name": CLAIM, "labels": labels}, "spec": spec});
    support::create(&claims(&below), claim).await?;
    for client in [&ground.client, &below] {
        support::await_condition("the claim to be bound", DEADLINE, || async {
            let status = claims(client).get(CLAIM).await?.status.unwrap_or_default();
            Ok((status.phase.as_deref() == Some("Bound")).then_some(()))
        })
        .await?;
    }
    Ok(())
}

/// A Deployment of pods of so many CPUs that must go to a node with this label, where it is not empty.
fn mk_deployment(name: &str, cpu: &str, label: &str) -> Value {
    let selector = if label.is_empty() {
        json!({})
    } else {
        json!({label: "yes"})
    };
    json!({
        "metadata": {"name": name},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name, "virtual-pod": "true"}},
                "spec": {
                    "nodeSelector": selector,
                    "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}],
                },
            },
        },
    })
}

// === impl Ground ===

impl Ground {
    async fn deploy(&self, deployment: Value) -> Result<()> {
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &self.namespace);
        support::create(&deployments, deployment).await?;
        Ok(())
    }

    /// The pods above by the name of their Deployment.
    async fn pods(&self) -> Result<BTreeMap<String, Vec<Pod>>> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut by_app: BTreeMap<String, Vec<Pod>> = BTreeMap::new();
        for pod in pods.list(&ListParams::default()).await? {
            let app = pod
                .metadata
                .labels
                .iter()
                .flatten()
                .find(|(key, _)| *key == "app");
            let app = app.context("no label")?.1.clone();
            by_app.entry(app).or_default().push(pod);
        }
        Ok(by_app)
    }

    /// Waits until the lower scheduler of `a` has refused so many pods.
    async fn refused(&self, count: usize) -> Result<()> {
        let pods: Api<Pod> = Api::namespaced(self.a.client().await?, &self.namespace);
        support::await_condition("lower pods to be refused", DEADLINE, || async {
            let list = pods.list(&ListParams::default()).await?;
            let refused = list.iter().filter(|pod| is_refused(pod)).count();
            ensure!(refused == count, "{refused} are");
            Ok(Some(()))
        })
        .await
    }

    fn descheduler(&self, args: &[&str]) -> Result<Descheduler> {
        let policy = format!("--policy-config-file={}", self.policy.display());
        let args: Vec<&str> = args.iter().copied().chain([policy.as_str()]).collect();
        Descheduler::spawn(&self.upper, &self.clusters, &args)
    }
}

pub(crate) fn is_refused(pod: &Pod) -> bool {
    let conditions = pod
        .status
        .iter()
        .flat_map(|status| status.conditions.iter().flatten());
    conditions
        .into_iter()
        .any(|condition| condition.reason.as_deref() == Some("Unschedulable"))
}

fn node(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|spec| spec.node_name.as_deref())
        .unwrap_or_default()
}

/// What was planned: `uid: from -> to/lower node`, sorted.
fn moves(report: &Value) -> Vec<String> {
    let moves = report["moves"].as_array().into_iter().flatten();
    let mut moves: Vec<String> = moves
        .map(|m| {
            format!(
                "{}: {} -> {}/{}",
                m["pod"]["uid"], m["from"], m["to"], m["lowerNode"]
            )
        })
        .collect();
    moves.sort();
    moves
}

/// The pods by app.
type Pods = BTreeMap<String, Vec<Pod>>;

fn uid(pods: &Pods, app: &str) -> Option<String> {
    pods[app][0].metadata.uid.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_that_are_stuck_below_move_to_where_they_fit_and_others_stay() -> TestResult {
    let ground = mk_ground().await?;
    volumes(&ground).await?;
    // In sum `va` has 9 CPUs, so that all of them are bound to it.
    for (name, cpu, label) in [
        ("large", "5", ""),
        ("tainted", "100m", "tainted"),
        ("full", "2", "full"),
        ("cordoned", "100m", "cordoned"),
        ("nowhere", "100m", "missing"),
        ("fine", "100m", ""),
    ] {
        ground.deploy(mk_deployment(name, cpu, label)).await?;
    }
    let mut zoned = mk_deployment("zoned", "100m", "");
    zoned["spec"]["template"]["spec"]["volumes"] =
        json!([{"name": "data", "persistentVolumeClaim": {"claimName": CLAIM}}]);
    ground.deploy(zoned).await?;
    ground.refused(6).await?;
    let before = ground.pods().await?;
    stay(&ground, &before).await?;
    // A second cluster joins.
    let _vb = VirtualNodeSpec::new("vb").start(&ground.upper, &ground.b).await?;
    let planned = plan(&ground, &before).await?;
    let real = ground.descheduler(&["--descheduling-interval=1"])?;
    carry_out(&ground, &real, &planned, &before).await?;
    real.component.terminate().await?;
    drop(real);
    std::fs::write(&ground.policy, format!("{}{WITH_ROOM}", POLICY.trim_end()))?;
    make_room(&ground, &ground.descheduler(&["--descheduling-interval=1"])?).await?;
    Ok(())
}

/// With one virtual node there is no other: whatever is stuck stays, and is told why once.
async fn stay(ground: &Ground, before: &Pods) -> Result<()> {
    let alone = ground.descheduler(&["--descheduling-interval=1"])?;
    let first = alone.report_after(0).await?;
    let time = first["time"].as_u64().context("no time")?;
    let report = support::await_condition("six pods to be due", DEADLINE, || async {
        let report = alone.report_after(time).await?;
        Ok((report["stays"].as_array().map(Vec::len) == Some(6)).then_some(report))
    })
    .await?;
    assert_eq!(moves(&report), Vec::<String>::new(), "{report}");
    alone.component.terminate().await?;
    alone.component.wait_exit(DEADLINE).await?;
    let unmoved = ground.pods().await?;
    for app in before.keys() {
        assert_eq!(uid(before, app), uid(&unmoved, app), "{app} was moved to nowhere");
    }
    let events: Api<Event> = Api::namespaced(ground.client.clone(), &ground.namespace);
    let told = events.list(&ListParams::default()).await?;
    let of_nowhere = told.iter().filter(|event| {
        event.reason.as_deref() == Some("UnschedulableBelow")
            && event.involved_object.uid == uid(before, "nowhere")
    });
    assert_eq!(of_nowhere.count(), 1, "told once, in however many rounds");
    Ok(())
}

/// What fits in the second cluster is planned, and a dry run touches nothing. Returns its report.
async fn plan(ground: &Ground, before: &Pods) -> Result<Value> {
    let dry = ground.descheduler(&["--descheduling-interval=1", "--dry-run"])?;
    let planned = support::await_condition("a plan with five moves", DEADLINE, || async {
        let report = dry.report().await?;
        ensure!(moves(&report).len() == 5, "{report}");
        Ok(Some(report))
    })
    .await?;
    assert_eq!(planned["dryRun"], true);
    dry.component.kill().await?;
    let maps: Api<ConfigMap> = Api::namespaced(ground.client.clone(), "tensile-system");
    assert!(
        maps.get_opt("tensile-avoidance").await?.is_none(),
        "a dry run writes nothing"
    );
    let unmoved = ground.pods().await?;
    assert_eq!(uid(before, "large"), uid(&unmoved, "large"));
    Ok(planned)
}

/// The same plan is carried out.
async fn carry_out(ground: &Ground, real: &Descheduler, planned: &Value, before: &Pods) -> Result<()> {
    let report = support::await_condition("a round that moves", DEADLINE, || async {
        let report = real.report().await?;
        Ok((!moves(&report).is_empty()).then_some(report))
    })
    .await?;
    assert_eq!(
        moves(&report),
        moves(planned),
        "the real plan is that of the dry run"
    );
    for moved in report["moves"].as_array().context("no moves")? {
        assert_eq!(moved["result"], "Evicted", "{moved}");
        assert_eq!(moved["to"], "vb", "{moved}");
    }
    let after = support::await_condition("all that fit somewhere to run", DEADLINE, || async {
        let pods = ground.pods().await?;
        for (app, replicas) in &pods {
            ensure!(replicas.len() == 1, "{app}: {} replicas", replicas.len());
            ensure!(
                app == "nowhere" || support::is_ready(&replicas[0]),
                "{app} does not run"
            );
        }
        Ok(Some(pods))
    })
    .await?;
    for app in ["large", "tainted", "full", "cordoned", "zoned"] {
        assert_eq!(node(&after[app][0]), "vb", "{app}");
    }
    assert_eq!(uid(&after, "nowhere"), uid(before, "nowhere"));
    assert_eq!(uid(&after, "fine"), uid(before, "fine"));
    let maps: Api<ConfigMap> = Api::namespaced(ground.client.clone(), "tensile-system");
    let avoidance = maps.get("tensile-avoidance").await?.data.unwrap_or_default();
    assert_eq!(avoidance.len(), 5, "one entry an owner: {avoidance:?}");
    assert!(
        avoidance.values().all(|nodes| nodes.starts_with("{\"va\":")),
        "{avoidance:?}"
    );
    Ok(())
}

/// Two pods run behind `va` that would fit behind `vb`, and one waits below that fits only where they are.
async fn make_room(ground: &Ground, real: &Descheduler) -> Result<()> {
    let nodes: Api<Node> = Api::all(ground.client.clone());
    nodes.cordon("vb").await?;
    let mut filler = mk_deployment("filler", "1500m", "free");
    filler["spec"]["replicas"] = json!(2);
    ground.deploy(filler).await?;
    let budgets: Api<PodDisruptionBudget> = Api::namespaced(ground.client.clone(), &ground.namespace);
    let spec = json!({"minAvailable": 2, "selector": {"matchLabels": {"app": "filler"}}});
    support::create(&budgets, json!({"metadata": {"name": "filler"}, "spec": spec})).await?;
    let before = support::await_condition("the fillers to run", DEADLINE, || async {
        let pods = ground.pods().await?;
        let fillers = pods.get("filler").context("none")?;
        Ok((fillers.len() == 2 && fillers.iter().all(support::is_ready)).then(|| fillers.clone()))
    })
    .await?;
    ground.deploy(mk_deployment("big", "2", "only-a")).await?;
    ground.refused(2).await?;
    nodes.uncordon("vb").await?;

    let held = support::await_condition("a budget to hold", DEADLINE, || async {
        let report = real.report().await?;
        let moves = report["moves"].as_array().into_iter().flatten();
        Ok(moves.into_iter().find(|m| m["result"] == "Budget").cloned())
    })
    .await?;
    assert_eq!(held["strategy"], "MakeRoom");
    assert!(
        held["why"].as_str().is_some_and(|why| why.contains("/big-")),
        "{held}"
    );
    let uids = |pods: &[Pod]| {
        let mut uids: Vec<_> = pods.iter().filter_map(|pod| pod.metadata.uid.clone()).collect();
        uids.sort();
        uids
    };
    assert_eq!(
        uids(&ground.pods().await?["filler"]),
        uids(&before),
        "the budget holds"
    );

    budgets.delete("filler", &DeleteParams::default()).await?;
    let after = support::await_condition("the big pod and two fillers to run", DEADLINE, || async {
        let pods = ground.pods().await?;
        let running = |app: &str| pods[app].iter().filter(|pod| support::is_ready(pod)).count();
        ensure!(pods["filler"].len() == 2, "{} fillers", pods["filler"].len());
        ensure!(running("big") == 1 && running("filler") == 2, "not all run");
        Ok(Some(pods))
    })
    .await?;
    assert_eq!(node(&after["big"][0]), "va");
    let stayed = after["filler"]
        .iter()
        .filter(|pod| before.iter().any(|b| b.metadata.uid == pod.metadata.uid));
    assert_eq!(stayed.count(), 1, "one move is enough");
    Ok(())
}
