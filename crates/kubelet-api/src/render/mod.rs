//! Usage as callers read it: text for metrics-server and Prometheus, JSON for the rest. Pure.

pub mod resource;
pub mod summary;
