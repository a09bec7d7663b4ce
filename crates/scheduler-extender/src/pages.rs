//! Explanations on the admin port: `/explain` and `/fragments`, as JSON or, if that is what is accepted, text.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::time::Instant;

use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use kube::api::ListParams;
use kube::{Api, Client};
use serde::Serialize;
use serde_json::Value;
use tensile_core::resources::Resources;
use tensile_core::view::PodView;
use tensile_placement::{Explanation, Fragments};
use tensile_runtime::clock;
use tensile_runtime::object::{Pods, Viewed};
use tensile_world::{LowerCluster, Shared};

/// The pods that wait for a place.
const UNBOUND: &str = "spec.nodeName=,status.phase=Pending";

/// What the pages show.
#[derive(Clone)]
pub struct Pages {
    /// What the answers depend on.
    pub shared: Shared,
    /// The upper cluster, where pods are looked up.
    pub upper: Client,
}

/// What a virtual node says, or why it says nothing.
#[derive(Serialize)]
#[serde(untagged)]
enum Explained {
    Known {
        #[serde(flatten)]
        explanation: Box<Explanation>,
        /// What the pod's split says.
        #[serde(skip_serializing_if = "Option::is_none")]
        split: Option<String>,
    },
    Error {
        error: String,
    },
}

// === impl Pages ===

impl Pages {
    /// The pages.
    pub fn router(self) -> Router {
        Router::new()
            .route("/explain", get(explain_named).post(explain_posted))
            .route("/fragments", get(fragments))
            .with_state(self)
    }

    /// What the pods that are not bound ask for; each request once.
    async fn waiting(&self) -> Result<Vec<Resources>, kube::Error> {
        let pods: Api<Viewed<Pods, PodView>> = Api::all(self.upper.clone());
        let unbound = pods.list(&ListParams::default().fields(UNBOUND)).await?;
        let mut waiting: Vec<Resources> = Vec::new();
        for request in unbound.items.into_iter().map(|pod| pod.view.request) {
            if !waiting.contains(&request) {
                waiting.push(request);
            }
        }
        Ok(waiting)
    }

    fn explain(&self, pod: &Value, headers: &HeaderMap) -> Response {
        let (explained, split) = {
            let mut world = self.shared.world();
            let mut lowering = world.consider(pod, clock::now());
            let explained = world.explain(&mut lowering);
            (explained, world.explain_split(&mut lowering, Instant::now()))
        };
        let explained: BTreeMap<String, Explained> = explained
            .into_iter()
            .map(|(node, told)| (node, Explained::new(told, split.clone())))
            .collect();
        page(headers, &explained, |explained, text| match explained {
            Explained::Known { explanation, split } => {
                write!(text, "{explanation}")?;
                split.iter().try_for_each(|split| writeln!(text, "  {split}"))
            }
            Explained::Error { error } => writeln!(text, "unknown: {error}"),
        })
    }
}

impl Explained {
    fn new(told: Result<Explanation, String>, split: Option<String>) -> Self {
        match told {
            Ok(explanation) => Self::Known {
                explanation: Box::new(explanation),
                split,
            },
            Err(error) => Self::Error { error },
        }
    }
}

/// `GET /explain?pod=namespace/name`
async fn explain_named(
    State(pages): State<Pages>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let Some((namespace, name)) = query.get("pod").and_then(|pod| pod.split_once('/')) else {
        let usage = "give the pod as ?pod=namespace/name, or POST one\n";
        return (StatusCode::BAD_REQUEST, usage).into_response();
    };
    let pods: Api<Viewed<Pods, Value>> = Api::namespaced(pages.upper.clone(), namespace);
    match pods.get_opt(name).await {
        Ok(Some(pod)) => pages.explain(&pod.view, &headers),
        Ok(None) => (
            StatusCode::NOT_FOUND,
            format!("there is no pod {namespace}/{name}\n"),
        )
            .into_response(),
        Err(error) => (StatusCode::BAD_GATEWAY, format!("{error}\n")).into_response(),
    }
}

/// `POST /explain` with a pod that may not exist yet.
async fn explain_posted(
    State(pages): State<Pages>,
    headers: HeaderMap,
    Json(mut pod): Json<Value>,
) -> Response {
    for (member, stand_in) in [("name", "pod"), ("namespace", "default"), ("uid", "none")] {
        if pod["metadata"][member].is_null() && pod.is_object() {
            pod["metadata"][member] = stand_in.into();
        }
    }
    pages.explain(&pod, &headers)
}

/// `GET /fragments`
async fn fragments(State(pages): State<Pages>, headers: HeaderMap) -> Response {
    let waiting = match pages.waiting().await {
        Ok(waiting) => waiting,
        Err(error) => {
            return (StatusCode::BAD_GATEWAY, format!("the waiting pods: {error}\n")).into_response();
        }
    };
    let fragments: BTreeMap<String, Fragments> = {
        let world = pages.shared.world();
        let of =
            |(id, cluster): (&str, &LowerCluster)| (id.to_owned(), Fragments::of(&cluster.model, &waiting));
        world.clusters().map(of).collect()
    };
    page(&headers, &fragments, |fragments, text| {
        write!(text, "{fragments}")
    })
}

/// One entry a name, in the form that the client accepts.
fn page<T: Serialize>(
    headers: &HeaderMap,
    entries: &BTreeMap<String, T>,
    write: impl Fn(&T, &mut String) -> std::fmt::Result,
) -> Response {
    let accepts = headers
        .get(header::ACCEPT)
        .and_then(|accept| accept.to_str().ok())
        .unwrap_or_default();
    if !accepts.starts_with("text/") {
        return Json(entries).into_response();
    }
    let mut text = String::new();
    for (name, entry) in entries {
        let written = writeln!(text, "{name}:").and_then(|()| write(entry, &mut text));
        debug_assert!(written.is_ok(), "a string takes any text");
    }
    text.into_response()
}
