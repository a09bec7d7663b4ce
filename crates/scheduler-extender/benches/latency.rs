//! How soon the extender answers kube-scheduler: filter and prioritize together, from the bytes of the request to those
//! of the answer.
//!
//! `cargo bench -p tensile-scheduler-extender --bench latency [-- CLUSTERS NODES PODS]` with nodes and pods per cluster;
//! by default 10 clusters of 1 000 nodes with 10 000 pods each. Pods of twenty Deployments come mixed, and one in fifty
//! is of a kind that was never asked about. Between two of them one is bound, and lower pods come and go in some
//! clusters, so that what was known of those does not hold any more. Times are of this machine.

use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use http_body_util::BodyExt;
use kube::Client;
use prometheus::Registry;
use serde_json::{Value, json};
use tensile_placement::Pod;
use tensile_placement::scale::{mk_cluster, mk_pod, resident_bytes};
use tensile_scheduler_extender::asked::Asked;
use tensile_scheduler_extender::http::Service;
use tensile_scheduler_extender::metrics::Metrics;
use tensile_scheduler_extender::verbs;
use tensile_world::{Shared, World};
use tower::{ServiceExt, service_fn};

/// That of the binary.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Pods asked about.
const QUESTIONS: usize = 2_000;
/// Of them so many come before anything is measured, so that each kind has been asked about.
const WARM_UP: usize = 100;
/// Deployments that are rolled out together.
const DEPLOYMENTS: usize = 20;
/// One pod in so many is of a kind of its own.
const NEW_KIND: usize = 50;
/// Lower pods that are gone, and others that come, between two questions.
const CHURN: usize = 3;

type Error = Box<dyn std::error::Error>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    if !std::env::args().any(|argument| argument == "--bench") {
        println!("nothing is measured without --bench, which `cargo bench` gives");
        return Ok(());
    }
    let sizes: Vec<usize> = std::env::args()
        .filter_map(|argument| argument.parse().ok())
        .collect();
    match sizes[..] {
        [clusters, nodes, pods] => run(clusters, nodes, pods).await,
        _ => run(10, 1_000, 10_000).await,
    }
}

async fn run(clusters: usize, nodes: usize, pods: usize) -> Result<(), Error> {
    let before = resident_bytes();
    let shared = Shared::new(mk_world(clusters, nodes, pods));
    let bytes = resident_bytes() - before;
    println!(
        "{clusters} clusters x {nodes} nodes, {} pods: {} MB",
        clusters * pods,
        bytes >> 20
    );
    let service = Service {
        shared: shared.clone(),
        asked: Asked::default(),
        upper: Client::new(
            service_fn(|_: Request<kube::client::Body>| async {
                Ok::<_, std::io::Error>(Response::new(Body::empty()))
            }),
            "default",
        ),
        metrics: Metrics::new(&Registry::new())?,
    };
    let router = service.router();
    let names: Vec<String> = (0..clusters).map(node_name).collect();
    let (mut usual, mut new) = (Vec::new(), Vec::new());
    for question in 0..QUESTIONS {
        let is_new = question % NEW_KIND == NEW_KIND - 1;
        let pod = mk_upper_pod(question, is_new);
        let took = ask(&router, &shared, &pod, &names).await?;
        if question >= WARM_UP {
            if is_new { &mut new } else { &mut usual }.push(took);
        }
        change(&shared, question, clusters, nodes, pods)?;
    }
    let mut all: Vec<Duration> = usual.iter().chain(&new).copied().collect();
    for (what, times) in [
        ("all pods", &mut all),
        ("replicas", &mut usual),
        ("new kinds", &mut new),
    ] {
        times.sort();
        let at = |percent: usize| times[(times.len() * percent).div_ceil(100).max(1) - 1];
        println!(
            "{what:>10}: p50 {:.2?}, p99 {:.2?}, most {:.2?} of {}",
            at(50),
            at(99),
            at(100),
            times.len()
        );
    }
    println!("{} MB at the end", resident_bytes() >> 20);
    Ok(())
}

/// Filter, prioritize and, unmeasured, bind.
async fn ask(router: &Router, shared: &Shared, pod: &Value, names: &[String]) -> Result<Duration, Error> {
    let request = json!({"Pod": pod, "Nodes": null, "NodeNames": names}).to_string();
    let start = Instant::now();
    let passed = post(router, "filter", request).await?;
    let filtered = start.elapsed();
    let passed: Value = serde_json::from_slice(&passed)?;
    let request = json!({"Pod": pod, "Nodes": null, "NodeNames": passed["NodeNames"]}).to_string();
    let start = Instant::now();
    let scores = post(router, "prioritize", request).await?;
    let took = filtered + start.elapsed();
    let scores: Vec<Value> = serde_json::from_slice(&scores)?;
    let best = scores.iter().max_by_key(|score| score["Score"].as_i64());
    let best = best
        .and_then(|best| best["Host"].as_str())
        .ok_or("no node passed")?;
    verbs::bind(&mut shared.world(), pod, best)?;
    Ok(took)
}

async fn post(router: &Router, verb: &str, body: String) -> Result<Vec<u8>, Error> {
    let request = Request::post(format!("/scheduler/{verb}")).body(Body::from(body))?;
    let response = router.clone().oneshot(request).await?;
    Ok(response.into_body().collect().await?.to_bytes().to_vec())
}

/// Some lower pods go, others come.
fn change(shared: &Shared, question: usize, clusters: usize, nodes: usize, pods: usize) -> Result<(), Error> {
    for index in 0..CHURN {
        let (cluster, pod) = (
            (question * 7 + index * 3) % clusters,
            (question * 31 + index) % pods,
        );
        let moved: Pod = serde_json::from_value(mk_pod(cluster, pod, nodes))?;
        let mut world = shared.world();
        let model = &mut world.cluster_mut(&cluster_id(cluster)).model;
        if !model.delete_pod(moved.key) {
            model.apply_pod(&moved);
        }
    }
    Ok(())
}

fn mk_world(clusters: usize, nodes: usize, pods: usize) -> World {
    let mut world = World::default();
    for index in 0..clusters {
        let labels = [
            ("type", "virtual-kubelet".to_owned()),
            ("clusterID", cluster_id(index)),
        ];
        let labels = labels
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value))
            .collect();
        world.apply_node(&node_name(index), &labels, None);
        world.cluster_mut(&cluster_id(index)).model = mk_cluster(index, nodes, pods);
    }
    world.retain_nodes(|_| true);
    world.pods_listed();
    world.clusters_listed();
    world
}

fn cluster_id(index: usize) -> String {
    format!("cluster-{index}")
}

fn node_name(index: usize) -> String {
    format!("vn-{index}")
}

/// A pod as the scheduler sends it: of one of the Deployments, or unlike all others.
fn mk_upper_pod(question: usize, is_new: bool) -> Value {
    let deployment = question * 11 % DEPLOYMENTS;
    let mut labels =
        json!({"app": format!("web-{deployment}"), "pod-template-hash": format!("{deployment:x}")});
    if is_new {
        labels["job-name"] = json!(format!("job-{question}"));
    }
    let cpu = format!("{}m", 250 * (1 + deployment % 6));
    let zones = json!({"matchExpressions": [
        {"key": "topology.kubernetes.io/zone", "operator": "In", "values": ["z0", "z1"]}
    ]});
    let stash = json!({"affinity": {"nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [zones]}
    }}});
    let owner = json!({
        "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": format!("web-{deployment}"),
        "uid": format!("owner-{deployment}"), "controller": true
    });
    let token = json!({"name": "kube-api-access", "projected": {"sources": [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}
    ]}});
    json!({
        "metadata": {
            "name": format!("web-{question}"), "namespace": "shop", "uid": format!("uid-{question}"),
            "labels": labels, "annotations": {"clusterSelector": stash.to_string()}, "ownerReferences": [owner]
        },
        "spec": {
            "containers": [{
                "name": "web", "image": "registry.example.com/shop/web:1.2.3",
                "env": (0..10).map(|index| json!({"name": format!("VARIABLE_{index}"), "value": "value"})).collect::<Vec<_>>(),
                "ports": [{"containerPort": 8080, "protocol": "TCP"}],
                "resources": {"requests": {"cpu": cpu, "memory": "512Mi"}, "limits": {"memory": "512Mi"}},
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}, "periodSeconds": 5},
                "volumeMounts": [{"name": "kube-api-access", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}]
            }],
            "volumes": [token], "serviceAccountName": "web", "schedulerName": "tensile-scheduler",
            "tolerations": [{"key": "virtual-kubelet.io/provider", "operator": "Exists"}]
        },
        "status": {"phase": "Pending"}
    })
}
