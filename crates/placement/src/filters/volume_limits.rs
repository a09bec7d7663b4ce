//! A node takes only so many volumes of a CSI driver.
//!
//! The rules are those of kube-scheduler's nodevolumelimits plugin; a volume that several pods share counts
//! once. VolumeAttachments that outlive their pods are not looked at.

use std::collections::{BTreeMap, BTreeSet};

use super::refuse;
use crate::candidate::Candidate;
use crate::cluster::Cluster;
use crate::node::Node;
use crate::reason::{Reason, Refusal, Tally};
use crate::storage::{Storage, claim_key};

/// Driver and handle; a claim without a volume stands for itself.
type Attachment<'a> = (&'a str, &'a str);

/// The volumes that the pod would attach.
#[derive(Debug)]
pub(super) struct VolumeLimits<'a> {
    storage: &'a Storage,
    wanted: BTreeSet<Attachment<'a>>,
}

// === impl VolumeLimits ===

impl<'a> VolumeLimits<'a> {
    pub(super) fn prepare(cluster: &'a Cluster, candidate: &Candidate) -> Self {
        let storage = cluster.storage();
        let claims = candidate.pod.claims.iter();
        let wanted = claims
            .filter_map(|name| attachment(storage, &candidate.pod.namespace, name))
            .collect();
        Self { storage, wanted }
    }

    pub(super) fn check(&self, node: &Node<'_>, tally: &mut Tally) -> Option<Refusal> {
        if self.wanted.is_empty() {
            return None;
        }
        let limits = &self.storage.csi_nodes.get(node.name)?.limits;
        let mut attached: BTreeSet<Attachment<'_>> = BTreeSet::new();
        for (shape, _) in node.pods() {
            let names = shape.claims.iter();
            attached.extend(names.filter_map(|name| attachment(self.storage, &shape.namespace, name)));
        }
        let there = per_driver(&attached);
        let new: BTreeSet<Attachment<'_>> = self.wanted.difference(&attached).copied().collect();
        let exceeds = |(driver, new): (&str, u32)| {
            let there = there.get(driver).copied().unwrap_or_default();
            limits.get(driver).is_some_and(|limit| there + new > *limit)
        };
        if per_driver(&new).into_iter().any(exceeds) {
            return refuse(Reason::VolumeLimit, Refusal::Now, tally);
        }
        None
    }
}

/// What a claim attaches, if that is a CSI volume.
fn attachment<'a>(storage: &'a Storage, namespace: &str, name: &str) -> Option<Attachment<'a>> {
    let claim = storage.claims.get(&claim_key(namespace, name))?;
    let volume = claim.volume.as_ref().and_then(|name| storage.volumes.get(name));
    if let Some(volume) = volume {
        let (driver, handle) = volume.csi.as_ref()?;
        return Some((driver, handle));
    }
    // A volume that is named but not there counts as one that is still to be provisioned.
    let driver = storage.classes.get(&claim.class)?.provisioner.as_deref()?;
    Some((driver, &claim.key))
}

fn per_driver<'a>(attachments: &BTreeSet<Attachment<'a>>) -> BTreeMap<&'a str, u32> {
    let mut counts = BTreeMap::new();
    for (driver, _) in attachments {
        *counts.entry(*driver).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{mk_claim, mk_claimant, mk_class, mk_cluster, mk_node, mk_volume, refusals, store};

    /// A node that takes `limit` volumes, with pods that mount `mounted`; claims a, b, c are bound to va, vb, vc.
    fn mk_limited(limit: &Value, mounted: &[&str]) -> Cluster {
        let mut cluster = mk_cluster(&[mk_node("n", &json!({"zone": "z"}))], &[]);
        let driver = json!({"name": "csi", "allocatable": {"count": limit}});
        let node = json!({"kind": "CSINode", "metadata": {"name": "n"}, "spec": {"drivers": [driver]}});
        store(&mut cluster, &[node, mk_class("csi"), mk_claim("waiting", "")]);
        store(&mut cluster, &[mk_claim("lost", "gone")]);
        for name in ["a", "b", "c"] {
            let volume = format!("v{name}");
            store(&mut cluster, &[mk_claim(name, &volume), mk_volume(&volume, "z")]);
        }
        for (index, name) in mounted.iter().enumerate() {
            cluster.reserve(format!("{index}").as_str().into(), &mk_claimant(&[name]), "n");
        }
        cluster
    }

    #[test]
    fn distinct_volumes_count_against_the_limit_of_their_driver() {
        for (what, limit, mounted, claims, fits) in [
            ("no limit", json!(null), vec!["a"], vec!["b", "c"], true),
            ("room for one", json!(2), vec!["a"], vec!["b"], true),
            ("no room for two", json!(2), vec!["a"], vec!["b", "c"], false),
            ("no room for one", json!(1), vec!["a"], vec!["b"], false),
            ("the same volume again", json!(1), vec!["a"], vec!["a"], true),
            (
                "two pods share one volume",
                json!(2),
                vec!["a", "a"],
                vec!["b"],
                true,
            ),
            (
                "one that waits counts, too",
                json!(1),
                vec!["a"],
                vec!["waiting"],
                false,
            ),
            (
                "one whose volume is gone counts as one that waits",
                json!(1),
                vec!["lost"],
                vec!["b"],
                false,
            ),
            ("without claims", json!(1), vec!["a", "b"], vec![], true),
        ] {
            let refused = refusals(&mk_limited(&limit, &mounted), &mk_claimant(&claims));
            let expected: &[(String, String)] = &[("n".into(), Reason::VolumeLimit.to_string())];
            assert_eq!(refused, if fits { &[] } else { expected }, "{what}");
        }
    }
}
