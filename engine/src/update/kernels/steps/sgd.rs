//! Stochastic gradient descent, without and with momentum.

use super::{PLANES_MAX, Step, decayed};
use crate::update::kernels::real::{CONSTANTS, Real};

#[derive(Clone, Copy)]
pub(in super::super) struct Sgd<R> {
    learning_rate: R,
    weight_decay: R,
}

impl<R: Real> Step<R> for Sgd<R> {
    const PLANES: usize = 0;

    #[inline(always)]
    fn new(constants: &[R; CONSTANTS]) -> Self {
        let [learning_rate, _, _, weight_decay, ..] = *constants;
        Self { learning_rate, weight_decay }
    }

    #[inline(always)]
    fn step(self, value: R, state: [R; PLANES_MAX], gradient: R) -> (R, [R; PLANES_MAX]) {
        let direction = decayed(gradient, self.weight_decay, value);
        (value - self.learning_rate * direction, state)
    }
}

#[derive(Clone, Copy)]
pub(in super::super) struct Momentum<R> {
    learning_rate: R,
    momentum: R,
    nesterov: bool,
    weight_decay: R,
}

impl<R: Real> Step<R> for Momentum<R> {
    const PLANES: usize = 1;

    #[inline(always)]
    fn new(constants: &[R; CONSTANTS]) -> Self {
        let [learning_rate, momentum, nesterov, weight_decay, ..] = *constants;
        Self { learning_rate, momentum, nesterov: nesterov != R::ZERO, weight_decay }
    }

    #[inline(always)]
    fn step(self, value: R, mut state: [R; PLANES_MAX], gradient: R) -> (R, [R; PLANES_MAX]) {
        let direction = decayed(gradient, self.weight_decay, value);
        let velocity = self.momentum * state[0] + direction;
        state[0] = velocity;
        let direction = if self.nesterov { direction + self.momentum * velocity } else { velocity };
        (value - self.learning_rate * direction, state)
    }
}
