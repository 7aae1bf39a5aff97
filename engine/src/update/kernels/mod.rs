//! The SIMD kernels: one generic body for each rule, compiled once for each [`path::Path`].
//!
//! The body is written in plain arithmetic over fixed numbers of lanes, which the compiler turns into
//! vectors. Nothing here depends on the order of lanes, so every path gives the same bits.

pub(super) mod apply;
pub(super) mod finite;
pub(super) mod half_bits;
mod integer;
pub(super) mod path;
pub(super) mod real;
pub(super) mod select;
mod steps;
#[cfg(test)]
mod tests;
mod value;
