//! `leave`: lets a lower cluster go by deleting its Secret, and waits until it is gone.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde::Serialize;
use serde_json::json;
use tensile_core::names;
use tokio::time::Instant;

use crate::connect::Upper;
use crate::error::CliError;
use crate::lower::{self, LowerCluster};
use crate::nodes;
use crate::orphan;
use crate::output::{Outcome, Report};

/// Between two looks whether the cluster is gone.
const INTERVAL: Duration = Duration::from_millis(500);

/// How long an abandoned cluster may take: nothing is asked of it any more.
const ABANDONED: Duration = Duration::from_secs(30);

/// Flags of the command.
#[derive(Clone, Debug, clap::Args)]
pub struct LeaveArgs {
    /// Id of the lower cluster.
    #[arg(required_unless_present = "all")]
    pub id: Option<String>,
    /// All lower clusters.
    #[arg(long, conflicts_with = "id")]
    pub all: bool,
    /// Do not touch the lower cluster, because it is dead or no longer ours; what runs there stays.
    #[arg(long)]
    pub abandon: bool,
    /// Abandon what has not left in time; what nobody runs any more is let go by this command itself.
    #[arg(long)]
    pub abandon_late: bool,
    /// How long to wait until it is gone, in seconds; 0 does not wait.
    #[arg(long, default_value = "300")]
    pub timeout: u64,
}

/// The answer.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Left {
    clusters: Vec<String>,
    /// Those that were not asked to let go.
    abandoned: Vec<String>,
    /// What is still there.
    remaining: Vec<String>,
}

/// Deletes the Secrets and waits for what follows from it.
pub(crate) async fn run(upper: &Upper, args: &LeaveArgs) -> Result<Left, CliError> {
    let leaving = chosen(lower::list(upper).await?, args, &upper.namespace)?;
    let mut left = Left {
        clusters: leaving.iter().map(|cluster| cluster.id.clone()).collect(),
        abandoned: Vec::new(),
        remaining: Vec::new(),
    };
    if args.abandon {
        left.abandon(upper, &leaving).await?;
    }
    for cluster in &leaving {
        secrets(upper)
            .delete(&cluster.secret, &DeleteParams::default())
            .await
            .map_err(CliError::api(format!("cannot delete Secret {}", cluster.secret)))?;
    }
    left.wait(upper, Duration::from_secs(args.timeout)).await?;
    if args.abandon_late && !left.remaining.is_empty() {
        let late = lower::list(upper)
            .await?
            .into_iter()
            .filter(|cluster| left.clusters.contains(&cluster.id));
        left.abandon(upper, &late.collect::<Vec<_>>()).await?;
        left.wait(upper, ABANDONED).await?;
    }
    if args.abandon_late && !left.remaining.is_empty() {
        orphan::release(upper, &left.clusters).await?;
        left.wait(upper, ABANDONED).await?;
    }
    Ok(left)
}

fn secrets(upper: &Upper) -> Api<Secret> {
    Api::namespaced(upper.client.clone(), &upper.namespace)
}

/// The clusters that the arguments name.
fn chosen(
    clusters: Vec<LowerCluster>,
    args: &LeaveArgs,
    namespace: &str,
) -> Result<Vec<LowerCluster>, CliError> {
    let named = |cluster: &LowerCluster| args.id.as_ref().is_none_or(|id| *id == cluster.id);
    let chosen: Vec<LowerCluster> = clusters.into_iter().filter(named).collect();
    match &args.id {
        Some(id) if chosen.is_empty() => Err(CliError::NotFound(format!(
            "no Secret of namespace {namespace} has the label {}={id}",
            names::CLUSTER
        ))),
        _ => Ok(chosen),
    }
}

// === impl Left ===

impl Left {
    async fn abandon(&mut self, upper: &Upper, clusters: &[LowerCluster]) -> Result<(), CliError> {
        for cluster in clusters {
            let patch = json!({"metadata": {"annotations": {names::ABANDON: "true"}}});
            secrets(upper)
                .patch(&cluster.secret, &PatchParams::default(), &Patch::Merge(patch))
                .await
                .map_err(CliError::api(format!(
                    "cannot annotate Secret {}",
                    cluster.secret
                )))?;
            self.abandoned.push(cluster.id.clone());
        }
        Ok(())
    }

    /// Waits until nothing is left, or time is up.
    async fn wait(&mut self, upper: &Upper, timeout: Duration) -> Result<(), CliError> {
        let deadline = Instant::now() + timeout;
        loop {
            self.remaining = remaining(upper, &self.clusters).await?;
            if self.remaining.is_empty() || Instant::now() >= deadline {
                return Ok(());
            }
            tokio::time::sleep(INTERVAL).await;
        }
    }
}

/// What of the clusters the upper cluster still has.
async fn remaining(upper: &Upper, ids: &[String]) -> Result<Vec<String>, CliError> {
    let secrets = lower::list(upper)
        .await?
        .into_iter()
        .filter(|cluster| ids.contains(&cluster.id));
    let secrets: Vec<String> = secrets
        .map(|cluster| format!("Secret {}", cluster.secret))
        .collect();
    let nodes = nodes::list(upper)
        .await?
        .into_iter()
        .filter(|node| ids.contains(&node.cluster));
    Ok(secrets
        .into_iter()
        .chain(nodes.map(|node| format!("Node {}", node.name)))
        .collect())
}

impl Report for Left {
    fn text(&self) -> String {
        let gone = self.clusters.iter().map(|id| {
            let how = if self.abandoned.contains(id) {
                "was abandoned: what runs there stays"
            } else {
                "has left"
            };
            format!("cluster {id} {how}\n")
        });
        if self.remaining.is_empty() {
            return gone.collect();
        }
        format!(
            "leaving: {}; still there: {}\nIf a cluster is dead: kubectl tensile leave ID --abandon\n",
            self.clusters.join(", "),
            self.remaining.join(", ")
        )
    }

    fn outcome(&self) -> Outcome {
        Outcome::good_if(self.remaining.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mk_left(remaining: &[&str]) -> Left {
        Left {
            clusters: vec!["a".to_owned(), "b".to_owned()],
            abandoned: vec!["b".to_owned()],
            remaining: remaining.iter().map(|&text| text.to_owned()).collect(),
        }
    }

    fn mk_args(id: Option<&str>) -> LeaveArgs {
        LeaveArgs {
            id: id.map(str::to_owned),
            all: id.is_none(),
            abandon: false,
            abandon_late: false,
            timeout: 0,
        }
    }

    #[test]
    fn what_is_left_is_named_with_the_way_out() {
        let good = mk_left(&[]);
        assert_eq!(
            good.text(),
            "cluster a has left\ncluster b was abandoned: what runs there stays\n"
        );
        assert_eq!(good.outcome(), Outcome::Good);
        let bad = mk_left(&["Secret s", "Node vn-a"]);
        assert_eq!(bad.outcome(), Outcome::Bad);
        assert!(
            bad.text().contains("Secret s, Node vn-a") && bad.text().contains("--abandon"),
            "{}",
            bad.text()
        );
    }

    #[test]
    fn one_cluster_or_all_of_them_leave() {
        let clusters = || {
            ["a", "b"].map(|id| LowerCluster {
                id: id.to_owned(),
                secret: id.to_owned(),
                kubeconfig: Ok(String::new()),
                leaving: false,
            })
        };
        let count = |id| chosen(clusters().into(), &mk_args(id), "ns").map(|chosen| chosen.len());
        assert_eq!(count(None).unwrap(), 2);
        assert_eq!(count(Some("b")).unwrap(), 1);
        assert!(
            count(Some("c"))
                .unwrap_err()
                .to_string()
                .contains("tensile.dev/cluster=c")
        );
        assert_eq!(chosen(vec![], &mk_args(None), "ns").unwrap(), []);
    }
}
