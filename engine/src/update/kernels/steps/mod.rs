//! The rules as arithmetic on one value, in the precision of the table.

mod adagrad;
mod adam;
mod add;
mod ftrl;
mod sgd;

use super::real::{CONSTANTS, Constants, Real};
use crate::update::UpdateRule;

pub(super) use adagrad::Adagrad;
pub(super) use adam::Adam;
pub(super) use add::{Add, Assign};
pub(super) use ftrl::Ftrl;
pub(super) use sgd::{Momentum, Sgd};

/// Most state planes a rule has.
pub(super) const PLANES_MAX: usize = UpdateRule::STATE_WIDTH_MAX;

/// One rule with its constants in registers.
pub(super) trait Step<R: Real>: Copy {
    /// State planes it reads and writes.
    const PLANES: usize;
    /// Whether it needs the step count of the row.
    const COUNTS_STEPS: bool = false;

    fn new(constants: &[R; CONSTANTS]) -> Self;

    /// The rule for the `count`-th update of a row, counted from 1.
    #[inline(always)]
    fn at(self, _constants: &Constants, _count: u32) -> Self {
        self
    }

    /// The value and state after one gradient.
    fn step(self, value: R, state: [R; PLANES_MAX], gradient: R) -> (R, [R; PLANES_MAX]);
}

/// The constants of a rule, in the order its [`Step::new`] reads them.
pub(in super::super) fn constants(rule: &UpdateRule) -> [f64; CONSTANTS] {
    match *rule {
        UpdateRule::Add | UpdateRule::Assign => [0.0; CONSTANTS],
        UpdateRule::Sgd { learning_rate, momentum, nesterov, weight_decay } => {
            [learning_rate, momentum, f64::from(u8::from(nesterov)), weight_decay, 0.0, 0.0]
        }
        UpdateRule::Adagrad { learning_rate, epsilon, initial_accumulator, weight_decay } => {
            [learning_rate, epsilon, initial_accumulator, weight_decay, 0.0, 0.0]
        }
        UpdateRule::Adam { learning_rate, beta1, beta2, epsilon, weight_decay, decoupled } => {
            // Coupled decay goes into the gradient, decoupled decay shrinks the value.
            let (coupled, shrink) =
                if decoupled { (0.0, learning_rate * weight_decay) } else { (weight_decay, 0.0) };
            [learning_rate, beta1, beta2, epsilon, coupled, shrink]
        }
        UpdateRule::Ftrl { alpha, beta, l1, l2 } => [alpha, beta, l1, l2, 0.0, 0.0],
    }
}

/// The gradient with its L2 penalty. Without a penalty the value must not matter: 0 times an infinite
/// value would be NaN.
#[inline(always)]
pub(super) fn decayed<R: Real>(gradient: R, weight_decay: R, value: R) -> R {
    if weight_decay == R::ZERO { gradient } else { gradient + weight_decay * value }
}
