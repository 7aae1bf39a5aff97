//! Adagrad: the step of each value shrinks with the squares it has seen, which are the plane.

use super::{PLANES_MAX, Splat, Step};
use crate::update::kernels::real::Real;

pub(in super::super) struct Adagrad;

impl Step for Adagrad {
    const PLANES: usize = 1;

    #[inline(always)]
    fn step<R: Real>(
        constants: &Splat<R>,
        value: R,
        mut state: [R; PLANES_MAX],
        gradient: R,
    ) -> (R, [R; PLANES_MAX]) {
        let [_, learning_rate, epsilon, initial_accumulator, ..] = constants.numbers;
        let direction = constants.decayed(gradient, value);
        let squares = state[0] + direction * direction;
        state[0] = squares;
        let scale = (initial_accumulator + squares).sqrt() + epsilon;
        (value - learning_rate * direction / scale, state)
    }
}
