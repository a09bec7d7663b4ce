//! Avoidance as the memory of moves: no pod goes round in circles.
//!
//! The entries are the only memory, and they survive restarts: a pod that was moved leaves (owner, node, end) behind
//! for the time of the window. From them follows how often a pod can have been moved: it avoids every node that a
//! predecessor of it was moved from.

use tensile_core::avoidance::Avoidance;

use crate::pod::Pod;

/// Moves of a pod and its successors within the window.
const MAX_MOVES: usize = 2;
/// How long after an eviction a replacement may still be admitted by a webhook replica that has not heard of the
/// avoidance: watches are rarely later than a second.
const PROPAGATION: u64 = 10;
/// Most (owner, node) pairs. A pair takes at most 36 + 253 + 30 bytes, so that all of them stay below the 1 MiB that
/// the API server takes in a ConfigMap.
pub const MAX_ENTRIES: usize = 2048;

/// Why a pod is not moved again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Moved {
    /// Its predecessors were moved from other nodes.
    #[error("it was moved {MAX_MOVES} times in a row lately and stays where it is for now")]
    Twice,
    /// It was placed where it was to avoid: nobody heeds the avoidance.
    #[error(
        "it came back to the node that its predecessor was moved from; does the webhook see the pods of its owner?"
    )]
    Back,
    /// There is no room for another entry.
    #[error("{MAX_ENTRIES} avoidances are in force, no more are made; wait until some have ended")]
    Full,
}

/// Whether the avoidance allows to move the pod from its node now.
///
/// # Errors
/// Why not.
pub fn may_move(avoidance: &Avoidance, pod: &Pod, window: u64, now: u64) -> Result<(), Moved> {
    let owner = key(pod);
    if let Some(end) = avoidance.end(owner, &pod.node, now) {
        // A pod that is older than the avoidance could not heed it: it is one more replica on a bad node.
        let start = end.saturating_sub(window);
        return if pod.created > start.saturating_add(PROPAGATION) {
            Err(Moved::Back)
        } else {
            Ok(())
        };
    }
    if avoidance.nodes(owner, now).count() >= MAX_MOVES {
        return Err(Moved::Twice);
    }
    if avoidance.len() >= MAX_ENTRIES {
        return Err(Moved::Full);
    }
    Ok(())
}

/// Notes that a pod is moved. An avoidance in force is not prolonged: its start tells which pods could heed it.
pub fn note_move(avoidance: &mut Avoidance, pod: &Pod, window: u64, now: u64) {
    if avoidance.end(key(pod), &pod.node, now).is_none() {
        avoidance.avoid(key(pod), &pod.node, now.saturating_add(window));
    }
}

/// What avoidance of the pod is kept under: the owner that makes its successor.
#[must_use]
pub fn key(pod: &Pod) -> &str {
    pod.owner.as_deref().unwrap_or(&pod.uid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::Templates;
    use crate::testing::mk_replica;

    const WINDOW: u64 = 600;
    const NOW: u64 = 10_000;

    fn mk_pod(node: &str, created: u64) -> Pod {
        let pod = Pod::read(&mk_replica("p", "1", node), &mut Templates::default());
        Pod { created, ..pod }
    }

    #[test]
    fn a_pod_and_its_successors_are_moved_twice_in_a_window() {
        let mut avoidance = Avoidance::default();
        let (first, second, third) = (mk_pod("va", 0), mk_pod("vb", NOW + 1), mk_pod("vc", NOW + 100));
        assert_eq!(may_move(&avoidance, &first, WINDOW, NOW), Ok(()));
        note_move(&mut avoidance, &first, WINDOW, NOW);
        assert_eq!(may_move(&avoidance, &second, WINDOW, NOW + 99), Ok(()));
        note_move(&mut avoidance, &second, WINDOW, NOW + 99);
        assert_eq!(may_move(&avoidance, &third, WINDOW, NOW + 200), Err(Moved::Twice));
        assert_eq!(
            may_move(&avoidance, &third, WINDOW, NOW + WINDOW),
            Ok(()),
            "the first has ended"
        );
    }

    #[test]
    fn every_replica_on_a_bad_node_may_leave_it() {
        let mut avoidance = Avoidance::default();
        note_move(&mut avoidance, &mk_pod("va", 0), WINDOW, NOW);
        assert_eq!(may_move(&avoidance, &mk_pod("va", 0), WINDOW, NOW + 300), Ok(()));
    }

    #[test]
    fn a_pod_that_comes_back_stays_but_for_one_that_nobody_could_warn() {
        let mut avoidance = Avoidance::default();
        note_move(&mut avoidance, &mk_pod("va", 0), WINDOW, NOW);
        let too_fast = mk_pod("va", NOW + 1);
        assert_eq!(may_move(&avoidance, &too_fast, WINDOW, NOW + 60), Ok(()));
        note_move(&mut avoidance, &too_fast, WINDOW, NOW + 60);
        let back = mk_pod("va", NOW + 61);
        assert_eq!(may_move(&avoidance, &back, WINDOW, NOW + 120), Err(Moved::Back));
    }

    #[test]
    fn entries_are_bounded() {
        let mut avoidance = Avoidance::default();
        for index in 0..MAX_ENTRIES {
            avoidance.avoid(&format!("owner-{index}"), "va", NOW + 1);
        }
        assert_eq!(
            may_move(&avoidance, &mk_pod("va", 0), WINDOW, NOW),
            Err(Moved::Full)
        );
    }
}
