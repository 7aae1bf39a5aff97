//! The update rule of a table as data: hyper-parameters, their validity, and what it needs of a table.

mod bytes;
mod describe;
mod limits;
mod text;

use crate::dtype::DataType;

use describe::{PARAMETERS_MAX, Parts, update_rules};

pub use bytes::DecodeRuleError;
pub use describe::{Parameter, Range, RowWord, RuleDescription};
pub use limits::Limits;
pub use text::ParseRuleError;

update_rules! {
    /// How a pushed gradient `g` changes a parameter value `p`.
    ///
    /// Hyper-parameters are binary64 and are rounded once, to binary32, for tables that compute in
    /// binary32 (all but `f64`). State starts as zeros.
    pub enum UpdateRule:

    /// `p += g`. Integers wrap in two's complement, so that the sum does not depend on its order.
    Add = 0 "add" "adds what is pushed; integers wrap"

    /// `p = g`; of several pushes to a row the last one holds.
    Assign = 1 "assign" "replaces the value by what is pushed"

    /// Stochastic gradient descent: `d = g + weight_decay p; m = momentum m + d; p -= learning_rate m`
    /// (Nesterov: `p -= learning_rate (d + momentum m)`). Polyak 1964; Sutskever et al. 2013.
    Sgd = 2 "sgd" "stochastic gradient descent, with momentum if it is above 0" {
        /// Step length, > 0.
        learning_rate: "lr" in Positive = 0.01,
        /// Share of the last step that is kept, 0 <= momentum < 1. At 0 the rule has no state.
        momentum: "momentum" in BelowOne = 0.0,
        /// L2 penalty added to the gradient, >= 0.
        weight_decay: "wd" in NotNegative = 0.0,
        ?
        /// Look ahead by one momentum step; needs a momentum.
        nesterov: "nesterov",
        + limits,
        keeps "velocity" when momentum,
    }

    /// Duchi, Hazan, Singer 2011: `d = g + weight_decay p; n += d^2;
    /// p -= learning_rate d / (sqrt(initial_accumulator + n) + epsilon)`.
    Adagrad = 3 "adagrad" "steps divided by the root of a coordinate's summed squares" {
        /// Step length, > 0.
        learning_rate: "lr" in Positive = 0.01,
        /// Guard against division by zero, > 0.
        epsilon: "eps" in Positive = 1e-10,
        /// What the sum of squares starts from, >= 0.
        initial_accumulator: "init" in NotNegative = 0.0,
        /// L2 penalty added to the gradient, >= 0.
        weight_decay: "wd" in NotNegative = 0.0,
        + limits,
        keeps "sum of squares",
    }

    /// Kingma and Ba 2015 with bias correction by a step count of each row; decoupled: Loshchilov and
    /// Hutter 2019 (AdamW).
    Adam = 4 "adam" "steps by the first and second moments, with bias correction" {
        /// Step length, > 0.
        learning_rate: "lr" in Positive = 0.001,
        /// Decay of the first moment, 0 <= beta1 < 1.
        beta1: "beta1" in BelowOne = 0.9,
        /// Decay of the second moment, 0 <= beta2 < 1.
        beta2: "beta2" in BelowOne = 0.999,
        /// Guard against division by zero, > 0.
        epsilon: "eps" in Positive = 1e-8,
        /// L2 penalty, >= 0.
        weight_decay: "wd" in NotNegative = 0.0,
        ?
        /// Shrink the value by `learning_rate * weight_decay` instead of adding to the gradient.
        decoupled: "decoupled",
        + limits,
        keeps "first moment",
        keeps "second moment",
        counts steps,
    }

    /// FTRL-Proximal with per-coordinate rates, McMahan et al. 2013, algorithm 1.
    Ftrl = 5 "ftrl" "FTRL-Proximal: sparse weights by L1, with a rate for each coordinate" {
        /// Learning rate, > 0.
        alpha: "alpha" in Positive = 0.1,
        /// Smoothing of the learning rate, > 0.
        beta: "beta" in Positive = 1.0,
        /// L1 penalty, >= 0: values whose evidence stays below it are exactly zero.
        l1: "l1" in NotNegative = 0.0,
        /// L2 penalty, >= 0.
        l2: "l2" in NotNegative = 0.0,
        + limits,
        keeps "z: gradients less what they moved",
        keeps "sum of squares",
    }

    /// Hinton's RMSProp (2012), with PyTorch's momentum: `d = g + weight_decay p; v = decay v + (1 - decay) d^2;
    /// m = momentum m + d / (sqrt(v) + epsilon); p -= learning_rate m`.
    Rmsprop = 6 "rmsprop" "steps divided by the root of a moving mean of squares" {
        /// Step length, > 0.
        learning_rate: "lr" in Positive = 0.01,
        /// Share of the mean of squares that is kept, 0 <= decay < 1.
        decay: "decay" in BelowOne = 0.99,
        /// Guard against division by zero, > 0.
        epsilon: "eps" in Positive = 1e-8,
        /// Share of the last step that is kept, 0 <= momentum < 1. At 0 it has no state.
        momentum: "momentum" in BelowOne = 0.0,
        /// L2 penalty added to the gradient, >= 0.
        weight_decay: "wd" in NotNegative = 0.0,
        + limits,
        keeps "mean of squares",
        keeps "velocity" when momentum,
    }

    /// Adagrad with one sum for each row (Mudigere et al. 2022, for embeddings): `n += mean of g^2 over the row;
    /// p -= learning_rate g / (sqrt(initial_accumulator + n) + epsilon)`. The sum is a binary32 beside the row, where
    /// Adagrad has as many as the row has values.
    RowAdagrad = 7 "row-adagrad" "Adagrad with one sum of squares for each row, for embeddings" {
        /// Step length, > 0.
        learning_rate: "lr" in Positive = 0.01,
        /// Guard against division by zero, > 0.
        epsilon: "eps" in Positive = 1e-10,
        /// What the sum of squares starts from, >= 0.
        initial_accumulator: "init" in NotNegative = 0.0,
        + limits,
        sums "sum of mean squares",
    }
}

const _: () =
    assert!(RuleDescription::most(UpdateRule::ALL).0 <= PARAMETERS_MAX, "bytes have room");

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
    pub const STATE_WIDTH_MAX: usize = RuleDescription::most(Self::ALL).1;

    /// Its name, number and hyper-parameters.
    ///
    /// # Panics
    /// Never: every variant is described.
    #[must_use]
    pub fn description(&self) -> &'static RuleDescription {
        let number = self.parts().number;
        Self::ALL.iter().find(|rule| rule.number == number).expect("every variant is described")
    }

    /// The name of the rule, without its hyper-parameters.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.description().name
    }

    /// State values for each parameter value: each is one plane parallel to the values.
    #[must_use]
    pub fn state_width(&self) -> usize {
        self.planes().count_ones() as usize
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

    /// The four bytes of state beside each row, if it has them: zero at first, and kept up to date by the kernel.
    #[must_use]
    pub fn row_word(&self) -> Option<RowWord> {
        self.description().row_word
    }

    /// Its limits of gradients and values; of rules that take none, no limits.
    #[must_use]
    pub fn limits(&self) -> Limits {
        self.parts().limits
    }

    /// The rule with some hyper-parameters changed: `parameters` is `key=value,...`, the rest stay.
    ///
    /// # Errors
    /// [`ParseRuleError`] names what there is where a key is not the rule's, a value is out of range, nothing
    /// is given, or rows would need other optimiser state than they have.
    pub fn with(&self, parameters: &str) -> Result<Self, ParseRuleError> {
        let (rule, mut parts) = (self.description(), self.parts());
        if text::read(rule, &mut parts, parameters)? == 0 {
            return Err(ParseRuleError::Nothing { rule: rule.name, keys: rule.keys() });
        }
        let changed = Self::from_parts(&parts).expect("a described rule has a variant");
        changed.validate()?;
        if !changed.has_state_of(self) {
            return Err(RuleError::State { rule: rule.name }.into());
        }
        Ok(changed)
    }

    /// Whether rows updated by `other` have the state that this rule needs.
    #[must_use]
    pub fn has_state_of(&self, other: &Self) -> bool {
        self.parts().number == other.parts().number && self.planes() == other.planes()
    }

    /// Whether applying gradients one by one equals applying their sum, up to rounding.
    #[must_use]
    pub fn is_linear(&self) -> bool {
        match self {
            Self::Add => true,
            Self::Sgd { momentum, weight_decay, limits, .. } => {
                *momentum == 0.0 && *weight_decay == 0.0 && limits.is_none()
            }
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
    pub fn check_dtype(&self, dtype: DataType) -> Result<(), RuleError> {
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
        let rule = self.description();
        for (parameter, value) in rule.parameters.iter().zip(self.parts().values) {
            parameter.range.check(rule.name, parameter.key, value)?;
        }
        self.limits().check(rule.name)?;
        match *self {
            Self::Sgd { momentum: 0.0, nesterov: true, .. } => {
                Err(RuleError::NesterovWithoutMomentum)
            }
            _ => Ok(()),
        }
    }
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
    /// Rows would need other state than they have.
    #[error(
        "update rule {rule}: rows have the optimiser state they were made with, so a momentum can be changed \
         but not begun or ended; create a table for that"
    )]
    State {
        /// Name of the rule.
        rule: &'static str,
    },
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
    use super::{
        describe::{DECAY_MAX, PARAMETER_MAX, PARAMETER_MIN},
        *,
    };

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
            "rmsprop:lr=0.01,decay=0.9",
            "rmsprop:lr=0.01,decay=0.9,eps=1e-6,momentum=0.9,wd=0.001",
            "sgd:lr=0.1,clip=0.5",
            "adam:clip_norm=2,min=-1",
            "ftrl:l1=0.5,clip=1,clip_norm=0.5,min=0,max=2.5",
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
            "rmsprop:decay=1",
            "rmsprop:eps=0",
            "sgd:clip=0",
            "sgd:clip=nan",
            "adam:clip_norm=-1",
            "ftrl:min=inf",
            "ftrl:min=-0.0",
            "adagrad:min=1,max=0.5",
            "rmsprop:max=-inf",
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
    fn numbers_names_and_keys_are_unique() {
        for (at, rule) in UpdateRule::ALL.iter().enumerate() {
            let parts = rule.defaults();
            let default = UpdateRule::from_parts(&parts).unwrap();
            assert_eq!(default.parts(), parts, "{}", rule.name);
            assert_eq!(default.name(), rule.name);
            assert_eq!(default.validate(), Ok(()), "{}", rule.name);
            let mut keys: Vec<&str> = rule.parameters.iter().map(|given| given.key).collect();
            keys.extend(rule.flag);
            for (position, key) in keys.iter().enumerate() {
                assert!(!keys[..position].contains(key), "{}: {key}", rule.name);
            }
            for other in &UpdateRule::ALL[..at] {
                assert!(rule.name != other.name && rule.number != other.number, "{}", rule.name);
            }
        }
    }

    #[test]
    fn state_is_what_a_rule_says_it_keeps() {
        let kept = |text: &str| {
            let rule = text.parse::<UpdateRule>().unwrap();
            (rule.planes(), rule.state_width(), rule.row_word())
        };
        assert_eq!(kept("assign"), (0, 0, None));
        assert_eq!(kept("sgd:lr=0.1"), (0, 0, None));
        assert_eq!(kept("sgd:lr=0.1,momentum=0.9"), (0b1, 1, None));
        assert_eq!(kept("adagrad"), (0b1, 1, None));
        assert_eq!(kept("adam"), (0b11, 2, Some(RowWord::Steps)));
        assert_eq!(kept("ftrl"), (0b11, 2, None));
        assert_eq!(kept("rmsprop"), (0b1, 1, None));
        assert_eq!(kept("rmsprop:momentum=0.5"), (0b11, 2, None));
        assert_eq!(kept("row-adagrad"), (0, 0, Some(RowWord::Number("sum of mean squares"))));
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
