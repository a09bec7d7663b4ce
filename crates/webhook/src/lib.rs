//! Mutating webhook that stashes scheduling constraints so that they act in the lower cluster.
