//! Our evaluation of node affinity, node selectors and tolerations beside that of a real kube-scheduler.
//!
//! An extender that admits nothing is told, for every pod, which nodes have passed the scheduler's own filters:
//! its verdict on each node, for the price of one scheduling attempt per pod.

#[path = "../../crates/webhook/tests/support/random.rs"]
mod random;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use e2e::{Cluster, ClusterSpec, PortLease, TestResult, support};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{ListParams, PostParams};
use parking_lot::Mutex;
use random::{Node, Random};
use serde_json::{Value, json};
use tensile_core::affinity::RequiredNodeAffinity;
use tensile_core::taints::{Effect, Taint, Toleration, untolerated};

const NODES: usize = 40;
/// Pods that the API server accepts; about a fifth of the random ones it does not.
const PODS: usize = 400;
/// Any; another one gives other pods and nodes.
const SEED: u64 = 20_261_123;
const DEADLINE: Duration = Duration::from_secs(180);

/// Nodes that passed, by pod.
type Verdicts = Arc<Mutex<BTreeMap<String, BTreeSet<String>>>>;

/// Notes which nodes have passed so far, and admits none of them.
async fn filter(State(verdicts): State<Verdicts>, Json(request): Json<Value>) -> Json<Value> {
    let pod = request["Pod"]["metadata"]["name"].as_str().unwrap_or_default();
    let nodes = request["NodeNames"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str);
    verdicts
        .lock()
        .insert(pod.to_owned(), nodes.map(str::to_owned).collect());
    Json(json!({"NodeNames": []}))
}

async fn mk_extender() -> Result<(PortLease, Verdicts)> {
    let (port, verdicts) = (PortLease::take()?, Verdicts::default());
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port.port())).await?;
    let router = Router::new()
        .route("/filter", post(filter))
        .with_state(Arc::clone(&verdicts));
    let router = router.layer(axum::extract::DefaultBodyLimit::disable());
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok((port, verdicts))
}

/// A cluster of which only the scheduler's filters matter: nothing taints nodes or completes pods.
async fn mk_cluster(extender: u16) -> Result<Cluster> {
    let spec = ClusterSpec::new("verdicts")
        .without_controller_manager()
        .api_server_args([
            "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition,DefaultTolerationSeconds",
        ])
        .scheduler_config(json!({
            "percentageOfNodesToScore": 100,
            "extenders": [{
                "urlPrefix": format!("http://127.0.0.1:{extender}"), "filterVerb": "filter", "nodeCacheCapable": true,
            }],
        }));
    Cluster::start(spec).await
}

async fn create_nodes(cluster: &Cluster, random: &mut Random) -> Result<Vec<Node>> {
    let api: Api<k8s_openapi::api::core::v1::Node> = Api::all(cluster.client().await?);
    let mut nodes = Vec::with_capacity(NODES);
    for index in 0..NODES {
        let mut node = random.node("lower");
        node.name = format!("lower-{index}");
        // The API server allows one taint for each key and effect.
        let mut seen = BTreeSet::new();
        node.taints
            .retain(|taint| seen.insert((taint["key"].to_string(), taint["effect"].to_string())));
        let resources = json!({"cpu": "64", "memory": "64Gi", "pods": "500"});
        support::create(
            &api,
            json!({
                "metadata": {"name": node.name, "labels": node.labels},
                "spec": {"taints": node.taints},
                "status": {"capacity": resources, "allocatable": resources},
            }),
        )
        .await?;
        nodes.push(node);
    }
    Ok(nodes)
}

/// Creates random pods until enough were accepted; gives back their specs by name.
async fn create_pods(api: &Api<Pod>, random: &mut Random) -> Result<BTreeMap<String, Value>> {
    let mut specs = BTreeMap::new();
    for index in 0.. {
        if specs.len() == PODS {
            break;
        }
        let mut spec = random.spec();
        spec["containers"] = json!([{"name": "c", "image": "i"}]);
        let name = format!("pod-{index}");
        let pod = serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec}))?;
        match api.create(&PostParams::default(), &pod).await {
            Ok(_) => drop(specs.insert(name, spec)),
            // Random specs may break API rules, such as an empty list of terms.
            Err(kube::Error::Api(status)) if status.code == 422 => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(specs)
}

/// Waits until the scheduler has said of every pod that it cannot be placed; gives back what it said.
async fn all_tried(api: &Api<Pod>) -> Result<BTreeMap<String, String>> {
    support::await_condition("every pod to have been tried", DEADLINE, || async {
        let pods = api.list(&ListParams::default()).await?.items;
        let said: BTreeMap<String, String> = pods.iter().filter_map(said).collect();
        ensure!(said.len() == pods.len(), "{} of {} were", said.len(), pods.len());
        Ok(Some(said))
    })
    .await
}

fn said(pod: &Pod) -> Option<(String, String)> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let condition = conditions
        .iter()
        .find(|condition| condition.type_ == "PodScheduled")?;
    Some((
        pod.metadata.name.clone()?,
        condition.message.clone().unwrap_or_default(),
    ))
}

fn our_verdict(spec: &Value, node: &Node) -> Result<bool> {
    let taints = Taint::parse_list(Some(&json!(node.taints)))?;
    let tolerations = Toleration::parse_list(spec.get("tolerations"))?;
    let affinity = RequiredNodeAffinity::of_spec(spec)?;
    Ok(affinity.matches(&node.name, &node.labels)
        && untolerated(&taints, &tolerations, Effect::keeps_out).is_none())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_scheduler_comes_to_the_same_verdict_on_every_node() -> TestResult {
    let (port, verdicts) = mk_extender().await?;
    let cluster = mk_cluster(port.port()).await?;
    let mut random = Random(SEED);
    let nodes = create_nodes(&cluster, &mut random).await?;
    let api: Api<Pod> = Api::namespaced(cluster.client().await?, "default");
    let specs = create_pods(&api, &mut random).await?;
    let said = all_tried(&api).await?;

    let verdicts = verdicts.lock().clone();
    let mut seen = [0; 2];
    for (name, spec) in &specs {
        // Of a pod that fits no node at all, the extender is not even told.
        let theirs = verdicts.get(name).cloned().unwrap_or_default();
        for node in &nodes {
            let ours = our_verdict(spec, node).with_context(|| spec.to_string())?;
            assert_eq!(
                ours,
                theirs.contains(&node.name),
                "{name} ({}): {spec}
on {node:?}",
                said[name]
            );
            seen[usize::from(ours)] += 1;
        }
    }
    let [no, yes] = seen;
    println!(
        "{} pods on {} nodes: {yes} times yes, {no} times no",
        specs.len(),
        nodes.len()
    );
    assert!(
        no > 1_000 && yes > 1_000,
        "both verdicts are common: {no} no, {yes} yes"
    );
    Ok(())
}
