//! Limits of what a rule takes and leaves: clipped gradients and bounded values.

use super::{
    RuleError,
    describe::{PARAMETER_MAX, PARAMETER_MIN},
};

/// Limits of gradients and of values; without end by default. They are part of the rules that take gradients.
///
/// The gradient that is limited is the one the rule is applied to: of pushes that meet in a turn of their server it is
/// their sum, in rounds the round's. It is first made as short as `clip_norm`, row by row, then each of its values is
/// cut to `clip`; weight decay is added after that. What the rule makes of a value is then brought between `min` and `max`. NaN stays NaN.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limits {
    /// The largest absolute value of a gradient, > 0.
    pub clip: f64,
    /// The largest Euclidean norm of a row's gradient, > 0: a longer one is scaled down to it.
    pub clip_norm: f64,
    /// The least value of a weight. Rows begin as zeros and are brought within bounds by their first push.
    pub min: f64,
    /// The largest value of a weight.
    pub max: f64,
}

impl Default for Limits {
    fn default() -> Self {
        Self::NONE
    }
}

/// Limits there are.
pub(super) const LIMITS_COUNT: usize = 4;

impl Limits {
    /// No limits.
    pub const NONE: Self = Self {
        clip: f64::INFINITY,
        clip_norm: f64::INFINITY,
        min: f64::NEG_INFINITY,
        max: f64::INFINITY,
    };

    /// Their keys in text, in the order of bytes and text.
    pub const KEYS: [&'static str; LIMITS_COUNT] = ["clip", "clip_norm", "min", "max"];

    /// Whether nothing is limited.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::NONE
    }

    pub(super) fn values(&self) -> [f64; LIMITS_COUNT] {
        [self.clip, self.clip_norm, self.min, self.max]
    }

    pub(super) fn of_values([clip, clip_norm, min, max]: [f64; LIMITS_COUNT]) -> Self {
        Self { clip, clip_norm, min, max }
    }

    pub(super) fn check(&self, rule: &'static str) -> Result<(), RuleError> {
        let clips =
            |value: f64| (PARAMETER_MIN..=PARAMETER_MAX).contains(&value) || value == f64::INFINITY;
        // A negative zero is refused: it would make two encodings of one rule.
        let is_plain = |value: f64| {
            value.to_bits() == 0 || (PARAMETER_MIN..=PARAMETER_MAX).contains(&value.abs())
        };
        let bounds = |value: f64, none: f64| value == none || is_plain(value);
        let holds = [
            clips(self.clip),
            clips(self.clip_norm),
            bounds(self.min, Self::NONE.min),
            bounds(self.max, Self::NONE.max) && self.min <= self.max,
        ];
        let ranges = [
            "1e-30 to 1e30, or inf for none",
            "1e-30 to 1e30, or inf for none",
            "-1e30 to 1e30, or -inf for none",
            "-1e30 to 1e30 from min on, or inf for none",
        ];
        let Some(at) = holds.iter().position(|holds| !holds) else { return Ok(()) };
        let (parameter, value, range) = (Self::KEYS[at], self.values()[at], ranges[at]);
        Err(RuleError::OutOfRange { rule, parameter, value, range })
    }
}
