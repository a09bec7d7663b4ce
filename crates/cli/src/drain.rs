//! `drain`: takes pods off virtual nodes, as `kubectl drain` does for ordinary ones.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use kube::api::ListParams;
use serde::Serialize;
use tokio::time::Instant;

use crate::connect::Upper;
use crate::error::CliError;
use crate::evict::{Eviction, evict};
use crate::nodes::{self, VirtualNode};
use crate::output::{Outcome, Report};

/// Between two looks at pods that are on their way out, and tries at a budget that did not allow an eviction.
const INTERVAL: Duration = Duration::from_secs(2);

/// Flags of the command.
#[derive(Clone, Debug, clap::Args)]
pub struct DrainArgs {
    /// A virtual node, or a lower cluster's id for all of its virtual nodes.
    pub target: String,
    /// Also evict pods that nobody will make again.
    #[arg(long)]
    pub force: bool,
    /// How long to wait until the pods are gone, in seconds.
    #[arg(long, default_value = "300")]
    pub timeout: u64,
}

/// The answer.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Drained {
    /// Nodes that were cordoned.
    nodes: Vec<String>,
    /// Pods that are gone.
    evicted: Vec<String>,
    /// Pods that are still there, with the reason.
    remaining: Vec<Remaining>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Remaining {
    pod: String,
    reason: String,
}

/// A pod on one of the nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Victim {
    namespace: String,
    name: String,
    uid: String,
    fate: Fate,
}

/// What drain does with a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Evict,
    /// Its DaemonSet would make it again at once.
    Ignore,
    /// Nobody would make it again.
    Bare,
}

/// Cordons, evicts, and waits until the pods are gone.
pub(crate) async fn run(upper: &Upper, args: &DrainArgs) -> Result<Drained, CliError> {
    let targets = targets(nodes::list(upper).await?, &args.target)?;
    let mut drained = Drained::default();
    for node in &targets {
        Api::<Node>::all(upper.client.clone())
            .cordon(node)
            .await
            .map_err(CliError::api(format!("cannot cordon {node}")))?;
        drained.nodes.push(node.clone());
    }
    let victims = victims(upper, &targets).await?;
    refuse_bare(&victims, args.force)?;
    let waiting: Vec<Victim> = victims
        .into_iter()
        .filter(|victim| victim.fate != Fate::Ignore)
        .collect();
    let deadline = Instant::now() + Duration::from_secs(args.timeout);
    drained.empty(upper, waiting, deadline).await?;
    Ok(drained)
}

/// The nodes that `target` names.
fn targets(nodes: Vec<VirtualNode>, target: &str) -> Result<Vec<String>, CliError> {
    let names: Vec<String> = nodes
        .into_iter()
        .filter(|node| node.name == target || node.cluster == target)
        .map(|node| node.name)
        .collect();
    if names.is_empty() {
        let message = format!(
            "{target} is neither a virtual node nor the id of a lower cluster; see: kubectl tensile clusters"
        );
        return Err(CliError::NotFound(message));
    }
    Ok(names)
}

async fn victims(upper: &Upper, nodes: &[String]) -> Result<Vec<Victim>, CliError> {
    let mut found = Vec::new();
    for node in nodes {
        let on_node = ListParams::default().fields(&format!("spec.nodeName={node}"));
        let pods = Api::<Pod>::all(upper.client.clone())
            .list(&on_node)
            .await
            .map_err(CliError::api(format!("cannot list the pods of {node}")))?;
        found.extend(pods.iter().filter_map(Victim::of));
    }
    Ok(found)
}

fn refuse_bare(victims: &[Victim], force: bool) -> Result<(), CliError> {
    let bare: Vec<String> = victims
        .iter()
        .filter(|victim| victim.fate == Fate::Bare && !force)
        .map(Victim::path)
        .collect();
    if bare.is_empty() {
        return Ok(());
    }
    Err(CliError::Refused(format!(
        "the nodes are cordoned, but no controller would make these pods again: {}; give --force to lose them",
        bare.join(", ")
    )))
}

// === impl Victim ===

impl Victim {
    /// `None` for pods that have ended.
    fn of(pod: &Pod) -> Option<Self> {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if matches!(phase, Some("Succeeded" | "Failed")) {
            return None;
        }
        let controller = pod
            .metadata
            .owner_references
            .iter()
            .flatten()
            .find(|owner| owner.controller == Some(true));
        let fate = match controller.map(|owner| owner.kind.as_str()) {
            Some("DaemonSet") => Fate::Ignore,
            Some(_) => Fate::Evict,
            None => Fate::Bare,
        };
        Some(Self {
            namespace: pod.metadata.namespace.clone()?,
            name: pod.metadata.name.clone()?,
            uid: pod.metadata.uid.clone()?,
            fate,
        })
    }

    fn path(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Whether this very pod, not a namesake, is still there.
    async fn is_there(&self, upper: &Upper) -> Result<bool, CliError> {
        let pods: Api<Pod> = Api::namespaced(upper.client.clone(), &self.namespace);
        let found = pods
            .get_metadata_opt(&self.name)
            .await
            .map_err(CliError::api(format!("cannot look for pod {}", self.path())))?;
        Ok(found.is_some_and(|pod| pod.metadata.uid.as_deref() == Some(&self.uid)))
    }
}

// === impl Drained ===

impl Drained {
    /// Goes through the pods again and again until none is left or time is up.
    async fn empty(
        &mut self,
        upper: &Upper,
        mut waiting: Vec<Victim>,
        deadline: Instant,
    ) -> Result<(), CliError> {
        loop {
            let mut left = Vec::new();
            self.remaining.clear();
            for victim in waiting {
                let answer = evict(&upper.client, &victim.namespace, &victim.name, &victim.uid).await;
                if !victim.is_there(upper).await? {
                    self.evicted.push(victim.path());
                    continue;
                }
                let reason = match answer {
                    Eviction::Accepted => "still ending".to_owned(),
                    Eviction::Later(reason) | Eviction::Refused(reason) => reason,
                };
                self.remaining.push(Remaining {
                    pod: victim.path(),
                    reason,
                });
                left.push(victim);
            }
            if left.is_empty() || Instant::now() >= deadline {
                return Ok(());
            }
            waiting = left;
            tokio::time::sleep_until(deadline.min(Instant::now() + INTERVAL)).await;
        }
    }
}

impl Report for Drained {
    fn text(&self) -> String {
        let nodes = self.nodes.iter().map(|node| format!("node {node} cordoned\n"));
        let evicted = self.evicted.iter().map(|pod| format!("pod {pod} evicted\n"));
        let remaining = self
            .remaining
            .iter()
            .map(|left| format!("pod {} is still there: {}\n", left.pod, left.reason));
        nodes.chain(evicted).chain(remaining).collect()
    }

    fn outcome(&self) -> Outcome {
        Outcome::good_if(self.remaining.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn mk_pod(owner: &Value, phase: &str) -> Pod {
        let pod = json!({
            "metadata": {"namespace": "ns", "name": "p", "uid": "u", "ownerReferences": owner},
            "status": {"phase": phase},
        });
        serde_json::from_value(pod).unwrap()
    }

    fn mk_owner(kind: &str) -> Value {
        json!([{"apiVersion": "apps/v1", "kind": kind, "name": "o", "uid": "o", "controller": true}])
    }

    #[test]
    fn pods_are_evicted_ignored_or_asked_about_by_their_owner() {
        for (owner, phase, expected) in [
            (mk_owner("ReplicaSet"), "Running", Some(Fate::Evict)),
            (mk_owner("DaemonSet"), "Pending", Some(Fate::Ignore)),
            (json!([]), "Running", Some(Fate::Bare)),
            (json!([]), "Succeeded", None),
        ] {
            let fate = Victim::of(&mk_pod(&owner, phase)).map(|victim| victim.fate);
            assert_eq!(fate, expected, "{owner} {phase}");
        }
    }

    #[test]
    fn bare_pods_are_lost_only_by_force() {
        let bare = Victim::of(&mk_pod(&json!([]), "Running")).unwrap();
        let refusal = refuse_bare(std::slice::from_ref(&bare), false)
            .unwrap_err()
            .to_string();
        assert!(
            refusal.contains("ns/p") && refusal.contains("--force"),
            "{refusal}"
        );
        assert!(refuse_bare(&[bare], true).is_ok());
    }

    #[test]
    fn a_target_is_a_node_or_a_cluster() {
        let node = |name: &str, cluster: &str| VirtualNode {
            name: name.to_owned(),
            cluster: cluster.to_owned(),
            ..VirtualNode::default()
        };
        let nodes = || vec![node("a1", "a"), node("a2", "a"), node("b1", "b")];
        assert_eq!(targets(nodes(), "a").unwrap(), ["a1", "a2"]);
        assert_eq!(targets(nodes(), "b1").unwrap(), ["b1"]);
        assert!(targets(nodes(), "c").is_err());
    }
}
