//! `clusters`: which lower clusters there are and how they are.

use std::time::Instant;

use futures::future::join_all;
use serde::Serialize;
use tensile_core::resources::{Lane, Resources};
use tensile_placement::Fragments;

use crate::connect::{self, Identity, Upper};
use crate::error::CliError;
use crate::lower::{self, LowerCluster, Snapshot};
use crate::nodes::{self, VirtualNode};
use crate::output::{Outcome, Report};
use crate::table::table;

/// The answer.
#[derive(Debug, Serialize)]
pub(crate) struct Clusters {
    clusters: Vec<Row>,
}

/// One lower cluster.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    id: String,
    secret: Option<String>,
    state: State,
    /// Why the state is not Ready.
    message: Option<String>,
    version: Option<String>,
    /// Time of an answer to this machine, in milliseconds.
    latency_millis: Option<u128>,
    nodes: Option<Count>,
    /// What is free below, and how much of it on one node.
    free: Option<Resources>,
    largest_fragment: Option<Resources>,
    /// Pods of the upper cluster that run here.
    pods: Option<usize>,
    virtual_nodes: Vec<VirtualNode>,
}

/// How a lower cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
enum State {
    /// It answers, and all its virtual nodes are ready.
    Ready,
    /// It answers, but has no virtual node, or one that is not ready.
    NotReady,
    /// It does not answer, or its kubeconfig cannot be used.
    Unreachable,
    /// Its Secret is being deleted.
    Leaving,
    /// It has no Secret: a virtual node was given its kubeconfig as a file.
    ByFile,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Count {
    ready: usize,
    all: usize,
}

/// What a lower cluster answered.
struct Answer {
    identity: Identity,
    latency_millis: u128,
    snapshot: Snapshot,
}

/// Asks all lower clusters at the same time.
pub(crate) async fn run(upper: &Upper) -> Result<Clusters, CliError> {
    let clusters = lower::list(upper).await?;
    let nodes = nodes::list(upper).await?;
    let identity = connect::identify(&upper.client)
        .await
        .map_err(|reason| CliError::Api {
            what: "the upper cluster".to_owned(),
            reason,
        })?;
    let answers = join_all(clusters.iter().map(|cluster| ask(cluster, &identity.uid))).await;
    Ok(report(clusters.into_iter().zip(answers).collect(), nodes))
}

async fn ask(cluster: &LowerCluster, upper_uid: &str) -> Result<Answer, String> {
    let client = cluster.open().await?;
    let identity = connect::identify(&client).await?;
    let asked = Instant::now();
    connect::identify(&client).await?;
    Ok(Answer {
        latency_millis: asked.elapsed().as_millis(),
        snapshot: Snapshot::take(&client, upper_uid).await?,
        identity,
    })
}

fn report(clusters: Vec<(LowerCluster, Result<Answer, String>)>, nodes: Vec<VirtualNode>) -> Clusters {
    let mut nodes = nodes;
    let mut rows: Vec<Row> = clusters
        .into_iter()
        .map(|(cluster, answer)| {
            let (own, others) = std::mem::take(&mut nodes)
                .into_iter()
                .partition(|node| node.cluster == cluster.id);
            nodes = others;
            Row::of(cluster, answer, own)
        })
        .collect();
    // What is left belongs to clusters without a Secret.
    while let Some(id) = nodes.first().map(|node| node.cluster.clone()) {
        let (own, others) = std::mem::take(&mut nodes)
            .into_iter()
            .partition(|node| node.cluster == id);
        nodes = others;
        rows.push(Row::by_file(id, own));
    }
    Clusters { clusters: rows }
}

// === impl Row ===

impl Row {
    fn of(cluster: LowerCluster, answer: Result<Answer, String>, virtual_nodes: Vec<VirtualNode>) -> Self {
        let message = answer
            .as_ref()
            .err()
            .cloned()
            .or_else(|| not_ready(&virtual_nodes));
        let state = match (&answer, &message) {
            _ if cluster.leaving => State::Leaving,
            (Err(_), _) => State::Unreachable,
            (Ok(_), None) => State::Ready,
            (Ok(_), Some(_)) => State::NotReady,
        };
        let answer = answer.ok();
        let fragments = answer
            .as_ref()
            .map(|answer| Fragments::of(&answer.snapshot.model, &[]));
        Self {
            id: cluster.id,
            secret: Some(cluster.secret),
            state,
            message,
            version: answer.as_ref().map(|answer| answer.identity.version.clone()),
            latency_millis: answer.as_ref().map(|answer| answer.latency_millis),
            nodes: answer.as_ref().map(|answer| Count {
                ready: answer.snapshot.ready_nodes,
                all: answer.snapshot.nodes,
            }),
            free: fragments.as_ref().map(|fragments| fragments.free.clone()),
            largest_fragment: fragments.map(|fragments| fragments.largest),
            pods: answer.map(|answer| answer.snapshot.our_pods),
            virtual_nodes,
        }
    }

    fn by_file(id: String, virtual_nodes: Vec<VirtualNode>) -> Self {
        Self {
            id,
            secret: None,
            state: State::ByFile,
            message: not_ready(&virtual_nodes),
            version: None,
            latency_millis: None,
            nodes: None,
            free: None,
            largest_fragment: None,
            pods: None,
            virtual_nodes,
        }
    }

    fn cells(&self) -> [String; 9] {
        let dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        let room = |lane: Lane| {
            let (free, largest) = (self.free.as_ref()?, self.largest_fragment.as_ref()?);
            Some(format!("{} / {}", amount(free, &lane), amount(largest, &lane)))
        };
        let oldest = self
            .virtual_nodes
            .iter()
            .filter_map(|node| node.heartbeat_age)
            .max();
        [
            self.id.clone(),
            format!("{:?}", self.state),
            dash(self.version.clone()),
            dash(self.nodes.map(|nodes| format!("{}/{}", nodes.ready, nodes.all))),
            dash(room(Lane::MilliCpu)),
            dash(room(Lane::Memory)),
            dash(self.pods.map(|pods| pods.to_string())),
            dash(self.latency_millis.map(|millis| format!("{millis} ms"))),
            dash(oldest.map(|seconds| format!("{seconds} s"))),
        ]
    }
}

/// What keeps a cluster whose API server answers from being used.
fn not_ready(nodes: &[VirtualNode]) -> Option<String> {
    if nodes.is_empty() {
        return Some("no virtual node stands for it".to_owned());
    }
    let node = nodes.iter().find(|node| !node.ready)?;
    Some(format!(
        "virtual node {} is not ready: {}",
        node.name, node.reason
    ))
}

/// The amount of one resource, as a quantity.
pub(crate) fn amount(resources: &Resources, lane: &Lane) -> String {
    let amounts = resources.to_json();
    let amount = amounts.get(lane.name()).and_then(|amount| amount.as_str());
    amount.unwrap_or("0").to_owned()
}

impl Report for Clusters {
    fn text(&self) -> String {
        if self.clusters.is_empty() {
            return "There is no lower cluster yet; add one with: kubectl tensile join\n".to_owned();
        }
        let rows: Vec<_> = self.clusters.iter().map(Row::cells).collect();
        let head = [
            "ID",
            "STATE",
            "VERSION",
            "NODES",
            "CPU FREE / LARGEST",
            "MEMORY FREE / LARGEST",
            "PODS",
            "LATENCY",
            "HEARTBEAT",
        ];
        let notes = self.clusters.iter().filter_map(|row| {
            let message = row.message.as_ref()?;
            Some(format!("{}: {message}\n", row.id))
        });
        table(head, &rows) + &notes.collect::<String>()
    }

    fn outcome(&self) -> Outcome {
        let good = |row: &Row| row.message.is_none();
        Outcome::good_if(self.clusters.iter().all(good))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn mk_cluster(id: &str, leaving: bool) -> LowerCluster {
        LowerCluster {
            id: id.to_owned(),
            secret: format!("secret-{id}"),
            kubeconfig: Ok(String::new()),
            leaving,
        }
    }

    fn mk_node(cluster: &str, ready: bool) -> VirtualNode {
        VirtualNode {
            name: format!("vn-{cluster}"),
            cluster: cluster.to_owned(),
            ready,
            reason: "Because".to_owned(),
            heartbeat_age: Some(4),
            ..VirtualNode::default()
        }
    }

    fn mk_answer() -> Answer {
        let mut snapshot = Snapshot {
            nodes: 2,
            ready_nodes: 1,
            our_pods: 3,
            ..Snapshot::default()
        };
        for (name, cpu) in [("n", "2"), ("m", "1500m")] {
            let node =
                json!({"metadata": {"name": name}, "status": {"allocatable": {"cpu": cpu, "memory": "1Gi"}}});
            snapshot.model.apply_node(&serde_json::from_value(node).unwrap());
        }
        Answer {
            identity: Identity {
                uid: "u".to_owned(),
                version: "v1.36.3".to_owned(),
            },
            latency_millis: 5,
            snapshot,
        }
    }

    fn state(leaving: bool, answer: Result<Answer, String>, nodes: Vec<VirtualNode>) -> State {
        report(vec![(mk_cluster("a", leaving), answer)], nodes).clusters[0].state
    }

    #[test]
    fn the_state_is_what_the_worst_of_secret_answer_and_nodes_says() {
        let down = || Err("connection refused".to_owned());
        for (what, found, expected) in [
            (
                "all well",
                state(false, Ok(mk_answer()), vec![mk_node("a", true)]),
                State::Ready,
            ),
            ("no node", state(false, Ok(mk_answer()), vec![]), State::NotReady),
            (
                "node not ready",
                state(false, Ok(mk_answer()), vec![mk_node("a", false)]),
                State::NotReady,
            ),
            (
                "no answer",
                state(false, down(), vec![mk_node("a", true)]),
                State::Unreachable,
            ),
            ("leaving", state(true, down(), vec![]), State::Leaving),
        ] {
            assert_eq!(found, expected, "{what}");
        }
    }

    #[test]
    fn text_shows_rooms_fragments_and_what_is_wrong() {
        let clusters = vec![
            (mk_cluster("a", false), Ok(mk_answer())),
            (mk_cluster("b", false), Err("no route".to_owned())),
        ];
        let report = report(clusters, vec![mk_node("a", true), mk_node("file", true)]);
        let expected = "\
ID     STATE         VERSION   NODES   CPU FREE / LARGEST   MEMORY FREE / LARGEST   PODS   LATENCY   HEARTBEAT
a      Ready         v1.36.3   1/2     3500m / 2            2Gi / 1Gi               3      5 ms      4 s
b      Unreachable   -         -       -                    -                       -      -         -
file   ByFile        -         -       -                    -                       -      -         4 s
b: no route
";
        assert_eq!(report.text(), expected);
        assert_eq!(report.outcome(), Outcome::Bad);
    }
}
