//! `/debug/state`: what this process knows, and of one pod where it is, what was sent last, and what is pending and why.
//!
//! Read from the indices at that moment; no cluster is asked, so that it answers also when none does.

mod pod;

use std::time::{Duration, Instant};

use axum::extract::RawQuery;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};

use tensile_runtime::key::Key;
use tensile_runtime::queue::{Depth, Place};

use crate::pods::Trouble;
use crate::registries::{NodeState, Registries};
use crate::shared::Shared;

/// Pods in trouble that are listed of a virtual node: enough to see what it is, few enough to read.
const LISTED: usize = 50;

/// The page.
pub fn router(nodes: Registries) -> Router {
    let page = move |RawQuery(query): RawQuery| async move { answer(&nodes.nodes(), query.as_deref()) };
    Router::new().route("/debug/state", get(page))
}

fn answer(nodes: &[NodeState], query: Option<&str>) -> Response {
    let parameters = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let mut pods = parameters.filter(|(name, _)| name == "pod").map(|(_, pod)| pod);
    let Some(wanted) = pods.next() else {
        let nodes: Vec<Value> = nodes.iter().map(node).collect();
        return Json(json!({"nodes": nodes})).into_response();
    };
    let Some((namespace, name)) = wanted.split_once('/') else {
        return refused(
            StatusCode::BAD_REQUEST,
            "give the pod as ?pod=namespace/name\n".to_owned(),
        );
    };
    let key = Key::new(namespace, name);
    let mut found = nodes.iter().filter_map(|node| of_pod(node, &key));
    found.next().map_or_else(
        || refused(StatusCode::NOT_FOUND, unknown(nodes, &key)),
        |state| Json(state).into_response(),
    )
}

fn refused(status: StatusCode, text: String) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain")], text).into_response()
}

/// Why nothing is known of a pod.
fn unknown(nodes: &[NodeState], pod: &Key) -> String {
    let (run, idle): (Vec<_>, Vec<_>) = nodes.iter().partition(|node| node.current.lock().is_some());
    let names = |nodes: Vec<&NodeState>| {
        let names: Vec<_> = nodes.iter().map(|node| node.name.as_str()).collect();
        if names.is_empty() {
            "none".to_owned()
        } else {
            names.join(", ")
        }
    };
    format!(
        "no virtual node that this process runs has pod {pod}; running here: {}; not running here, because another \
         replica holds the lease of their cluster or that does not answer: {}\n",
        names(run),
        names(idle)
    )
}

fn of_pod(node: &NodeState, key: &Key) -> Option<Value> {
    let shared = node.current.lock().clone()?;
    let mut state = pod::state(&shared, key)?;
    (state["cluster"], state["node"]) = (json!(node.cluster), json!(node.name));
    Some(state)
}

fn node(node: &NodeState) -> Value {
    let shared = node.current.lock().clone();
    let mut shown = json!({"cluster": node.cluster, "node": node.name, "runsHere": shared.is_some()});
    if let Some(shared) = shared {
        let queues = json!({
            "pods": depth(shared.pods.depth()),
            "objects": depth(shared.objects.depth()),
            "events": depth(shared.events.depth()),
        });
        let trouble = trouble(&shared);
        let state = shared.lock();
        let now = Instant::now();
        (shown["queues"], shown["trouble"]) = (queues, json!(trouble));
        shown["pods"] = json!({
            "known": state.pods.len(),
            "below": state.pods.iter().filter(|(_, entry)| entry.belongs()).count(),
            "silent": state.pods.iter().filter(|(_, entry)| entry.silent_since.is_some()).count(),
        });
        shown["objects"] = json!(state.objects.len());
        shown["notYetShownByWatchSeconds"] = json!({
            "upper-pods": seconds(state.upper_lag.pending(now)),
            "lower-pods": seconds(state.lower_lag.pending(now)),
        });
    }
    shown
}

/// Pods whose last attempt failed.
fn trouble(shared: &Shared) -> Vec<Value> {
    let state = shared.lock();
    let mut pods: Vec<_> = state
        .pods
        .iter()
        .filter_map(|(key, entry)| Some((key, entry.trouble.as_deref()?)))
        .collect();
    pods.sort_unstable_by_key(|(key, _)| *key);
    pods.truncate(LISTED);
    let show = |(key, trouble): (&Key, &Trouble)| {
        json!({
            "pod": key.to_string(), "error": trouble.error, "at": trouble.at.to_string(),
            "queue": place(shared.pods.place(key)),
        })
    };
    pods.into_iter().map(show).collect()
}

fn depth(depth: Depth) -> Value {
    json!({"fresh": depth.fresh, "retry": depth.retry, "running": depth.running})
}

fn place(place: Option<Place>) -> Value {
    place.map_or(Value::Null, |place| {
        json!({
            "lane": place.lane.as_str(), "failures": place.failures, "nextRetrySeconds": seconds(place.due_in),
        })
    })
}

fn seconds(time: Option<Duration>) -> Option<f64> {
    time.map(|time| time.as_secs_f64())
}
