//! An answer that can be brought up to date.
//!
//! Most pods ask nothing about a node but what the node alone decides. Their answer is kept in pieces, one for each few
//! nodes: when nodes change, only the pieces that they are in are asked again, and all pieces are added up. An answer
//! that depends on other nodes, too, is kept as a whole, and holds until anything changes.

use tensile_core::labels::Selector;

use crate::candidate::Candidate;
use crate::cluster::Cluster;
use crate::filters::Filters;
use crate::fit::Fit;

/// Nodes in a piece. Few, so that little is asked again; not too few, since a piece takes 150 to 300 bytes and adding
/// one up costs a tenth of asking a node.
pub(crate) const PIECE: usize = 32;

/// What a cluster said to a kind of pods, and in which of its states.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    state: u64,
    fit: Fit,
    /// None where a node alone does not decide.
    pieces: Vec<Fit>,
}

// === impl Standing ===

impl Standing {
    /// Asks all nodes that `pool` selects.
    pub(crate) fn of(cluster: &Cluster, candidate: &Candidate, pool: Option<&Selector>) -> Self {
        let filters = Filters::prepare(cluster, candidate);
        let mut standing = Self {
            state: cluster.state(),
            ..Self::default()
        };
        match &filters {
            Ok(filters) if filters.look_at_nodes_alone() => {
                let pieces = cluster.pieces();
                standing.pieces = pieces.map(|nodes| Fit::among(nodes, filters, pool)).collect();
                standing.fit = Fit::sum(&standing.pieces, filters.unknown(cluster));
            }
            _ => standing.fit = Fit::by(filters.as_ref(), cluster, candidate, pool),
        }
        standing
    }

    /// The answer in the state that it was brought up to last.
    pub(crate) fn fit(&self) -> &Fit {
        &self.fit
    }

    /// The answer now; `None` if all nodes must be asked again.
    pub(crate) fn now(
        &mut self,
        cluster: &Cluster,
        candidate: &Candidate,
        pool: Option<&Selector>,
    ) -> Option<&Fit> {
        if self.state != cluster.state() {
            self.update(cluster, candidate, pool)?;
        }
        Some(&self.fit)
    }

    fn update(&mut self, cluster: &Cluster, candidate: &Candidate, pool: Option<&Selector>) -> Option<()> {
        if self.pieces.is_empty() {
            return None;
        }
        let changed = cluster.changed_since(self.state)?;
        // Pods that keep this one out can have come meanwhile.
        let filters = Filters::prepare(cluster, candidate).ok();
        let filters = filters.filter(Filters::look_at_nodes_alone)?;
        let mut stale: Vec<usize> = changed.map(|id| id as usize / PIECE).collect();
        stale.sort_unstable();
        stale.dedup();
        self.pieces.resize_with(cluster.pieces().len(), Fit::default);
        for index in stale {
            let nodes = cluster.pieces().nth(index)?;
            self.pieces[index] = Fit::among(nodes, &filters, pool);
        }
        self.fit = Fit::sum(&self.pieces, filters.unknown(cluster));
        self.state = cluster.state();
        Some(())
    }
}

#[cfg(test)]
mod tests;
