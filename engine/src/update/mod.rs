//! Update rules: how a pushed gradient changes the values of a row, and the SIMD kernels that do it.
//!
//! A [`UpdateRule`] is data, part of a table's schema; a [`Kernel`] is that rule compiled for one table,
//! chosen once. Every path (AVX-512, AVX2, baseline) gives the same bits, because replicas on
//! different processors must stay equal: no fused multiply-add, no reassociation, one NaN.

mod accumulator;
mod kernel;
mod kernels;
mod norm;
#[cfg(test)]
mod tests;

pub use accumulator::Accumulator;
pub use kernel::{Kernel, KernelError, Run};
pub use kernels::{finite::FiniteScan, path::Path};
pub use norm::norm;
pub use windlass_wire::rule::{Limits, Merge, RuleError, UpdateRule};
