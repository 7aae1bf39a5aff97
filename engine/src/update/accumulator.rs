//! Sums of the pushes of one turn, before the rule is applied once to the sum.
#![allow(unsafe_code)]

use std::ptr;

use windlass_wire::{DataType, rule::UpdateRule};

use super::kernel::{Kernel, KernelError, Run};

/// Adds pushed values of one dtype into an accumulator; made once for each table.
#[derive(Clone, Copy, Debug)]
pub struct Accumulator {
    set: Kernel,
    add: Kernel,
}

impl Accumulator {
    /// An accumulator for pushes of this dtype.
    ///
    /// # Errors
    /// Never for the dtypes there are; the signature is that of [`Kernel::new`].
    pub fn new(pushed: DataType) -> Result<Self, KernelError> {
        let sum = Self::sum_dtype(pushed);
        Ok(Self {
            set: Kernel::new(UpdateRule::Assign, sum, pushed)?,
            add: Kernel::new(UpdateRule::Add, sum, pushed)?,
        })
    }

    /// The dtype of the sum: `f32` for `f16` and `bf16`, else that of the pushes.
    #[must_use]
    pub const fn sum_dtype(pushed: DataType) -> DataType {
        match pushed {
            DataType::F16 | DataType::Bf16 => DataType::F32,
            other => other,
        }
    }

    /// `sum = pushed`, for the first push of a row: `sum` need not be cleared before.
    ///
    /// # Safety
    /// `sum` points to `count` writable values of the sum's dtype, `pushed` to `count` readable
    /// values of the pushed dtype; they do not overlap; any alignment will do. Another process may
    /// write `pushed` meanwhile.
    #[inline]
    pub unsafe fn set(&self, sum: *mut u8, pushed: *const u8, count: usize) {
        // SAFETY: the caller promises what a run of a rule without state asks for.
        unsafe { self.set.apply(&run(sum, pushed, count)) }
    }

    /// `sum += pushed`.
    ///
    /// # Safety
    /// As for [`Accumulator::set`], and the sum holds values.
    #[inline]
    pub unsafe fn add(&self, sum: *mut u8, pushed: *const u8, count: usize) {
        // SAFETY: the caller promises what a run of a rule without state asks for.
        unsafe { self.add.apply(&run(sum, pushed, count)) }
    }
}

#[inline]
fn run(sum: *mut u8, pushed: *const u8, count: usize) -> Run {
    Run {
        values: sum,
        state: [ptr::null_mut(); UpdateRule::STATE_WIDTH_MAX],
        words: ptr::null_mut(),
        gradient: pushed,
        rows: 1,
        width: count,
    }
}
