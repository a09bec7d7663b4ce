//! Why nodes are refused, and how often.

use std::collections::BTreeMap;
use std::fmt;

use tensile_core::resources::Lane;

/// Why a node cannot take a pod. The texts are kube-scheduler's, so that messages read alike on all levels.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// The pod names another node.
    NodeName,
    /// The node is cordoned.
    Unschedulable,
    /// A taint that the pod does not tolerate: key and value.
    Taint(Box<str>, Box<str>),
    /// Node selector or required node affinity.
    NodeAffinity,
    /// A host port is taken.
    HostPorts,
    /// Too little of a resource.
    Insufficient(Lane),
    /// A topology spread constraint would be broken.
    Spread,
    /// The node lacks the label that a topology spread constraint counts by.
    SpreadLabel,
    /// Pods that the pod must be near are not there.
    PodAffinity,
    /// Pods that the pod must not be near are there.
    PodAntiAffinity,
    /// Pods are there that do not want this one near.
    ExistingAntiAffinity,
    /// A claim does not exist: its `namespace/name`.
    ClaimMissing(Box<str>),
    /// A claim is being deleted: its `namespace/name`.
    ClaimDeleting(Box<str>),
    /// A claim has lost its volume: its `namespace/name`.
    ClaimLost(Box<str>),
    /// A claim that is bound at once is not bound.
    ClaimUnbound,
    /// A claim whose volume does not exist.
    VolumeMissing,
    /// A claim may be used by one pod only and already is.
    ClaimInUse,
    /// A bound volume cannot be reached from the node.
    VolumeNodeAffinity,
    /// No volume can be bound or provisioned on the node.
    VolumeBinding,
    /// A bound volume is in another zone.
    VolumeZone,
    /// The driver takes no more volumes on the node.
    VolumeLimit,
}

/// Whether a refusal can end without the node itself changing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// Other pods are in the way, or a claim is not there yet: once that changes, the node may do.
    Now,
    /// The node would not do even if it were empty.
    Never,
}

/// How many nodes were refused for each reason. A node that lacks two resources counts for both.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(Vec<(Reason, u32)>);

// === impl Reason ===

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Taint(key, value) => return write!(f, "node(s) had untolerated taint {{{key}: {value}}}"),
            Self::Insufficient(Lane::Pods) => "Too many pods",
            Self::Insufficient(lane) => return write!(f, "Insufficient {lane}"),
            Self::ClaimMissing(key) => return write!(f, "persistentvolumeclaim \"{key}\" not found"),
            Self::ClaimDeleting(key) => return write!(f, "persistentvolumeclaim \"{key}\" is being deleted"),
            Self::ClaimLost(key) => {
                return write!(
                    f,
                    "persistentvolumeclaim \"{key}\" bound to non-existent persistentvolume"
                );
            }
            Self::NodeName => "node(s) didn't match the requested node name",
            Self::Unschedulable => "node(s) were unschedulable",
            Self::NodeAffinity => "node(s) didn't match Pod's node affinity/selector",
            Self::HostPorts => "node(s) didn't have free ports for the requested pod ports",
            Self::Spread => "node(s) didn't match pod topology spread constraints",
            Self::SpreadLabel => {
                "node(s) didn't match pod topology spread constraints (missing required label)"
            }
            Self::PodAffinity => "node(s) didn't match pod affinity rules",
            Self::PodAntiAffinity => "node(s) didn't match pod anti-affinity rules",
            Self::ExistingAntiAffinity => "node(s) didn't satisfy existing pods anti-affinity rules",
            Self::ClaimUnbound => "pod has unbound immediate PersistentVolumeClaims",
            Self::VolumeMissing => {
                "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
            }
            Self::ClaimInUse => {
                "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod"
            }
            Self::VolumeNodeAffinity => "node(s) didn't match PersistentVolume's node affinity",
            Self::VolumeBinding => "node(s) didn't find available persistent volumes to bind",
            Self::VolumeZone => "node(s) had no available volume zone",
            Self::VolumeLimit => "node(s) exceed max volume count",
        };
        f.write_str(text)
    }
}

// === impl Tally ===

impl Tally {
    /// Counts one more node.
    pub fn note(&mut self, reason: Reason) {
        self.add(reason, 1);
    }

    /// Counts `nodes` more nodes.
    pub fn add(&mut self, reason: Reason, nodes: u32) {
        // Neighbours in the row are often refused alike, and the reasons are few.
        match self.0.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, count)) => *count += nodes,
            None => {
                // A kept answer has a tally for each few nodes, most with one reason.
                self.0.reserve_exact(1);
                self.0.push((reason, nodes));
            }
        }
    }

    /// Counts what `other` has counted, too.
    pub(crate) fn extend(&mut self, other: &Self) {
        for (reason, nodes) in &other.0 {
            self.add(reason.clone(), *nodes);
        }
    }

    /// The reasons, the most frequent first.
    pub fn iter(&self) -> impl Iterator<Item = (&Reason, u32)> {
        let mut sorted: Vec<_> = self.0.iter().map(|(reason, count)| (reason, *count)).collect();
        sorted.sort_by(|(left, few), (right, many)| many.cmp(few).then_with(|| left.cmp(right)));
        sorted.into_iter()
    }

    /// The reasons as texts, with their counts.
    #[must_use]
    pub fn by_text(&self) -> BTreeMap<String, u32> {
        self.0
            .iter()
            .map(|(reason, count)| (reason.to_string(), *count))
            .collect()
    }
}

/// `80 Insufficient cpu, 40 node(s) were unschedulable`.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (reason, count)) in self.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(f, "{separator}{count} {reason}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_frequent_reason_comes_first() {
        let mut tally = Tally::default();
        tally.note(Reason::Unschedulable);
        tally.add(Reason::Insufficient(Lane::MilliCpu), 2);
        tally.note(Reason::Taint("k".into(), "v".into()));
        tally.note(Reason::Insufficient(Lane::Pods));
        tally.note(Reason::Insufficient(Lane::MilliCpu));
        let expected = "3 Insufficient cpu, 1 node(s) were unschedulable, 1 node(s) had untolerated taint {k: v}, 1 Too many pods";
        assert_eq!(tally.to_string(), expected);
    }
}
