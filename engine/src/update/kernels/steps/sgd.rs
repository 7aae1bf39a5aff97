//! Stochastic gradient descent, without and with momentum.

use super::{PLANES_MAX, Splat, Step};
use crate::update::kernels::real::Real;

pub(in super::super) struct Sgd;

impl Step for Sgd {
    const PLANES: usize = 0;

    #[inline(always)]
    fn step<R: Real>(
        constants: &Splat<R>,
        value: R,
        state: [R; PLANES_MAX],
        gradient: R,
    ) -> (R, [R; PLANES_MAX]) {
        let [_, learning_rate, ..] = constants.numbers;
        (value - learning_rate * constants.decayed(gradient, value), state)
    }
}

/// The plane is the velocity.
pub(in super::super) struct Momentum;

impl Step for Momentum {
    const PLANES: usize = 1;

    #[inline(always)]
    fn step<R: Real>(
        constants: &Splat<R>,
        value: R,
        mut state: [R; PLANES_MAX],
        gradient: R,
    ) -> (R, [R; PLANES_MAX]) {
        let [_, learning_rate, momentum, ..] = constants.numbers;
        let direction = constants.decayed(gradient, value);
        let velocity = momentum * state[0] + direction;
        state[0] = velocity;
        let ahead = if constants.nesterov { direction + momentum * velocity } else { velocity };
        (value - learning_rate * ahead, state)
    }
}
