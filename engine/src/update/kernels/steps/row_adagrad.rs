//! Adagrad with one sum for each row. The step length is that of the whole row, and is computed once a row, in
//! binary64.

use super::{Constants, PLANES_MAX, Splat, Step};
use crate::update::kernels::real::Real;

pub(in super::super) struct RowAdagrad;

impl Step for RowAdagrad {
    const PLANES: usize = 0;
    const SUMS_SQUARES: bool = true;

    #[inline(always)]
    fn of_sum(constants: &Constants, sum: f32) -> Constants {
        let [_, learning_rate, epsilon, initial_accumulator, ..] = constants.numbers;
        let mut of_row = *constants;
        of_row.numbers[1] =
            learning_rate / ((initial_accumulator + f64::from(sum)).sqrt() + epsilon);
        of_row
    }

    #[inline(always)]
    fn step<R: Real>(
        constants: &Splat<R>,
        value: R,
        state: [R; PLANES_MAX],
        gradient: R,
    ) -> (R, [R; PLANES_MAX]) {
        (value - constants.numbers[1] * gradient, state)
    }
}
