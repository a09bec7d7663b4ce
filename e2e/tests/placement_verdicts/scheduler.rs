//! A real kube-scheduler that tells on which nodes a pod has passed all of its filters.
//!
//! It calls an extender of ours after its own filters, with the nodes that are left. The extender notes them, and
//! admits none, so that nothing changes and the next pod meets the same cluster, or all, for pods that shall be placed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use anyhow::Result;
use axum::extract::State;
use axum::routing::post;
use axum::{Json, Router};
use e2e::{Cluster, ClusterSpec, PortLease};
use parking_lot::Mutex;
use serde_json::{Value, json};

/// Annotation of pods that the scheduler shall place.
pub(crate) const PLACE: &str = "tests.tensile.dev/place";

/// Nodes that passed, by pod.
type Verdicts = Arc<Mutex<BTreeMap<String, BTreeSet<String>>>>;

/// A cluster whose scheduler's verdicts are noted.
pub(crate) struct Scheduler {
    pub(crate) cluster: Cluster,
    verdicts: Verdicts,
    _port: PortLease,
}

// === impl Scheduler ===

impl Scheduler {
    /// Nothing in the cluster but its scheduler acts: no controller taints nodes, binds claims or completes pods.
    pub(crate) async fn start() -> Result<Self> {
        let (port, verdicts) = (PortLease::take()?, Verdicts::default());
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port.port())).await?;
        let router = Router::new()
            .route("/filter", post(filter))
            .with_state(Arc::clone(&verdicts))
            .layer(axum::extract::DefaultBodyLimit::disable());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let spec = ClusterSpec::new("placement")
            .without_controller_manager()
            .api_server_args([
                "--disable-admission-plugins=ServiceAccount,TaintNodesByCondition,DefaultTolerationSeconds,\
                 StorageObjectInUseProtection,RuntimeClass,Priority,NamespaceLifecycle",
            ])
            .scheduler_config(json!({
                "percentageOfNodesToScore": 100,
                "profiles": [{
                    "schedulerName": "default-scheduler",
                    "plugins": {"postFilter": {"disabled": [{"name": "*"}]}},
                }],
                "extenders": [{
                    "urlPrefix": format!("http://127.0.0.1:{}", port.port()), "filterVerb": "filter",
                    "nodeCacheCapable": true,
                }],
            }));
        let cluster = Cluster::start(spec).await?;
        Ok(Self {
            cluster,
            verdicts,
            _port: port,
        })
    }

    /// The nodes on which the pod of this name passed; of a pod that passed on none the extender is not even told.
    pub(crate) fn take_verdict(&self, pod: &str) -> BTreeSet<String> {
        self.verdicts.lock().remove(pod).unwrap_or_default()
    }
}

async fn filter(State(verdicts): State<Verdicts>, Json(request): Json<Value>) -> Json<Value> {
    let metadata = &request["Pod"]["metadata"];
    let passed: BTreeSet<String> = request["NodeNames"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|name| Some(name.as_str()?.to_owned()))
        .collect();
    let places = metadata["annotations"][PLACE].is_string();
    let admitted: Vec<&String> = passed.iter().filter(|_| places).collect();
    let answer = Json(json!({"NodeNames": admitted}));
    let name = metadata["name"].as_str().unwrap_or_default().to_owned();
    // Pods may be tried again when something changes; what counts is the last word.
    verdicts.lock().insert(name, passed);
    answer
}
