//! Slim, read-only views of pods and nodes.
