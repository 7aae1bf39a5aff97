//! The body of every floating-point kernel, and its compilation for each path.

use super::{
    integer::{self, Integer},
    pairs::Pair,
    path::Path,
    real::{Load, Real, Store},
    steps::{Constants, PLANES_MAX, Splat, Step},
};

/// Contiguous rows and the gradient to apply to them.
///
/// The caller promises, with n = `rows * width`, which does not overflow:
/// - `values` points to n values of the table's dtype, `state[i]`, for each plane i below the rule's
///   state width, to n state values, and `words`, if the rule has a word for each row, to `rows` words; all
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
    /// The word of each row: its step count, which stops at the largest number, or the bits of a binary32.
    pub words: *mut u32,
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

/// Vectors handled in one turn of the main loop: enough to hide its bookkeeping.
const UNROLL: usize = 4;

/// `W` computes the bulk, `N` and `T` the ends of runs: narrow rows are common.
///
/// # Safety
/// As [`Run`] says for the dtypes of the pair, on a processor that has the instructions of `W` and `N`.
#[inline(always)]
unsafe fn apply<P, S, W, N, T>(constants: &Constants, run: &Run)
where
    P: Pair,
    S: Step,
    W: Lanes<P>,
    N: Lanes<P>,
    T: Lanes<P>,
{
    let mut cursor = Cursor::<P> {
        values: run.values.cast(),
        state: run.state.map(<*mut u8>::cast),
        gradient: run.gradient.cast(),
    };
    let clips_norm = S::LIMITED && constants.clips_norm();
    if !S::COUNTS_STEPS && !S::SUMS_SQUARES && !clips_norm {
        // SAFETY: the caller promises n values behind each pointer in use.
        unsafe { cursor.apply::<S, W, N, T>(constants, run.rows * run.width) };
        return;
    }
    // Rows of a dense table mostly count alike: their constants are computed once.
    let mut known = (0, *constants);
    for row in 0..run.rows {
        if S::COUNTS_STEPS {
            // SAFETY: the caller promises a count for each row.
            let at = unsafe { run.words.add(row) };
            // SAFETY: as above.
            let count = unsafe { at.read_unaligned() }.saturating_add(1);
            // SAFETY: as above, and that it may be written.
            unsafe { at.write_unaligned(count) };
            if count != known.0 {
                known = (count, S::at(constants, count));
            }
        }
        if !clips_norm && !S::SUMS_SQUARES {
            // SAFETY: the caller promises `rows` times `width` values; each turn advances by `width`.
            unsafe { cursor.apply::<S, W, N, T>(&known.1, run.width) };
            continue;
        }
        let mut of_row = known.1;
        if clips_norm {
            // SAFETY: a row of gradients is left.
            of_row = of_row.for_row(unsafe { cursor.gradient_of_row(run.width) });
        }
        if S::SUMS_SQUARES && run.width > 0 {
            // SAFETY: the caller promises a word for each row.
            let at = unsafe { run.words.add(row) };
            // SAFETY: as above.
            let sum = f32::from_bits(unsafe { at.read_unaligned() });
            // SAFETY: a row of gradients is left.
            let gradient = unsafe { cursor.gradient_of_row(run.width) };
            let sum = of_row.add_squares(sum, gradient, run.width);
            // SAFETY: as above, and that it may be written.
            unsafe { at.write_unaligned(sum.to_bits()) };
            of_row = S::of_sum(&of_row, sum);
        }
        // SAFETY: as above.
        unsafe { cursor.apply::<S, W, N, T>(&of_row, run.width) };
    }
}

/// A number or vector that can compute with the dtypes of a pair.
pub(super) trait Lanes<P: Pair>:
    Real<Element = P::State> + Load<P::Value> + Store<P::Value> + Load<P::Gradient>
{
}

impl<P: Pair, R> Lanes<P> for R where
    R: Real<Element = P::State> + Load<P::Value> + Store<P::Value> + Load<P::Gradient>
{
}

/// Where the next values are.
struct Cursor<P: Pair> {
    values: *mut P::Value,
    state: [*mut P::State; PLANES_MAX],
    gradient: *const P::Gradient,
}

impl<P: Pair> Cursor<P> {
    /// The gradient of the row that comes next.
    ///
    /// # Safety
    /// `width` gradients are left, and stay while the iterator is used.
    #[inline(always)]
    unsafe fn gradient_of_row(&self, width: usize) -> impl Iterator<Item = f64> + use<P> {
        let first = self.gradient;
        (0..width).map(move |at| {
            // SAFETY: the caller promises that many values.
            let gradient = unsafe { first.add(at) };
            // SAFETY: as above.
            unsafe { <P::State as Load<P::Gradient>>::load(gradient) }.into()
        })
    }

    /// Applies the step to the next `count` values and moves beyond them.
    ///
    /// # Safety
    /// `count` values follow each pointer in use.
    #[inline(always)]
    unsafe fn apply<S, W, N, T>(&mut self, constants: &Constants, count: usize)
    where
        S: Step,
        W: Lanes<P>,
        N: Lanes<P>,
        T: Lanes<P>,
    {
        let mut left = count;
        if left >= W::LANES {
            let splat = constants.splat::<W>();
            while left >= UNROLL * W::LANES {
                if S::PLANES == 0 {
                    // SAFETY: that many vectors of values are left.
                    unsafe { self.stateless::<S, W>(&splat) };
                } else {
                    for _ in 0..UNROLL {
                        // SAFETY: that many vectors of values are left.
                        unsafe { self.lanes::<S, W>(&splat) };
                    }
                }
                left = left.wrapping_sub(UNROLL * W::LANES);
            }
            while left >= W::LANES {
                // SAFETY: a vector of values is left.
                unsafe { self.lanes::<S, W>(&splat) };
                left = left.wrapping_sub(W::LANES);
            }
        }
        if left >= N::LANES {
            let splat = constants.splat::<N>();
            while left >= N::LANES {
                // SAFETY: a vector of values is left.
                unsafe { self.lanes::<S, N>(&splat) };
                left = left.wrapping_sub(N::LANES);
            }
        }
        if left > 0 {
            let splat = constants.splat::<T>();
            const { assert!(T::LANES == 1) };
            for _ in 0..left {
                // SAFETY: a value is left at each turn.
                unsafe { self.lanes::<S, T>(&splat) };
            }
        }
    }

    /// Applies a step without state to UNROLL vectors of values and moves beyond them. Such steps are as
    /// fast as memory, so NaN is looked for in all vectors at once and replaced only where there is one.
    ///
    /// # Safety
    /// That many values follow the pointers to values and gradient.
    #[inline(always)]
    unsafe fn stateless<S: Step, R: Lanes<P>>(&mut self, constants: &Splat<R>) {
        let mut results = [R::splat(0.0); UNROLL];
        for (vector, result) in results.iter_mut().enumerate() {
            // SAFETY: the caller promises UNROLL vectors of values.
            let value = unsafe { <R as Load<P::Value>>::load(self.values.add(vector * R::LANES)) };
            // SAFETY: as above.
            let gradient =
                unsafe { <R as Load<P::Gradient>>::load(self.gradient.add(vector * R::LANES)) };
            *result = S::step(constants, value, [R::splat(0.0); PLANES_MAX], gradient).0;
        }
        if R::any_nan(results) {
            results = results.map(R::canonical);
        }
        for (vector, result) in results.into_iter().enumerate() {
            // SAFETY: the caller promises UNROLL vectors of values that may be written.
            unsafe { <R as Store<P::Value>>::store(result, self.values.add(vector * R::LANES)) };
        }
        // SAFETY: the caller promises that many values, so this is within the array or just past it.
        self.values = unsafe { self.values.add(UNROLL * R::LANES) };
        // SAFETY: as above.
        self.gradient = unsafe { self.gradient.add(UNROLL * R::LANES) };
    }

    /// Applies the step to as many values as `R` has lanes and moves beyond them.
    ///
    /// # Safety
    /// That many values follow each pointer in use.
    #[inline(always)]
    unsafe fn lanes<S: Step, R: Lanes<P>>(&mut self, constants: &Splat<R>) {
        // SAFETY: the caller promises the values.
        let value = unsafe { <R as Load<P::Value>>::load(self.values) };
        // SAFETY: the caller promises the values.
        let gradient = unsafe { <R as Load<P::Gradient>>::load(self.gradient) };
        let mut state = [R::splat(0.0); PLANES_MAX];
        for (lanes, plane) in state.iter_mut().zip(self.state).take(S::PLANES) {
            // SAFETY: the caller promises values in each plane below PLANES.
            *lanes = unsafe { <R as Load<P::State>>::load(plane) };
        }
        let (value, state) = S::step(constants, value, state, gradient);
        // SAFETY: the caller promises the values, and that they may be written.
        unsafe { <R as Store<P::Value>>::store(value.canonical(), self.values) };
        // SAFETY: the caller promises LANES values, so this is within the array or just past it.
        self.values = unsafe { self.values.add(R::LANES) };
        // SAFETY: as above.
        self.gradient = unsafe { self.gradient.add(R::LANES) };
        for (lanes, plane) in state.into_iter().zip(&mut self.state).take(S::PLANES) {
            // SAFETY: the caller promises values in each plane below PLANES that may be written.
            unsafe { <R as Store<P::State>>::store(lanes.canonical(), *plane) };
            // SAFETY: as for the values.
            *plane = unsafe { plane.add(R::LANES) };
        }
    }
}

/// Compiles a body for each path and gives the function that picks one of them.
macro_rules! compile {
    ($pick:ident [$($generic:ident: $bound:path),*], $avx512:path, $avx2:path, $baseline:path) => {
        pub(super) fn $pick<$($generic: $bound),*>(path: Path) -> Apply {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,f16c")]
            unsafe fn avx512<$($generic: $bound),*>(constants: &Constants, run: &Run) {
                // SAFETY: this function has the contract of its body.
                unsafe { $avx512(constants, run) }
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,f16c")]
            unsafe fn avx2<$($generic: $bound),*>(constants: &Constants, run: &Run) {
                // SAFETY: this function has the contract of its body.
                unsafe { $avx2(constants, run) }
            }

            unsafe fn baseline<$($generic: $bound),*>(constants: &Constants, run: &Run) {
                // SAFETY: this function has the contract of its body.
                unsafe { $baseline(constants, run) }
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

compile!(
    float[P: Pair, S: Step],
    apply::<P, S, P::Avx512, P::Baseline, P::State>,
    apply::<P, S, P::Avx2, P::Baseline, P::State>,
    apply::<P, S, P::Baseline, P::Baseline, P::State>
);
compile!(integer_add[T: Integer], integer::add::<T>, integer::add::<T>, integer::add::<T>);
