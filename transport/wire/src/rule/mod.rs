//! The update rule of a table as data: hyper-parameters, their validity, and what it needs of a table.

mod bytes;
mod text;

use crate::dtype::DataType;

pub use bytes::DecodeRuleError;
pub use text::ParseRuleError;

/// How a pushed gradient `g` changes a parameter value `p`.
///
/// Hyper-parameters are binary64 and are rounded once, to binary32, for tables that compute in
/// binary32 (all but `f64`). State starts as zeros.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum UpdateRule {
    /// `p += g`. Integers wrap in two's complement, so that the sum does not depend on its order.
    Add,
    /// `p = g`; of several pushes to a row the last one holds.
    Assign,
    /// Stochastic gradient descent: `d = g + weight_decay p; m = momentum m + d; p -= learning_rate m`
    /// (Nesterov: `p -= learning_rate (d + momentum m)`). Polyak 1964; Sutskever et al. 2013.
    Sgd {
        /// Step length, > 0.
        learning_rate: f64,
        /// Share of the last step that is kept, 0 <= momentum < 1. At 0 the rule has no state.
        momentum: f64,
        /// Look ahead by one momentum step; needs a momentum.
        nesterov: bool,
        /// L2 penalty added to the gradient, >= 0.
        weight_decay: f64,
    },
    /// Duchi, Hazan, Singer 2011: `d = g + weight_decay p; n += d^2;
    /// p -= learning_rate d / (sqrt(initial_accumulator + n) + epsilon)`.
    Adagrad {
        /// Step length, > 0.
        learning_rate: f64,
        /// Guard against division by zero, > 0.
        epsilon: f64,
        /// What the sum of squares starts from, >= 0.
        initial_accumulator: f64,
        /// L2 penalty added to the gradient, >= 0.
        weight_decay: f64,
    },
    /// Kingma and Ba 2015 with bias correction by a step count of each row; decoupled: Loshchilov and
    /// Hutter 2019 (AdamW).
    Adam {
        /// Step length, > 0.
        learning_rate: f64,
        /// Decay of the first moment, 0 <= beta1 < 1.
        beta1: f64,
        /// Decay of the second moment, 0 <= beta2 < 1.
        beta2: f64,
        /// Guard against division by zero, > 0.
        epsilon: f64,
        /// L2 penalty, >= 0.
        weight_decay: f64,
        /// Shrink the value by `learning_rate * weight_decay` instead of adding to the gradient.
        decoupled: bool,
    },
    /// FTRL-Proximal with per-coordinate rates, McMahan et al. 2013, algorithm 1.
    Ftrl {
        /// Learning rate, > 0.
        alpha: f64,
        /// Smoothing of the learning rate, > 0.
        beta: f64,
        /// L1 penalty, >= 0: values whose evidence stays below it are exactly zero.
        l1: f64,
        /// L2 penalty, >= 0.
        l2: f64,
    },
}

/// How pushes that hit the same rows in one turn combine before the rule is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// Their gradients are summed.
    Sum,
    /// The last one replaces the others.
    Last,
}

impl UpdateRule {
    /// Most state planes any rule has.
    pub const STATE_WIDTH_MAX: usize = 2;

    /// The name of the rule, without its hyper-parameters.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Add => "add",
            Self::Assign => "assign",
            Self::Sgd { .. } => "sgd",
            Self::Adagrad { .. } => "adagrad",
            Self::Adam { .. } => "adam",
            Self::Ftrl { .. } => "ftrl",
        }
    }

    /// State values for each parameter value: each is one plane parallel to the values.
    #[must_use]
    pub fn state_width(&self) -> usize {
        match self {
            Self::Add | Self::Assign => 0,
            Self::Sgd { momentum, .. } => usize::from(*momentum != 0.0),
            Self::Adagrad { .. } => 1,
            Self::Adam { .. } | Self::Ftrl { .. } => 2,
        }
    }

    /// Bytes of one state value beside a parameter of this dtype: 8 for `f64` tables, 4 for all others,
    /// so that low-precision parameters keep exact statistics.
    #[must_use]
    pub const fn state_value_size(dtype: DataType) -> usize {
        match dtype {
            DataType::F64 => 8,
            _ => 4,
        }
    }

    /// Whether each row has a `u32` step count, starting at 0 and kept up to date by the kernel.
    #[must_use]
    pub const fn counts_steps(&self) -> bool {
        matches!(self, Self::Adam { .. })
    }

    /// Whether applying gradients one by one equals applying their sum, up to rounding.
    #[must_use]
    pub fn is_linear(&self) -> bool {
        match self {
            Self::Add => true,
            Self::Sgd { momentum, weight_decay, .. } => *momentum == 0.0 && *weight_decay == 0.0,
            _ => false,
        }
    }

    /// How pushes to the same row combine.
    #[must_use]
    pub const fn merge(&self) -> Merge {
        match self {
            Self::Assign => Merge::Last,
            _ => Merge::Sum,
        }
    }

    /// Whether a table of this dtype may use the rule: integers are only added or assigned.
    ///
    /// # Errors
    /// [`RuleError::Dtype`].
    pub const fn check_dtype(&self, dtype: DataType) -> Result<(), RuleError> {
        if dtype.is_float() || matches!(self, Self::Add | Self::Assign) {
            Ok(())
        } else {
            Err(RuleError::Dtype { rule: self.name(), dtype })
        }
    }

    /// Checks every hyper-parameter.
    ///
    /// # Errors
    /// [`RuleError`] names the first one that is out of its range.
    pub fn validate(&self) -> Result<(), RuleError> {
        let rule = self.name();
        let check = |parameter, value: f64, range: Range| range.check(rule, parameter, value);
        match *self {
            Self::Add | Self::Assign => Ok(()),
            Self::Sgd { learning_rate, momentum, nesterov, weight_decay } => {
                check("lr", learning_rate, Range::Positive)?;
                check("momentum", momentum, Range::BelowOne)?;
                check("wd", weight_decay, Range::NotNegative)?;
                if nesterov && momentum == 0.0 {
                    return Err(RuleError::NesterovWithoutMomentum);
                }
                Ok(())
            }
            Self::Adagrad { learning_rate, epsilon, initial_accumulator, weight_decay } => {
                check("lr", learning_rate, Range::Positive)?;
                check("eps", epsilon, Range::Positive)?;
                check("init", initial_accumulator, Range::NotNegative)?;
                check("wd", weight_decay, Range::NotNegative)
            }
            Self::Adam { learning_rate, beta1, beta2, epsilon, weight_decay, decoupled: _ } => {
                check("lr", learning_rate, Range::Positive)?;
                check("beta1", beta1, Range::BelowOne)?;
                check("beta2", beta2, Range::BelowOne)?;
                check("eps", epsilon, Range::Positive)?;
                check("wd", weight_decay, Range::NotNegative)
            }
            Self::Ftrl { alpha, beta, l1, l2 } => {
                check("alpha", alpha, Range::Positive)?;
                check("beta", beta, Range::Positive)?;
                check("l1", l1, Range::NotNegative)?;
                check("l2", l2, Range::NotNegative)
            }
        }
    }
}

/// The bounds on hyper-parameters keep them normal numbers in binary32 too.
const PARAMETER_MAX: f64 = 1e30;
const PARAMETER_MIN: f64 = 1e-30;
/// The largest momentum or beta: the nearest binary32 is still below 1.
const DECAY_MAX: f64 = 0.999_999_9;

enum Range {
    Positive,
    NotNegative,
    BelowOne,
}

impl Range {
    fn check(
        &self,
        rule: &'static str,
        parameter: &'static str,
        value: f64,
    ) -> Result<(), RuleError> {
        let (holds, range) = match self {
            Self::Positive => ((PARAMETER_MIN..=PARAMETER_MAX).contains(&value), "1e-30 to 1e30"),
            Self::NotNegative => (is_zero_or_in(value, PARAMETER_MAX), "0 or 1e-30 to 1e30"),
            Self::BelowOne => (is_zero_or_in(value, DECAY_MAX), "0 or 1e-30 to 0.9999999"),
        };
        if holds { Ok(()) } else { Err(RuleError::OutOfRange { rule, parameter, value, range }) }
    }
}

/// A negative zero is refused: it would make two encodings of one rule.
fn is_zero_or_in(value: f64, max: f64) -> bool {
    value.to_bits() == 0 || (PARAMETER_MIN..=max).contains(&value)
}

/// Why a rule cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum RuleError {
    /// A hyper-parameter is not a number of its range.
    #[error("update rule {rule}: {parameter} is {value}; use a value of {range}")]
    OutOfRange {
        /// Name of the rule.
        rule: &'static str,
        /// Name of the hyper-parameter in the text form.
        parameter: &'static str,
        /// Its value.
        value: f64,
        /// What is accepted.
        range: &'static str,
    },
    /// Nesterov's step is defined by the momentum.
    #[error("update rule sgd: nesterov needs a momentum above 0")]
    NesterovWithoutMomentum,
    /// The rule computes fractions and the table holds integers.
    #[error(
        "update rule {rule} does not work on {dtype} values; use add or assign, or a float dtype"
    )]
    Dtype {
        /// Name of the rule.
        rule: &'static str,
        /// The table's dtype.
        dtype: DataType,
    },
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// One valid rule of each shape.
    pub(super) fn samples() -> Vec<UpdateRule> {
        [
            "add",
            "assign",
            "sgd:lr=0.1",
            "sgd:lr=0.1,wd=0.01",
            "sgd:lr=0.1,momentum=0.9",
            "sgd:lr=0.1,momentum=0.9,nesterov=true,wd=0.001",
            "adagrad:lr=0.1,eps=1e-8",
            "adagrad:lr=0.1,eps=1e-8,init=0.1,wd=0.01",
            "adam:lr=0.001",
            "adam:lr=0.001,wd=0.01",
            "adamw:lr=0.001,wd=0.01",
            "ftrl:alpha=0.1,beta=1,l1=0.5,l2=0.1",
            "ftrl:alpha=0.1",
        ]
        .map(|text| text.parse().unwrap())
        .to_vec()
    }

    #[test]
    fn refuses_what_is_out_of_range() {
        for text in [
            "sgd:lr=0",
            "sgd:lr=-1",
            "sgd:lr=nan",
            "sgd:lr=inf",
            "sgd:momentum=1",
            "sgd:wd=-0.0",
            "adagrad:eps=0",
            "adagrad:init=-1",
            "adam:beta1=1",
            "adam:beta2=0.99999999",
            "ftrl:alpha=1e300",
            "ftrl:beta=0",
        ] {
            let error = text.parse::<UpdateRule>().unwrap_err();
            assert!(
                matches!(error, ParseRuleError::Rule(RuleError::OutOfRange { .. })),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn nesterov_needs_momentum() {
        let error = "sgd:nesterov=true".parse::<UpdateRule>().unwrap_err();
        assert_eq!(error, ParseRuleError::Rule(RuleError::NesterovWithoutMomentum));
    }

    #[test]
    fn integers_only_add_and_assign() {
        for rule in samples() {
            for dtype in DataType::ALL {
                let accepted = rule.check_dtype(dtype).is_ok();
                let expected = dtype.is_float() || matches!(rule.name(), "add" | "assign");
                assert_eq!(accepted, expected, "{rule} on {dtype}");
            }
        }
    }

    #[test]
    fn bounds_stay_normal_in_binary32() {
        #[expect(clippy::cast_possible_truncation, reason = "the rounding is what is tested")]
        let [min, max, decay] = [PARAMETER_MIN, PARAMETER_MAX, DECAY_MAX].map(|x| x as f32);
        assert!(min.is_normal());
        assert!(max.is_normal());
        assert!(decay < 1.0);
    }
}
