//! What doctor judges: answers of both sides, as plain data.

use jiff::Timestamp;

use crate::connect::Identity;
use crate::nodes::VirtualNode;

/// Everything that was asked.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) now: Timestamp,
    pub(crate) upper: Identity,
    /// Clock of the upper API server.
    pub(crate) upper_clock: Option<Timestamp>,
    pub(crate) clusters: Vec<ClusterFacts>,
    pub(crate) nodes: Vec<NodeFacts>,
    pub(crate) webhook: Option<WebhookFacts>,
    pub(crate) workloads: Vec<Workload>,
}

/// A lower cluster that has a Secret.
#[derive(Clone, Debug)]
pub(crate) struct ClusterFacts {
    pub(crate) id: String,
    pub(crate) leaving: bool,
    /// When its credentials end; `None` if they do not say.
    pub(crate) expires: Option<Timestamp>,
    /// What it answered, or why it did not.
    pub(crate) answer: Result<ClusterAnswer, String>,
}

/// What a lower cluster answered.
#[derive(Clone, Debug)]
pub(crate) struct ClusterAnswer {
    pub(crate) identity: Identity,
    pub(crate) clock: Option<Timestamp>,
    /// Rights that the kubeconfig does not have.
    pub(crate) lacking: Result<Vec<String>, String>,
}

/// A virtual node, and whether the upper API server reaches its kubelet API.
#[derive(Clone, Debug)]
pub(crate) struct NodeFacts {
    pub(crate) node: VirtualNode,
    /// `None` if we may not ask.
    pub(crate) kubelet: Option<Result<(), String>>,
}

/// The registered webhook.
#[derive(Clone, Debug)]
pub(crate) struct WebhookFacts {
    /// Name of the MutatingWebhookConfiguration.
    pub(crate) name: String,
    /// Whether every entry has a CA.
    pub(crate) has_ca: bool,
    /// When the first of the CAs ends.
    pub(crate) ca_expires: Option<Timestamp>,
    /// Whether a pod that takes part is changed by it, or why the dry run failed; `None` if we may not try.
    pub(crate) changes_pods: Option<Result<bool, String>>,
}

/// A Deployment of ours.
#[derive(Clone, Debug)]
pub(crate) struct Workload {
    pub(crate) name: String,
    pub(crate) ready: i32,
    pub(crate) wanted: i32,
}
