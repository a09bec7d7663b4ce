//! Answers that still hold.
//!
//! Replicas come one after the other, and each is asked about twice: by filter and by prioritize. Between two
//! questions little changes in most clusters. So a cluster keeps its last answers and brings them up to date.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tensile_core::labels::Selector;

use crate::candidate::Candidate;
use crate::cluster::Cluster;
use crate::fit::Fit;
use crate::standing::Standing;

/// Answers that are kept: kinds of pods that come mixed, such as those of the Deployments that are rolled out
/// together. The one that was not asked for for the longest time goes first. An answer takes about 10 bytes per node.
const KEPT: usize = 64;

/// The last answers of one cluster.
#[derive(Debug, Default)]
pub(crate) struct Fits(Mutex<Answers>);

#[derive(Debug, Default)]
struct Answers {
    /// By a hash of what was asked; of two that share it the later one is kept.
    kept: HashMap<u64, Answer>,
    /// Goes up with every question.
    time: u64,
}

#[derive(Debug)]
struct Answer {
    candidate: Arc<Candidate>,
    pool: Option<Selector>,
    standing: Standing,
    /// When it was asked for last.
    used: u64,
}

// === impl Fits ===

impl Fits {
    /// The answer for such a pod, if bringing it up to date is less work than asking anew.
    pub(crate) fn known(
        &self,
        cluster: &Cluster,
        candidate: &Candidate,
        pool: Option<&Selector>,
    ) -> Option<Fit> {
        let mut answers = self.lock();
        let Answers { kept, time } = &mut *answers;
        let answer = kept.get_mut(&key(candidate, pool))?;
        if answer.pool.as_ref() != pool || !answer.candidate.is_like(candidate) {
            return None;
        }
        *time += 1;
        answer.used = *time;
        answer.standing.now(cluster, candidate, pool).cloned()
    }

    /// Asks all nodes, and keeps what they say.
    pub(crate) fn ask(&self, cluster: &Cluster, candidate: &Arc<Candidate>, pool: Option<&Selector>) -> Fit {
        let standing = Standing::of(cluster, candidate, pool);
        let fit = standing.fit().clone();
        self.lock().keep(Answer {
            candidate: candidate.clone(),
            pool: pool.cloned(),
            standing,
            used: 0,
        });
        fit
    }

    fn lock(&self) -> MutexGuard<'_, Answers> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Answers ===

impl Answers {
    fn keep(&mut self, mut answer: Answer) {
        self.time += 1;
        answer.used = self.time;
        self.kept
            .insert(key(&answer.candidate, answer.pool.as_ref()), answer);
        if self.kept.len() > KEPT {
            let unused = self.kept.iter().min_by_key(|(_, answer)| answer.used);
            let unused = unused.map(|(key, _)| *key);
            unused.and_then(|unused| self.kept.remove(&unused));
        }
    }
}

fn key(candidate: &Candidate, pool: Option<&Selector>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (candidate.kind, pool).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{mk_candidate, mk_cluster, mk_node};

    fn mk_kind(kind: usize) -> Arc<Candidate> {
        mk_candidate(&json!({"labels": {"kind": kind.to_string()}}), &json!({})).into()
    }

    #[test]
    fn the_answer_that_was_asked_for_least_lately_makes_room() {
        let cluster = mk_cluster(&[mk_node("n", &json!({}))], &[]);
        let fits = Fits::default();
        let is_known = |kind: usize| fits.known(&cluster, &mk_kind(kind), None).is_some();
        let ask = |kind: usize| drop(fits.ask(&cluster, &mk_kind(kind), None));
        assert!(!is_known(0));
        (0..KEPT).for_each(ask);
        assert!((0..KEPT).rev().all(is_known), "all are kept");
        ask(KEPT);
        assert!(is_known(0) && is_known(KEPT) && !is_known(KEPT - 1));
    }

    #[test]
    fn pools_have_answers_of_their_own() {
        let cluster = mk_cluster(&[mk_node("n", &json!({"a": "b"}))], &[]);
        let (fits, pool) = (Fits::default(), "a!=b".parse().unwrap());
        fits.ask(&cluster, &mk_kind(0), None);
        assert_eq!(fits.known(&cluster, &mk_kind(0), Some(&pool)), None);
        assert_eq!(fits.ask(&cluster, &mk_kind(0), Some(&pool)).nodes, 0);
        assert_eq!(fits.known(&cluster, &mk_kind(0), None).unwrap().nodes, 1);
    }
}
