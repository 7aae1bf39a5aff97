//! Reads the tree as text for the rules in `tests/house.rs`. Without dependencies, so that it builds in seconds.

pub mod code;
pub mod tree;
