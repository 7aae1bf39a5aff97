//! Adam and AdamW. The planes are the moments; the bias corrections depend on the row's step count and
//! are computed once a row, in binary64, because `1 - beta2` would lose digits in binary32.

use super::{Constants, PLANES_MAX, Splat, Step};
use crate::update::kernels::real::Real;

pub(in super::super) struct Adam;

impl Step for Adam {
    const PLANES: usize = 2;
    const COUNTS_STEPS: bool = true;

    #[inline(always)]
    fn at(constants: &Constants, count: u32) -> Constants {
        let [_, learning_rate, beta1, beta2, ..] = constants.numbers;
        let mut at = *constants;
        at.numbers[1] = learning_rate / (1.0 - power(beta1, count));
        at.numbers[6] = 1.0 / (1.0 - power(beta2, count)).sqrt();
        at
    }

    #[inline(always)]
    fn step<R: Real>(
        constants: &Splat<R>,
        value: R,
        state: [R; PLANES_MAX],
        gradient: R,
    ) -> (R, [R; PLANES_MAX]) {
        let [_, step_length, beta1, beta2, epsilon, keep, root_scale] = constants.numbers;
        let one = R::splat(1.0);
        let direction = constants.decayed(gradient, value);
        let mean = beta1 * state[0] + (one - beta1) * direction;
        let square = beta2 * state[1] + (one - beta2) * (direction * direction);
        let scale = square.sqrt() * root_scale + epsilon;
        (keep * value - step_length * mean / scale, [mean, square])
    }
}

/// `base^exponent` by squaring from the highest bit: fixed operations in a fixed order, where the
/// system's `pow` may differ between library versions.
#[inline(always)]
fn power(base: f64, exponent: u32) -> f64 {
    let mut result = 1.0;
    for bit in (0..u32::BITS - exponent.leading_zeros()).rev() {
        result *= result;
        if exponent >> bit & 1 == 1 {
            result *= base;
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::power;

    #[test]
    fn powers() {
        assert_eq!(power(0.5, 0), 1.0);
        assert_eq!(power(0.5, 1), 0.5);
        assert_eq!(power(0.5, 10), 1.0 / 1024.0);
        assert_eq!(power(0.5, u32::MAX), 0.0);
        assert_eq!(power(0.0, 3), 0.0);
        assert!((power(0.999, 1000) - 0.367_695_424_770_964).abs() < 1e-12);
    }
}
