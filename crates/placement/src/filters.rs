//! kube-scheduler's filters, one file each, in the order in which kube-scheduler asks them.
//!
//! A filter is prepared once per pod and cluster (what kube-scheduler calls PreFilter) and then asked about
//! nodes. It says whether it refuses a node, and notes why. As in kube-scheduler the first filter that refuses
//! a node decides; those after it are not asked.

use crate::candidate::{Candidate, Unknown};
use crate::cluster::Cluster;
use crate::node::Node;
use crate::reason::{Reason, Refusal, Tally};

mod node_affinity;
mod node_name;
mod pod_affinity;
mod ports;
mod resources;
mod spread;
mod taints;
mod unschedulable;
mod volume_binding;
mod volume_limits;
mod volume_zone;

use pod_affinity::PodAffinity;
use spread::Spread;
use volume_binding::VolumeBinding;
use volume_limits::VolumeLimits;
use volume_zone::VolumeZone;

/// All filters, prepared for one pod and one cluster.
#[derive(Debug)]
pub(crate) struct Filters<'a> {
    candidate: &'a Candidate,
    volume_limits: VolumeLimits<'a>,
    volume_binding: VolumeBinding<'a>,
    volume_zone: VolumeZone<'a>,
    spread: Spread<'a>,
    pod_affinity: PodAffinity<'a>,
}

// === impl Filters ===

impl<'a> Filters<'a> {
    /// The pod.
    pub(crate) fn candidate(&self) -> &Candidate {
        self.candidate
    }

    /// # Errors
    /// The reason why no node of the cluster will do, whatever it is like.
    pub(crate) fn prepare(cluster: &'a Cluster, candidate: &'a Candidate) -> Result<Self, (Reason, Refusal)> {
        let volume_binding = VolumeBinding::prepare(cluster, candidate)?;
        Ok(Self {
            candidate,
            volume_limits: VolumeLimits::prepare(cluster, candidate),
            volume_zone: VolumeZone::prepare(volume_binding.bound()),
            volume_binding,
            spread: Spread::prepare(cluster, candidate),
            pod_affinity: PodAffinity::prepare(cluster, candidate),
        })
    }

    /// What nobody here can judge about this pod in this cluster.
    pub(crate) fn unknown(&self, cluster: &Cluster) -> Vec<Unknown> {
        let claims = self.volume_binding.unknown(cluster.storage());
        self.candidate.unknown.iter().cloned().chain(claims).collect()
    }

    /// Whether a node alone decides: nothing is asked that other nodes, their pods or volumes have a say in.
    pub(crate) fn look_at_nodes_alone(&self) -> bool {
        self.candidate.pod.claims.is_empty() && self.spread.is_empty() && self.pod_affinity.is_empty()
    }

    /// Asks one filter after the other about `node` until one refuses it; the reasons go to `tally`.
    pub(crate) fn refusal(&self, node: &Node<'_>, tally: &mut Tally) -> Option<Refusal> {
        let candidate = self.candidate;
        unschedulable::check(candidate, node, tally)
            .or_else(|| node_name::check(candidate, node, tally))
            .or_else(|| taints::check(candidate, node, tally))
            .or_else(|| node_affinity::check(candidate, node, tally))
            .or_else(|| ports::check(candidate, node, tally))
            .or_else(|| resources::check(candidate, node, tally))
            .or_else(|| self.volume_limits.check(node, tally))
            .or_else(|| self.volume_binding.check(node, tally))
            .or_else(|| self.volume_zone.check(node, tally))
            .or_else(|| self.spread.check(node, tally))
            .or_else(|| self.pod_affinity.check(node, tally))
    }
}

/// Whether the pod on the node would break one of its topology spread constraints; a node without the label of one
/// breaks none.
pub(crate) fn breaks_spread(cluster: &Cluster, candidate: &Candidate, node: &Node<'_>) -> bool {
    let spread = Spread::prepare(cluster, candidate);
    spread.check(node, &mut Tally::default()) == Some(Refusal::Now)
}

/// Refuses a node for one reason.
fn refuse(reason: Reason, refusal: Refusal, tally: &mut Tally) -> Option<Refusal> {
    tally.note(reason);
    Some(refusal)
}
