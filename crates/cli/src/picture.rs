//! All clusters as they are at this moment, in the form that extender and descheduler judge by.

use std::collections::BTreeMap;

use futures::future::join_all;
use serde::Deserialize;
use tensile_core::names;
use tensile_world::{Settings, World};

use crate::connect::{self, Upper};
use crate::error::CliError;
use crate::lower::{self, LowerCluster, Snapshot, items};

/// What is looked at of a node.
#[derive(Deserialize)]
struct Node {
    metadata: NodeMetadata,
}

#[derive(Deserialize)]
struct NodeMetadata {
    name: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
}

/// Asks the upper cluster and all lower ones. A lower cluster that does not answer is in doubt.
pub(crate) async fn world(upper: &Upper) -> Result<World, CliError> {
    let asked = |what: &str| {
        let what = what.to_owned();
        move |reason| CliError::Api { what, reason }
    };
    let identity = connect::identify(&upper.client)
        .await
        .map_err(asked("the upper cluster"))?;
    let selector = format!("{}%3D{}", names::NODE_TYPE, names::NODE_TYPE_VALUE);
    let path = format!("/api/v1/nodes?labelSelector={selector}");
    let nodes: Vec<Node> = items(&upper.client, &path)
        .await
        .map_err(asked("the virtual nodes"))?;
    let clusters = lower::list(upper).await?;
    let snapshots = join_all(clusters.iter().map(|cluster| snapshot(cluster, &identity.uid))).await;
    let mut world = World::new(Settings::default());
    for Node { metadata } in &nodes {
        world.apply_node(&metadata.name, &metadata.labels, None);
    }
    for (cluster, snapshot) in clusters.iter().zip(snapshots) {
        let known = world.cluster_mut(&cluster.id);
        match snapshot {
            Ok(snapshot) => known.model = snapshot.model,
            Err(doubt) => known.doubt = Some(doubt),
        }
    }
    Ok(world)
}

async fn snapshot(cluster: &LowerCluster, upper_uid: &str) -> Result<Snapshot, String> {
    Snapshot::take(&cluster.open().await?, upper_uid).await
}
