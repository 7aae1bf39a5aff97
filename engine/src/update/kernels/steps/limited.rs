//! A rule with limits: of the gradient before its step, of the value behind it.

use std::marker::PhantomData;

use super::{Constants, PLANES_MAX, Splat, Step};
use crate::update::kernels::real::{CANONICAL_NAN_F32, Real};

/// `S` within limits.
pub(in super::super) struct Limited<S>(PhantomData<S>);

impl<S: Step> Step for Limited<S> {
    const PLANES: usize = S::PLANES;
    const COUNTS_STEPS: bool = S::COUNTS_STEPS;
    const SUMS_SQUARES: bool = S::SUMS_SQUARES;
    const LIMITED: bool = true;

    #[inline(always)]
    fn at(constants: &Constants, count: u32) -> Constants {
        S::at(constants, count)
    }

    #[inline(always)]
    fn of_sum(constants: &Constants, sum: f32) -> Constants {
        S::of_sum(constants, sum)
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
        let norm = sum_of_squares(gradient).sqrt();
        let mut row = *self;
        row.limits[1] = if norm > self.clip_norm { self.clip_norm / norm } else { 1.0 };
        row
    }

    /// The sum of a row's mean squares once this gradient has been added, within the limits of `self`.
    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the sum is kept as a binary32")]
    pub(in super::super) fn add_squares(
        &self,
        sum: f32,
        gradient: impl Iterator<Item = f64>,
        width: usize,
    ) -> f32 {
        let [clip, scale, ..] = self.limits;
        // A NaN is beyond no limit.
        let limited = gradient.map(|value| value * scale).map(|value| match value.abs() > clip {
            true => clip,
            false => value,
        });
        let sum = f64::from(sum) + sum_of_squares(limited) / width as f64;
        if sum.is_nan() { CANONICAL_NAN_F32 } else { sum as f32 }
    }
}

#[inline(always)]
fn sum_of_squares(values: impl Iterator<Item = f64>) -> f64 {
    let mut sums = [0.0; SUMS];
    for (at, value) in values.enumerate() {
        sums[at % SUMS] += value * value;
    }
    sums.into_iter().fold(0.0, |total, sum| total + sum)
}
