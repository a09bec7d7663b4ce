//! Where figures come from: the endpoints of the lower nodes, or the lower cluster's metrics API.

use std::fmt;
use std::time::Duration;

use futures::StreamExt as _;
use jiff::Timestamp;
use kube::Client;
use serde_json::Value;
use tokio::time::timeout;

use tensile_kubelet_api::backend::Unavailable;
use tensile_kubelet_api::read::{ContainerReading, Reading, resource, summary};
use tensile_kubelet_api::usage::Figure;

use super::metrics_api;
use crate::api::{self, ApiError};

/// Longest time for the answer of one lower node. metrics-server gives up on us after ten seconds.
const NODE_DEADLINE: Duration = Duration::from_secs(4);
/// Lower nodes that are asked at a time.
const AT_A_TIME: usize = 32;
/// With more lower nodes than this, two requests to the metrics API are cheaper than one to each node.
const MANY_NODES: usize = 50;
const METRICS_API: &str = "/apis/metrics.k8s.io/v1beta1";

/// What the flag `--usage-source` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum UsageSource {
    /// The first that answers.
    #[default]
    Auto,
    /// `/metrics/resource` of the lower nodes.
    Resource,
    /// `/stats/summary` of the lower nodes.
    Summary,
    /// The metrics API of the lower cluster, which metrics-server serves.
    MetricsApi,
    /// No figures.
    None,
}

/// One source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Resource,
    Summary,
    MetricsApi,
}

/// What a source told: nodes by name, and containers of all pods, ours or not.
#[derive(Debug, Default)]
pub(super) struct Fetched {
    pub(super) nodes: Vec<(String, Figure)>,
    pub(super) containers: Vec<ContainerReading>,
}

// === impl UsageSource ===

impl UsageSource {
    /// The sources to ask, in order, in a cluster of so many nodes.
    pub(super) fn order(self, nodes: usize, answered: Option<Source>) -> Vec<Source> {
        let mut order = match self {
            Self::Auto if nodes > MANY_NODES => vec![Source::MetricsApi, Source::Resource, Source::Summary],
            Self::Auto => vec![Source::Resource, Source::Summary, Source::MetricsApi],
            Self::Resource => vec![Source::Resource],
            Self::Summary => vec![Source::Summary],
            Self::MetricsApi => vec![Source::MetricsApi],
            Self::None => Vec::new(),
        };
        // Stable: only the one that answered moves.
        order.sort_by_key(|source| Some(*source) != answered);
        order
    }
}

// === impl Source ===

impl Source {
    /// Asks the source. Nodes that do not answer are left out as long as one does.
    pub(super) async fn fetch(
        self,
        lower: &Client,
        nodes: Vec<String>,
        selector: &str,
    ) -> Result<Fetched, ApiError> {
        match self {
            Self::MetricsApi => from_metrics_api(lower, selector).await,
            Self::Resource => {
                from_nodes(lower, nodes, "metrics/resource", |text| {
                    Ok(resource::read(text, now_ms()))
                })
                .await
            }
            Self::Summary => {
                from_nodes(lower, nodes, "stats/summary?only_cpu_and_memory=true", |text| {
                    let summary: Value = serde_json::from_str(text)?;
                    Ok(summary::read(&summary, now_ms()))
                })
                .await
            }
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Resource => "/metrics/resource of the nodes",
            Self::Summary => "/stats/summary of the nodes",
            Self::MetricsApi => "the metrics API",
        })
    }
}

async fn from_nodes(
    lower: &Client,
    nodes: Vec<String>,
    path: &'static str,
    read: impl Fn(&str) -> serde_json::Result<Reading>,
) -> Result<Fetched, ApiError> {
    let mut fetched = Fetched::default();
    for (node, text) in texts(lower, nodes, path).await? {
        let reading = read(&text).map_err(|error| ApiError::Refused(format!("{node}: {error}")))?;
        fetched.nodes.extend(reading.node.map(|figure| (node, figure)));
        fetched.containers.extend(reading.containers);
    }
    if fetched.nodes.is_empty() && fetched.containers.is_empty() {
        return Err(ApiError::Refused("no node tells any figure".to_owned()));
    }
    Ok(fetched)
}

/// The pages of all nodes that answer; the last error if none does.
async fn texts(
    lower: &Client,
    nodes: Vec<String>,
    path: &'static str,
) -> Result<Vec<(String, String)>, ApiError> {
    let requests = nodes.into_iter().map(|node| async move {
        let answer = text(lower, &node, path).await;
        (node, answer)
    });
    let answers: Vec<_> = futures::stream::iter(requests)
        .buffer_unordered(AT_A_TIME)
        .collect()
        .await;
    let mut pages = Vec::new();
    let mut failure = ApiError::NotFound("there are no nodes".to_owned());
    for (node, answer) in answers {
        match answer {
            Ok(page) => pages.push((node, page)),
            Err(error) => {
                tracing::debug!(node, path, %error, "a lower node shows no usage");
                failure = error;
            }
        }
    }
    if pages.is_empty() { Err(failure) } else { Ok(pages) }
}

async fn text(lower: &Client, node: &str, path: &str) -> Result<String, ApiError> {
    let request = http::Request::get(format!("/api/v1/nodes/{node}/proxy/{path}"))
        .body(Vec::new())
        .map_err(|error| ApiError::Refused(error.to_string()))?;
    match timeout(NODE_DEADLINE, lower.request_text(request)).await {
        Ok(answer) => answer.map_err(ApiError::from),
        Err(_) => Err(ApiError::Transient("no answer in time".to_owned())),
    }
}

/// What the lower kubelets show for cAdvisor.
pub(super) async fn cadvisor(lower: &Client, nodes: Vec<String>) -> Result<Vec<String>, Unavailable> {
    let pages = texts(lower, nodes, "metrics/cadvisor").await;
    let pages = pages.map_err(|error| Unavailable(error.to_string()))?;
    Ok(pages.into_iter().map(|(_, page)| page).collect())
}

/// Our pods by their label. Without the right to read nodes there are none; the sum over our pods then stands for them.
async fn from_metrics_api(lower: &Client, selector: &str) -> Result<Fetched, ApiError> {
    let selector: String = form_urlencoded::byte_serialize(selector.as_bytes()).collect();
    let (pods, nodes) = (
        format!("{METRICS_API}/pods?labelSelector={selector}"),
        format!("{METRICS_API}/nodes"),
    );
    let (pods, nodes) = tokio::join!(
        api::read::<Value>(lower, &pods),
        api::read::<Value>(lower, &nodes)
    );
    Ok(Fetched {
        containers: metrics_api::containers(&pods?),
        nodes: nodes.map(|nodes| metrics_api::nodes(&nodes)).unwrap_or_default(),
    })
}

fn now_ms() -> i64 {
    Timestamp::now().as_millisecond()
}

#[cfg(test)]
mod tests {
    use super::Source::{MetricsApi, Resource, Summary};
    use super::*;

    #[test]
    fn the_source_that_answered_is_asked_first_and_large_clusters_ask_the_metrics_api() {
        let cases = [
            (UsageSource::Auto, 3, None, vec![Resource, Summary, MetricsApi]),
            (
                UsageSource::Auto,
                3,
                Some(MetricsApi),
                vec![MetricsApi, Resource, Summary],
            ),
            (
                UsageSource::Auto,
                3,
                Some(Summary),
                vec![Summary, Resource, MetricsApi],
            ),
            (UsageSource::Auto, 51, None, vec![MetricsApi, Resource, Summary]),
            (UsageSource::Summary, 3, None, vec![Summary]),
            (UsageSource::MetricsApi, 3, Some(Resource), vec![MetricsApi]),
            (UsageSource::None, 3, None, vec![]),
        ];
        for (wanted, nodes, answered, order) in cases {
            assert_eq!(
                wanted.order(nodes, answered),
                order,
                "{wanted:?} {nodes} {answered:?}"
            );
        }
    }
}
