//! `why`: where a pod is, or why it is nowhere, over all clusters.

use std::collections::BTreeMap;

use kube::Client;
use serde::Serialize;
use serde_json::Value;
use tensile_core::names;
use tensile_placement::{Explanation, Verdict};
use tensile_world::Lowering;

use crate::connect::Upper;
use crate::error::{CliError, reason};
use crate::lower::{self, items};
use crate::output::{Outcome, Report};
use crate::picture;

/// Flags of the command.
#[derive(Clone, Debug, clap::Args)]
pub struct WhyArgs {
    /// The pod: its name, or namespace/name.
    pub pod: String,
    /// Namespace of the pod; that of the context if not given.
    #[arg(short, long)]
    pub namespace: Option<String>,
}

/// The answer.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Why {
    pod: String,
    phase: String,
    /// Virtual nodes that the pod was made to avoid.
    avoids: Option<String>,
    place: Place,
}

/// Where a pod is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase", tag = "kind")]
enum Place {
    /// On a node of the upper cluster.
    #[serde(rename_all = "camelCase")]
    Upper { node: String },
    /// On a virtual node.
    #[serde(rename_all = "camelCase")]
    Virtual {
        node: String,
        cluster: String,
        /// The pod below, or why there is none to be seen.
        below: Below,
    },
    /// On no node.
    #[serde(rename_all = "camelCase")]
    Nowhere {
        /// What the scheduler said last.
        scheduler: Option<String>,
        /// What every virtual node says.
        answers: BTreeMap<String, Answer>,
    },
}

/// The lower pod.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Below {
    #[serde(rename_all = "camelCase")]
    Pod {
        pod: String,
        node: Option<String>,
        phase: String,
        /// Why it has no node, or its containers do not run.
        message: Option<String>,
    },
    #[serde(rename_all = "camelCase")]
    Unseen { reason: String },
}

/// What a virtual node says to a pod.
#[derive(Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum Answer {
    Known(Box<Explanation>),
    Error { error: String },
}

/// Looks the pod up, then asks the clusters.
pub(crate) async fn run(upper: &Upper, args: &WhyArgs) -> Result<Why, CliError> {
    let namespace = args
        .namespace
        .as_deref()
        .unwrap_or(upper.client.default_namespace());
    let (namespace, name) = args.pod.split_once('/').unwrap_or((namespace, &args.pod));
    let pod = get(
        &upper.client,
        &format!("/api/v1/namespaces/{namespace}/pods/{name}"),
    )
    .await?
    .ok_or_else(|| CliError::NotFound(format!("there is no pod {namespace}/{name}; give -n NAMESPACE")))?;
    let place = place(upper, &pod).await?;
    Ok(Why {
        pod: format!("{namespace}/{name}"),
        phase: text(&pod["status"]["phase"]),
        avoids: pod["metadata"]["annotations"][names::AVOIDED_NODES]
            .as_str()
            .map(str::to_owned),
        place,
    })
}

async fn place(upper: &Upper, pod: &Value) -> Result<Place, CliError> {
    let Some(node) = pod["spec"]["nodeName"].as_str() else {
        let world = picture::world(upper).await?;
        return Ok(Place::Nowhere {
            scheduler: scheduled(pod),
            answers: world
                .explain(&mut Lowering::new(pod))
                .into_iter()
                .map(|(node, told)| (node, told.into()))
                .collect(),
        });
    };
    let bound = get(&upper.client, &format!("/api/v1/nodes/{node}"))
        .await?
        .unwrap_or_default();
    let labels = &bound["metadata"]["labels"];
    if labels[names::NODE_TYPE] != names::NODE_TYPE_VALUE {
        return Ok(Place::Upper {
            node: node.to_owned(),
        });
    }
    let cluster = text(&labels[names::CLUSTER_ID]);
    let below = below(upper, &cluster, &text(&pod["metadata"]["uid"])).await;
    Ok(Place::Virtual {
        node: node.to_owned(),
        cluster,
        below: below.unwrap_or_else(|reason| Below::Unseen { reason }),
    })
}

/// Looks for the lower pod by the label with its origin.
async fn below(upper: &Upper, cluster: &str, uid: &str) -> Result<Below, String> {
    let clusters = lower::list(upper).await.map_err(|error| error.to_string())?;
    let found = clusters.iter().find(|found| found.id == cluster);
    let Some(found) = found else {
        return Err(format!(
            "cluster {cluster} has no Secret, so its kubeconfig is not known here"
        ));
    };
    let client = found.open().await?;
    let path = format!("/api/v1/pods?labelSelector={}%3D{uid}", names::ORIGIN_UID);
    let pods: Vec<Value> = items(&client, &path).await?;
    let pod = pods
        .first()
        .ok_or("it has not been made in the lower cluster; see its events")?;
    Ok(Below::of(pod))
}

async fn get(client: &Client, path: &str) -> Result<Option<Value>, CliError> {
    let failed = |reason: String| CliError::Api {
        what: path.to_owned(),
        reason,
    };
    let request = http::Request::get(path)
        .body(Vec::new())
        .map_err(|error| failed(error.to_string()))?;
    match client.request(request).await {
        Ok(object) => Ok(Some(object)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(failed(reason(&error))),
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// What the scheduler said last about a pod that it could not place.
fn scheduled(pod: &Value) -> Option<String> {
    let conditions = pod["status"]["conditions"].as_array()?;
    let condition = conditions
        .iter()
        .find(|condition| condition["type"] == "PodScheduled")?;
    condition["message"].as_str().map(str::to_owned)
}

// === impl Answer ===

impl From<Result<Explanation, String>> for Answer {
    fn from(told: Result<Explanation, String>) -> Self {
        match told {
            Ok(explanation) => Self::Known(Box::new(explanation)),
            Err(error) => Self::Error { error },
        }
    }
}

impl Answer {
    fn fits(&self) -> bool {
        matches!(self, Self::Known(explanation) if explanation.verdict == Verdict::Fits)
    }

    fn text(&self) -> String {
        match self {
            Self::Known(explanation) => explanation.to_string(),
            Self::Error { error } => format!("unknown: {error}\n"),
        }
    }
}

// === impl Below ===

impl Below {
    fn of(pod: &Value) -> Self {
        let waiting = pod["status"]["containerStatuses"]
            .as_array()
            .into_iter()
            .flatten()
            .find_map(|status| {
                let waiting = &status["state"]["waiting"];
                let reason = waiting["reason"].as_str()?;
                Some(format!(
                    "container {}: {reason} {}",
                    text(&status["name"]),
                    text(&waiting["message"])
                ))
            });
        Self::Pod {
            pod: format!(
                "{}/{}",
                text(&pod["metadata"]["namespace"]),
                text(&pod["metadata"]["name"])
            ),
            node: pod["spec"]["nodeName"].as_str().map(str::to_owned),
            phase: text(&pod["status"]["phase"]),
            message: scheduled(pod)
                .or(waiting)
                .map(|message| message.trim_end().to_owned()),
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Unseen { reason } => format!("below: {reason}\n"),
            Self::Pod {
                pod,
                node,
                phase,
                message,
            } => {
                let node = node
                    .as_ref()
                    .map_or_else(|| "on no node".to_owned(), |node| format!("on node {node}"));
                let message = message
                    .as_ref()
                    .map_or_else(String::new, |message| format!("  {message}\n"));
                format!("below: pod {pod}, {phase}, {node}\n{message}")
            }
        }
    }
}

impl Report for Why {
    fn text(&self) -> String {
        let avoids = self
            .avoids
            .as_ref()
            .map(|nodes| format!("avoids: {nodes}\n"))
            .unwrap_or_default();
        let place = match &self.place {
            Place::Upper { node } => format!("on node {node} of the upper cluster\n"),
            Place::Virtual { node, cluster, below } => {
                format!("on virtual node {node}, cluster {cluster}\n{}", below.text())
            }
            Place::Nowhere { scheduler, answers } => {
                let scheduler = scheduler.as_deref().unwrap_or("no scheduler has looked at it");
                let answers = answers
                    .iter()
                    .map(|(node, answer)| format!("{node}:\n{}", indented(&answer.text())));
                let answers: String = answers.collect();
                format!("on no node\nscheduler: {scheduler}\n{answers}")
            }
        };
        format!("pod {}, {}, {place}{avoids}", self.pod, self.phase)
    }

    /// Bad is a pod that has no place in the end.
    fn outcome(&self) -> Outcome {
        let placed = match &self.place {
            Place::Upper { .. } => true,
            Place::Virtual { below, .. } => matches!(below, Below::Pod { node: Some(_), .. }),
            Place::Nowhere { answers, .. } => answers.values().any(Answer::fits),
        };
        Outcome::good_if(placed)
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_why(place: Place) -> Why {
        Why {
            pod: "ns/p".to_owned(),
            phase: "Pending".to_owned(),
            avoids: None,
            place,
        }
    }

    #[test]
    fn a_pod_below_is_shown_with_what_keeps_it_waiting() {
        let lower = json!({
            "metadata": {"namespace": "ns", "name": "p"},
            "status": {"phase": "Pending", "conditions": [{"type": "PodScheduled", "message": "0/1 nodes"}]},
        });
        let why = mk_why(Place::Virtual {
            node: "vn-a".to_owned(),
            cluster: "a".to_owned(),
            below: Below::of(&lower),
        });
        let expected = "pod ns/p, Pending, on virtual node vn-a, cluster a\n\
                        below: pod ns/p, Pending, on no node\n  0/1 nodes\n";
        assert_eq!(why.text(), expected);
        assert_eq!(why.outcome(), Outcome::Bad);
    }

    #[test]
    fn a_running_container_has_nothing_to_say_and_a_waiting_one_has() {
        let pod = |state: Value| {
            json!({
                "metadata": {"namespace": "ns", "name": "p"},
                "spec": {"nodeName": "n"},
                "status": {"phase": "Running", "containerStatuses": [{"name": "c", "state": state}]},
            })
        };
        let running = Below::of(&pod(json!({"running": {}})));
        assert_eq!(running.text(), "below: pod ns/p, Running, on node n\n");
        let waiting = Below::of(&pod(json!({"waiting": {"reason": "ErrImagePull"}})));
        assert!(
            waiting.text().ends_with("\n  container c: ErrImagePull\n"),
            "{}",
            waiting.text()
        );
    }

    #[test]
    fn a_pod_on_no_node_shows_what_every_virtual_node_says() {
        let answers = [("vn-a".to_owned(), Answer::from(Err("not listed".to_owned())))].into();
        let why = mk_why(Place::Nowhere {
            scheduler: None,
            answers,
        });
        let expected = "pod ns/p, Pending, on no node\nscheduler: no scheduler has looked at it\n\
                        vn-a:\n  unknown: not listed\n";
        assert_eq!(why.text(), expected);
        assert_eq!(why.outcome(), Outcome::Bad);
        let there = mk_why(Place::Upper { node: "n".to_owned() });
        assert_eq!(there.outcome(), Outcome::Good);
    }
}
