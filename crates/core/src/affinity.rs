//! Node affinity and node selectors, evaluated as kube-scheduler does.
