//! RMSProp, without and with momentum: steps are divided by the root of a running mean of squares.

use super::{PLANES_MAX, Splat, Step};
use crate::update::kernels::real::Real;

/// The plane is the mean of squares.
pub(in super::super) struct Rmsprop;

impl Step for Rmsprop {
    const PLANES: usize = 1;

    #[inline(always)]
    fn step<R: Real>(
        constants: &Splat<R>,
        value: R,
        mut state: [R; PLANES_MAX],
        gradient: R,
    ) -> (R, [R; PLANES_MAX]) {
        let (direction, squares) = scaled(constants, value, state[0], gradient);
        state[0] = squares;
        (value - constants.numbers[1] * direction, state)
    }
}

/// The planes are the mean of squares and the velocity.
pub(in super::super) struct RmspropMomentum;

impl Step for RmspropMomentum {
    const PLANES: usize = 2;

    #[inline(always)]
    fn step<R: Real>(
        constants: &Splat<R>,
        value: R,
        [squares, velocity]: [R; PLANES_MAX],
        gradient: R,
    ) -> (R, [R; PLANES_MAX]) {
        let [_, learning_rate, _, _, _, momentum, ..] = constants.numbers;
        let (direction, squares) = scaled(constants, value, squares, gradient);
        let velocity = momentum * velocity + direction;
        (value - learning_rate * velocity, [squares, velocity])
    }
}

/// The gradient over the root of the mean of squares, and that mean.
#[inline(always)]
fn scaled<R: Real>(constants: &Splat<R>, value: R, squares: R, gradient: R) -> (R, R) {
    let [_, _, decay, rest, epsilon, ..] = constants.numbers;
    let direction = constants.decayed(gradient, value);
    let squares = decay * squares + rest * (direction * direction);
    (direction / (squares.sqrt() + epsilon), squares)
}
