//! Windlass benchmarks.
