//! Adagrad: the step of each value shrinks with the squares it has seen.

use super::{PLANES_MAX, Step, decayed};
use crate::update::kernels::real::{CONSTANTS, Real};

#[derive(Clone, Copy)]
pub(in super::super) struct Adagrad<R> {
    learning_rate: R,
    epsilon: R,
    initial_accumulator: R,
    weight_decay: R,
}

impl<R: Real> Step<R> for Adagrad<R> {
    const PLANES: usize = 1;

    #[inline(always)]
    fn new(constants: &[R; CONSTANTS]) -> Self {
        let [learning_rate, epsilon, initial_accumulator, weight_decay, ..] = *constants;
        Self { learning_rate, epsilon, initial_accumulator, weight_decay }
    }

    #[inline(always)]
    fn step(self, value: R, mut state: [R; PLANES_MAX], gradient: R) -> (R, [R; PLANES_MAX]) {
        let direction = decayed(gradient, self.weight_decay, value);
        let squares = state[0] + direction * direction;
        state[0] = squares;
        let scale = (self.initial_accumulator + squares).sqrt() + self.epsilon;
        (value - self.learning_rate * direction / scale, state)
    }
}
