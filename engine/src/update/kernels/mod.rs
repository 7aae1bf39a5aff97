//! The SIMD kernels: one generic body for each rule, compiled once for each [`path::Path`].
//!
//! The body is written over [`real::Real`], which is a number or a vector of numbers; what is exact
//! for one lane is exact for all, so every path gives the same bits.

pub(super) mod apply;
pub(super) mod finite;
mod integer;
mod pairs;
pub(super) mod path;
mod real;
pub(super) mod select;
pub(super) mod steps;
#[cfg(target_arch = "x86_64")]
mod vectors;
