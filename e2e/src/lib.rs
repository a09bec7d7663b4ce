//! Runs real control planes for live tests, the demo and the benchmarks.
