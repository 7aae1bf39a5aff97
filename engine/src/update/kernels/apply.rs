//! The body of every floating-point kernel, and its compilation for each path.

use super::{
    integer::{self, Integer},
    path::Path,
    real::{Constants, Real},
    steps::{PLANES_MAX, Step},
    value::{Source, Value},
};

/// Contiguous rows and the gradient to apply to them.
///
/// Whoever applies a run promises, with n = `rows * width`, which does not overflow:
/// - `values` points to n values of the table's dtype, `state[i]`, for each plane i below the rule's
///   state width, to n state values, and `steps`, if the rule counts steps, to `rows` counts; all
///   may be read and written, and nobody else writes them during the call;
/// - `gradient` points to n readable values of the gradient's dtype, which overlap none of these.
///   Another process may write them meanwhile; the values read are then whatever they are, and
///   nothing else goes wrong;
/// - pointers that the rule has no use for are not looked at and may be dangling.
///
/// No pointer needs an alignment; values aligned to their size are written untorn, each by itself.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// The parameters, rows one after the other.
    pub values: *mut u8,
    /// The state planes, each laid out as the values are.
    pub state: [*mut u8; PLANES_MAX],
    /// The step count of each row; the kernel increments it and stops at the largest number.
    pub steps: *mut u32,
    /// The gradient, laid out as the values are.
    pub gradient: *const u8,
    /// Number of rows.
    pub rows: usize,
    /// Values in each row.
    pub width: usize,
}

/// A kernel: the rule's constants, and what to apply it to.
///
/// Safe to call as [`Run`] says, on a processor with the instructions it is compiled for.
pub(in super::super) type Apply = unsafe fn(&Constants, &Run);

/// Lanes handled together: one vector of AVX-512, two of AVX2, four of SSE2.
const LANES: usize = 16;
/// Lanes handled together where fewer are left: narrow rows are common.
const LANES_TAIL: usize = 4;

/// Where the next lanes are.
struct Cursor<V: Value, G> {
    values: *mut V,
    state: [*mut V::Compute; PLANES_MAX],
    gradient: *const G,
}

#[inline(always)]
unsafe fn apply<V: Value, G: Source<V::Compute>, S: Step<V::Compute>>(
    constants: &Constants,
    run: &Run,
) {
    let mut cursor = Cursor::<V, G> {
        values: run.values.cast(),
        state: run.state.map(<*mut u8>::cast),
        gradient: run.gradient.cast(),
    };
    let step = S::new(V::Compute::constants(constants));
    if !S::COUNTS_STEPS {
        // SAFETY: the caller promises n values behind each pointer in use.
        unsafe { cursor.apply(step, run.rows * run.width) };
        return;
    }
    for row in 0..run.rows {
        // SAFETY: the caller promises a count for each row.
        let at = unsafe { run.steps.add(row) };
        // SAFETY: as above.
        let count = unsafe { at.read_unaligned() }.saturating_add(1);
        // SAFETY: as above, and that it may be written.
        unsafe { at.write_unaligned(count) };
        // SAFETY: the caller promises `rows` times `width` values; each turn advances by `width`.
        unsafe { cursor.apply(step.at(constants, count), run.width) };
    }
}

impl<V: Value, G: Source<V::Compute>> Cursor<V, G> {
    /// Applies the step to the next `count` values and moves beyond them.
    ///
    /// # Safety
    /// `count` values follow each pointer in use.
    #[inline(always)]
    unsafe fn apply<S: Step<V::Compute>>(&mut self, step: S, count: usize) {
        let mut left = count;
        while left >= LANES {
            // SAFETY: at least LANES values are left.
            unsafe { self.lanes::<S, LANES>(step) };
            left = left.wrapping_sub(LANES);
        }
        while left >= LANES_TAIL {
            // SAFETY: at least LANES_TAIL values are left.
            unsafe { self.lanes::<S, LANES_TAIL>(step) };
            left = left.wrapping_sub(LANES_TAIL);
        }
        for _ in 0..left {
            // SAFETY: one value is left at each turn.
            unsafe { self.lanes::<S, 1>(step) };
        }
    }

    /// Reads all lanes before it writes any, so that the compiler may use vectors without proving that
    /// the arrays are apart.
    ///
    /// # Safety
    /// `LANES` values follow each pointer in use.
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "lanes of several arrays and pointers in step")]
    unsafe fn lanes<S: Step<V::Compute>, const LANES: usize>(&mut self, step: S) {
        let zero = V::Compute::ZERO;
        let mut values = [zero; LANES];
        let mut gradient = [zero; LANES];
        let mut state = [[zero; LANES]; PLANES_MAX];
        for lane in 0..LANES {
            // SAFETY: the caller promises LANES values.
            values[lane] = unsafe { V::load(self.values.add(lane)) };
        }
        for lane in 0..LANES {
            // SAFETY: the caller promises LANES values.
            gradient[lane] = unsafe { G::load(self.gradient.add(lane)) };
        }
        for plane in 0..S::PLANES {
            for lane in 0..LANES {
                // SAFETY: the caller promises LANES values of each plane below PLANES.
                state[plane][lane] = unsafe { self.state[plane].add(lane).read_unaligned() };
            }
        }
        for lane in 0..LANES {
            let before = std::array::from_fn(|plane| state[plane][lane]);
            let (value, after) = step.step(values[lane], before, gradient[lane]);
            values[lane] = value.canonical();
            for plane in 0..S::PLANES {
                state[plane][lane] = after[plane].canonical();
            }
        }
        for lane in 0..LANES {
            // SAFETY: the caller promises LANES values that may be written.
            unsafe { V::store(self.values.add(lane), values[lane]) };
        }
        for plane in 0..S::PLANES {
            for lane in 0..LANES {
                // SAFETY: the caller promises LANES values of each plane below PLANES.
                unsafe { self.state[plane].add(lane).write_unaligned(state[plane][lane]) };
            }
        }
        // SAFETY: the caller promises LANES values, so the ends are within or just past the arrays.
        self.values = unsafe { self.values.add(LANES) };
        // SAFETY: as above.
        self.gradient = unsafe { self.gradient.add(LANES) };
        for plane in 0..S::PLANES {
            // SAFETY: as above, for each plane in use.
            self.state[plane] = unsafe { self.state[plane].add(LANES) };
        }
    }
}

/// Compiles a body for each path and gives the function that picks one of them.
macro_rules! compile {
    ($pick:ident, $body:path, [$($generic:ident: $bound:path),*]) => {
        pub(super) fn $pick<$($generic: $bound),*>(path: Path) -> Apply {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
            unsafe fn avx512<$($generic: $bound),*>(constants: &Constants, run: &Run) {
                // SAFETY: this function has the contract of its body.
                unsafe { $body(constants, run) }
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,f16c")]
            unsafe fn avx2<$($generic: $bound),*>(constants: &Constants, run: &Run) {
                // SAFETY: this function has the contract of its body.
                unsafe { $body(constants, run) }
            }

            unsafe fn baseline<$($generic: $bound),*>(constants: &Constants, run: &Run) {
                // SAFETY: this function has the contract of its body.
                unsafe { $body(constants, run) }
            }

            match path {
                #[cfg(target_arch = "x86_64")]
                Path::Avx512 => avx512::<$($generic),*>,
                #[cfg(target_arch = "x86_64")]
                Path::Avx2 => avx2::<$($generic),*>,
                _ => baseline::<$($generic),*>,
            }
        }
    };
}

compile!(float, apply::<V, G, S>, [V: Value, G: SourceOf<V>, S: StepOf<V>]);
compile!(integer_add, integer::add::<T>, [T: Integer]);

/// A gradient dtype for tables of dtype `V`.
pub(super) trait SourceOf<V: Value>: Source<V::Compute> {}
impl<V: Value, G: Source<V::Compute>> SourceOf<V> for G {}

/// A rule for tables of dtype `V`.
pub(super) trait StepOf<V: Value>: Step<V::Compute> {}
impl<V: Value, S: Step<V::Compute>> StepOf<V> for S {}
