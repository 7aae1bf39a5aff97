//! The rules as arithmetic on one value, or on one vector of values, in the precision of the table.

mod adagrad;
mod adam;
mod add;
mod ftrl;
mod limited;
mod rmsprop;
mod row_adagrad;
mod sgd;

use super::real::Real;
use crate::update::UpdateRule;

pub(super) use adagrad::Adagrad;
pub(super) use adam::Adam;
pub(super) use add::{Add, Assign};
pub(super) use ftrl::Ftrl;
pub(super) use limited::Limited;
pub(super) use rmsprop::{Rmsprop, RmspropMomentum};
pub(super) use row_adagrad::RowAdagrad;
pub(super) use sgd::{Momentum, Sgd};

/// Most state planes a rule has.
pub(super) const PLANES_MAX: usize = UpdateRule::STATE_WIDTH_MAX;
/// Most constants a rule has.
pub(super) const CONSTANTS_MAX: usize = 7;

/// The constants of a rule, in the order its [`Step::step`] reads them, before they are rounded to the
/// precision of the table.
#[derive(Clone, Copy, Debug)]
pub(in super::super) struct Constants {
    numbers: [f64; CONSTANTS_MAX],
    /// Largest absolute value of a gradient, what gradients are scaled by, least and largest value.
    limits: [f64; 4],
    /// Largest norm of a row's gradient.
    clip_norm: f64,
    /// Whether weight decay goes into the gradient. Without it the value must not matter: 0 times an
    /// infinite value would be NaN.
    decays: bool,
    nesterov: bool,
}

impl Constants {
    pub(in super::super) fn new(rule: &UpdateRule) -> Self {
        let limits = rule.limits();
        let mut constants = Self {
            numbers: [0.0; _],
            limits: [limits.clip, 1.0, limits.min, limits.max],
            clip_norm: limits.clip_norm,
            decays: false,
            nesterov: false,
        };
        match *rule {
            UpdateRule::Add | UpdateRule::Assign => {}
            UpdateRule::Sgd { learning_rate, momentum, nesterov, weight_decay, .. } => {
                constants.numbers[..3].copy_from_slice(&[weight_decay, learning_rate, momentum]);
                constants.decays = weight_decay != 0.0;
                constants.nesterov = nesterov;
            }
            UpdateRule::Adagrad {
                learning_rate,
                epsilon,
                initial_accumulator,
                weight_decay,
                ..
            } => {
                constants.numbers[..4].copy_from_slice(&[
                    weight_decay,
                    learning_rate,
                    epsilon,
                    initial_accumulator,
                ]);
                constants.decays = weight_decay != 0.0;
            }
            UpdateRule::Adam {
                learning_rate,
                beta1,
                beta2,
                epsilon,
                weight_decay,
                decoupled,
                ..
            } => {
                let keep = if decoupled { 1.0 - learning_rate * weight_decay } else { 1.0 };
                constants.numbers = [weight_decay, learning_rate, beta1, beta2, epsilon, keep, 0.0];
                constants.decays = weight_decay != 0.0 && !decoupled;
            }
            UpdateRule::Ftrl { alpha, beta, l1, l2, .. } => {
                constants.numbers[..4].copy_from_slice(&[alpha, beta, l1, l2]);
            }
            UpdateRule::Rmsprop {
                learning_rate, decay, epsilon, momentum, weight_decay, ..
            } => {
                constants.numbers =
                    [weight_decay, learning_rate, decay, 1.0 - decay, epsilon, momentum, 0.0];
                constants.decays = weight_decay != 0.0;
            }
            UpdateRule::RowAdagrad { learning_rate, epsilon, initial_accumulator, .. } => {
                constants.numbers[..4].copy_from_slice(&[
                    0.0,
                    learning_rate,
                    epsilon,
                    initial_accumulator,
                ]);
            }
        }
        constants
    }

    /// The constants, rounded, in registers.
    #[inline(always)]
    pub(super) fn splat<R: Real>(&self) -> Splat<R> {
        Splat {
            numbers: self.numbers.map(R::splat),
            limits: self.limits.map(R::splat),
            decays: self.decays,
            nesterov: self.nesterov,
        }
    }
}

/// [`Constants`] in the precision and lanes of `R`.
#[derive(Clone, Copy)]
pub(super) struct Splat<R> {
    numbers: [R; CONSTANTS_MAX],
    limits: [R; 4],
    decays: bool,
    nesterov: bool,
}

impl<R: Real> Splat<R> {
    /// The gradient with its L2 penalty: weight decay is the first constant of all rules that have it.
    #[inline(always)]
    fn decayed(&self, gradient: R, value: R) -> R {
        if self.decays { gradient + self.numbers[0] * value } else { gradient }
    }
}

/// One rule.
pub(super) trait Step {
    /// State planes it reads and writes.
    const PLANES: usize;
    /// Whether the row's word is its step count.
    const COUNTS_STEPS: bool = false;
    /// Whether the row's word is a binary32, to which the mean square of each of its gradients is added.
    const SUMS_SQUARES: bool = false;
    /// Whether it keeps limits; the norm of a row's gradient may matter to it.
    const LIMITED: bool = false;

    /// The constants for the `count`-th update of a row, counted from 1.
    #[inline(always)]
    fn at(constants: &Constants, _count: u32) -> Constants {
        *constants
    }

    /// The constants for a row whose mean squares, that of the gradient at hand included, come to `sum`.
    #[inline(always)]
    fn of_sum(constants: &Constants, _sum: f32) -> Constants {
        *constants
    }

    /// The value and state after one gradient.
    fn step<R: Real>(
        constants: &Splat<R>,
        value: R,
        state: [R; PLANES_MAX],
        gradient: R,
    ) -> (R, [R; PLANES_MAX]);
}
