//! Windlass benchmarks.

pub mod chain_bytes;
