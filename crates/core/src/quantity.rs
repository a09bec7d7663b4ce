//! The grammar and arithmetic of Kubernetes' resource quantities.
