//! Adam and AdamW. The bias corrections depend on the row's step count and are computed once a row.

use super::{PLANES_MAX, Step, decayed};
use crate::update::kernels::real::{CONSTANTS, Constants, Real};

#[derive(Clone, Copy)]
pub(in super::super) struct Adam<R> {
    beta1: R,
    beta2: R,
    rest1: R,
    rest2: R,
    epsilon: R,
    weight_decay: R,
    keep: R,
    step_length: R,
    root_scale: R,
}

impl<R: Real> Step<R> for Adam<R> {
    const PLANES: usize = 2;
    const COUNTS_STEPS: bool = true;

    #[inline(always)]
    fn new(constants: &[R; CONSTANTS]) -> Self {
        let [learning_rate, beta1, beta2, epsilon, weight_decay, _] = *constants;
        let one = R::from_f64(1.0);
        Self {
            beta1,
            beta2,
            rest1: one,
            rest2: one,
            epsilon,
            weight_decay,
            keep: one,
            step_length: learning_rate,
            root_scale: one,
        }
    }

    #[inline(always)]
    fn at(self, constants: &Constants, count: u32) -> Self {
        // In binary64 for both precisions, and rounded once: 1 - beta2 would lose digits in binary32.
        let [learning_rate, beta1, beta2, _, _, shrink] = *f64::constants(constants);
        Self {
            rest1: R::from_f64(1.0 - beta1),
            rest2: R::from_f64(1.0 - beta2),
            keep: R::from_f64(1.0 - shrink),
            step_length: R::from_f64(learning_rate / (1.0 - power(beta1, count))),
            root_scale: R::from_f64(1.0 / (1.0 - power(beta2, count)).sqrt()),
            ..self
        }
    }

    #[inline(always)]
    fn step(self, value: R, mut state: [R; PLANES_MAX], gradient: R) -> (R, [R; PLANES_MAX]) {
        let direction = decayed(gradient, self.weight_decay, value);
        let mean = self.beta1 * state[0] + self.rest1 * direction;
        let square = self.beta2 * state[1] + self.rest2 * direction * direction;
        state = [mean, square];
        let scale = square.sqrt() * self.root_scale + self.epsilon;
        (self.keep * value - self.step_length * mean / scale, state)
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
