//! A rule with limits: of the gradient before its step, of the value behind it.

use std::marker::PhantomData;

use super::{Constants, PLANES_MAX, Splat, Step};
use crate::update::kernels::real::Real;

/// `S` within limits.
pub(in super::super) struct Limited<S>(PhantomData<S>);

impl<S: Step> Step for Limited<S> {
    const PLANES: usize = S::PLANES;
    const COUNTS_STEPS: bool = S::COUNTS_STEPS;
    const LIMITED: bool = true;

    #[inline(always)]
    fn at(constants: &Constants, count: u32) -> Constants {
        S::at(constants, count)
    }

    #[inline(always)]
    fn step<R: Real>(
        constants: &Splat<R>,
        value: R,
        state: [R; PLANES_MAX],
        gradient: R,
    ) -> (R, [R; PLANES_MAX]) {
        let [clip, scale, min, max] = constants.limits;
        // A NaN is beyond no limit.
        let scaled = gradient * scale;
        let clipped = clip.if_at_most(scaled.abs(), clip.copysign(scaled), scaled);
        let (value, state) = S::step(constants, value, state, clipped);
        let value = value.if_at_most(min, min, value);
        (max.if_at_most(value, max, value), state)
    }
}

/// Sums of squares side by side, so that vectors can make them, in an order that is the same for all.
const SUMS: usize = 8;

impl Constants {
    /// Whether the norm of a row's gradient matters.
    #[inline(always)]
    pub(in super::super) fn clips_norm(&self) -> bool {
        self.clip_norm < f64::INFINITY
    }

    /// The constants for a row with this gradient.
    #[inline(always)]
    pub(in super::super) fn for_row(&self, gradient: impl Iterator<Item = f64>) -> Self {
        let mut sums = [0.0; SUMS];
        for (at, value) in gradient.enumerate() {
            sums[at % SUMS] += value * value;
        }
        let norm = sums.into_iter().fold(0.0, |norm, sum| norm + sum).sqrt();
        let mut row = *self;
        row.limits[1] = if norm > self.clip_norm { self.clip_norm / norm } else { 1.0 };
        row
    }
}
