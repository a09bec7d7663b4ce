//! Answers that still hold.
//!
//! Replicas come one after the other, and each is asked about twice: by filter and by prioritize. Between two
//! questions most clusters have not changed. So a cluster keeps its last answers, each with the state that it was
//! given in; a cluster that has changed since is asked anew.

use std::sync::{Mutex, PoisonError};

use tensile_core::labels::Selector;

use crate::candidate::Candidate;
use crate::fit::Fit;

/// Answers that are kept: kinds of pods that come mixed, such as those of some Deployments that are rolled out
/// together. The oldest one goes first.
const KEPT: usize = 16;

/// The last answers of one cluster.
#[derive(Debug, Default)]
pub(crate) struct Fits(Mutex<Vec<Answer>>);

#[derive(Debug)]
struct Answer {
    candidate: Candidate,
    pool: Option<Selector>,
    /// State of the cluster that the answer holds in.
    state: u64,
    fit: Fit,
}

// === impl Fits ===

impl Fits {
    /// The answer for such a pod in this state of the cluster, which `ask` gives if it is not known.
    pub(crate) fn get_or(
        &self,
        state: u64,
        candidate: &Candidate,
        pool: Option<&Selector>,
        ask: impl FnOnce() -> Fit,
    ) -> Fit {
        let mut answers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = |answer: &Answer| answer.pool.as_ref() == pool && answer.candidate.is_like(candidate);
        let known = answers.iter().position(is_it);
        if let Some(answer) = known.map(|index| &mut answers[index]) {
            if answer.state != state {
                (answer.state, answer.fit) = (state, ask());
            }
            return answer.fit.clone();
        }
        let fit = ask();
        if answers.len() == KEPT {
            answers.remove(0);
        }
        answers.push(Answer {
            candidate: candidate.clone(),
            pool: pool.cloned(),
            state,
            fit: fit.clone(),
        });
        fit
    }
}
