//! Answers kube-scheduler from exact snapshots of all lower clusters.
