//! Integer addition, and assignment within one dtype.

use super::{apply::Run, steps::Constants};

/// An integer dtype.
pub(super) trait Integer: Copy {
    /// The sum modulo 2^bits: associative, so replicas agree whatever order pushes are summed in.
    fn wrapping_sum(self, other: Self) -> Self;
}

macro_rules! integer {
    ($($type:ty)*) => { $(
        impl Integer for $type {
            #[inline(always)]
            fn wrapping_sum(self, other: Self) -> Self {
                self.wrapping_add(other)
            }
        }
    )* };
}

integer!(i8 i32 i64 u64);

/// `p += g`.
///
/// # Safety
/// As [`Run`] says for values of type `T` and gradients of type `T`.
#[inline(always)]
pub(super) unsafe fn add<T: Integer>(_: &Constants, run: &Run) {
    let (values, gradient) = (run.values.cast::<T>(), run.gradient.cast::<T>());
    for at in 0..run.rows * run.width {
        // SAFETY: `at` is below the count of values, which the caller promises to be readable.
        let sum = unsafe {
            values.add(at).read_unaligned().wrapping_sum(gradient.add(at).read_unaligned())
        };
        // SAFETY: as above, and the caller promises that values may be written.
        unsafe { values.add(at).write_unaligned(sum) };
    }
}

/// `p = g` for values of `SIZE` bytes: a copy, NaN payloads included.
///
/// # Safety
/// As [`Run`] says for values and gradients of `SIZE` bytes.
pub(super) unsafe fn copy<const SIZE: usize>(_: &Constants, run: &Run) {
    // SAFETY: both ranges hold this many bytes and do not overlap, as the caller promises.
    unsafe { run.gradient.copy_to_nonoverlapping(run.values, run.rows * run.width * SIZE) };
}
