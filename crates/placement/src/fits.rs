//! Answers that still hold.
//!
//! Replicas come one after the other, and each is asked about twice: by filter and by prioritize. Between two
//! questions most clusters have not changed. So a cluster keeps its last answers, each with the state that it was
//! given in; a cluster that has changed since is asked anew.

use std::sync::{Mutex, PoisonError};

use tensile_core::labels::Selector;

use crate::candidate::Candidate;
use crate::fit::Fit;

/// Answers that are kept: kinds of pods that come mixed, such as those of the Deployments that are rolled out
/// together. The one that was not asked for for the longest time goes first. An answer takes about 2 KB.
const KEPT: usize = 64;

/// The last answers of one cluster.
#[derive(Debug, Default)]
pub(crate) struct Fits(Mutex<Answers>);

#[derive(Debug, Default)]
struct Answers {
    kept: Vec<Answer>,
    /// Goes up with every question.
    time: u64,
}

#[derive(Debug)]
struct Answer {
    candidate: Candidate,
    pool: Option<Selector>,
    /// State of the cluster that the answer holds in.
    state: u64,
    fit: Fit,
    /// When it was asked for last.
    used: u64,
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
        let Answers { kept, time } = &mut *answers;
        *time += 1;
        let is_it =
            |answer: &&mut Answer| answer.pool.as_ref() == pool && answer.candidate.is_like(candidate);
        if let Some(answer) = kept.iter_mut().find(is_it) {
            answer.used = *time;
            if answer.state != state {
                (answer.state, answer.fit) = (state, ask());
            }
            return answer.fit.clone();
        }
        let fit = ask();
        if kept.len() == KEPT {
            let unused = (0..KEPT).min_by_key(|index| kept[*index].used);
            unused.map(|unused| kept.swap_remove(unused));
        }
        kept.push(Answer {
            candidate: candidate.clone(),
            pool: pool.cloned(),
            state,
            fit: fit.clone(),
            used: *time,
        });
        fit
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::mk_candidate;

    #[test]
    fn answers_are_kept_until_the_cluster_changes_or_others_are_asked_for_more() {
        let (fits, mut asked) = (Fits::default(), 0);
        let mut ask = |kind: usize, state| {
            let candidate = mk_candidate(&json!({"labels": {"kind": kind.to_string()}}), &json!({}));
            let before = asked;
            fits.get_or(state, &candidate, None, || {
                asked += 1;
                Fit::default()
            });
            asked > before
        };
        assert!(ask(0, 1) && !ask(0, 1), "known");
        assert!(ask(0, 2) && !ask(0, 2), "the cluster has changed");
        assert!((1..KEPT).all(|kind| ask(kind, 2)));
        assert!(!ask(0, 2), "all are kept");
        assert!(ask(KEPT, 2), "one too many");
        assert!(
            !ask(0, 2) && ask(1, 2),
            "the one that was asked for least lately went"
        );
    }
}
