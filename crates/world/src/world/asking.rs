//! Asks many clusters about one pod.

use std::num::NonZero;
use std::sync::{Arc, LazyLock};
use std::thread::available_parallelism;

use tensile_core::labels::Selector;
use tensile_placement::{Candidate, Cluster, Fit};

use crate::parallel;

/// Nodes that a thread must have to ask to be worth it: starting one takes as long as asking some hundred.
const NODES_PER_THREAD: usize = 4096;

/// Processors that this process may use, looked up once since that reads files.
static PROCESSORS: LazyLock<usize> = LazyLock::new(|| available_parallelism().map_or(1, NonZero::get));

/// What a cluster is asked.
#[derive(Debug)]
pub(super) struct Question<'a> {
    /// Id of the cluster.
    pub(super) id: &'a str,
    pub(super) model: &'a Cluster,
    pub(super) candidate: Arc<Candidate>,
    pub(super) pool: Option<&'a Selector>,
}

// === impl Question ===

impl Question<'_> {
    fn known(&self) -> Option<Fit> {
        self.model.known_fit(&self.candidate, self.pool)
    }

    fn ask(&self) -> Fit {
        self.model.asked_fit(&self.candidate, self.pool)
    }
}

/// The answers, in order. Where all nodes must be asked, clusters are asked side by side.
pub(super) fn fits<'a>(questions: impl Iterator<Item = &'a Question<'a>>) -> Vec<Fit> {
    let known: Vec<(&Question<'_>, Option<Fit>)> =
        questions.map(|question| (question, question.known())).collect();
    let open: Vec<&Question<'_>> = known
        .iter()
        .filter(|(_, fit)| fit.is_none())
        .map(|(question, _)| *question)
        .collect();
    let nodes: usize = open.iter().map(|question| question.model.node_count()).sum();
    let threads = (nodes / NODES_PER_THREAD).clamp(1, *PROCESSORS);
    let mut asked = parallel::map(&open, threads, |question| question.ask()).into_iter();
    known
        .into_iter()
        .filter_map(|(_, fit)| fit.or_else(|| asked.next()))
        .collect()
}
