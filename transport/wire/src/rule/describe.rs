//! What a rule is made of, described once: the enum, its bytes, its text and its checks come from it.

use super::{Limits, RuleError};

/// The most hyper-parameters that a rule has.
pub(super) const PARAMETERS_MAX: usize = 5;

/// An update rule by name and number, with its hyper-parameters.
#[derive(Clone, Copy, Debug)]
pub struct RuleDescription {
    /// Its name in text.
    pub name: &'static str,
    /// Its number in bytes; never given to another rule.
    pub number: u8,
    /// What it does, in a line.
    pub help: &'static str,
    /// Its hyper-parameters, in the order of bytes and text.
    pub parameters: &'static [Parameter],
    /// The key of its switch, where it has one; off by default.
    pub flag: Option<&'static str>,
    /// Whether it has [`Limits`], which are without end by default.
    pub takes_limits: bool,
    /// The optimiser state that it may keep beside each value, in order: a plane each.
    pub planes: &'static [&'static str],
    /// What it keeps once for each row, in four bytes.
    pub row_word: Option<RowWord>,
}

/// Four bytes of state that a whole row shares. They begin as zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowWord {
    /// A `u32`: how often the row was updated.
    Steps,
    /// A binary32, and what it is.
    Number(&'static str),
}

impl RuleDescription {
    /// The keys it has in text, as a list to read: `lr, momentum`.
    #[must_use]
    pub fn keys(&self) -> String {
        let limits = if self.takes_limits { &Limits::KEYS[..] } else { &[] };
        let own = self.parameters.iter().map(|parameter| parameter.key).chain(self.flag);
        let keys: Vec<&str> = own.chain(limits.iter().copied()).collect();
        if keys.is_empty() { "none".to_owned() } else { keys.join(", ") }
    }

    /// Most hyper-parameters and most state planes of any of these.
    pub(super) const fn most(rules: &[Self]) -> (usize, usize) {
        let (mut parameters, mut planes, mut at) = (0, 0, 0);
        while at < rules.len() {
            let rule = &rules[at];
            if rule.parameters.len() > parameters {
                parameters = rule.parameters.len();
            }
            if rule.planes.len() > planes {
                planes = rule.planes.len();
            }
            at += 1;
        }
        (parameters, planes)
    }

    pub(super) fn defaults(&self) -> Parts {
        let mut values = [0.0; PARAMETERS_MAX];
        for (value, parameter) in values.iter_mut().zip(self.parameters) {
            *value = parameter.default;
        }
        Parts { number: self.number, values, flag: false, limits: Limits::NONE }
    }
}

/// A hyper-parameter of a rule.
#[derive(Clone, Copy, Debug)]
pub struct Parameter {
    /// Its key in text.
    pub key: &'static str,
    /// Its name in full, which text may give as well.
    pub name: &'static str,
    /// The values it may have.
    pub range: Range,
    /// Its value where the text does not give one.
    pub default: f64,
}

/// A rule as numbers: what bytes hold and text sets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Parts {
    pub(super) number: u8,
    /// By position in the description; the rest are zero.
    pub(super) values: [f64; PARAMETERS_MAX],
    pub(super) flag: bool,
    pub(super) limits: Limits,
}

/// The values a hyper-parameter may have. The bounds keep it a normal number in binary32 too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Range {
    /// 1e-30 to 1e30.
    Positive,
    /// 0, or 1e-30 to 1e30.
    NotNegative,
    /// 0, or 1e-30 to 0.9999999.
    BelowOne,
}

pub(super) const PARAMETER_MAX: f64 = 1e30;
pub(super) const PARAMETER_MIN: f64 = 1e-30;
/// The largest momentum or beta: the nearest binary32 is still below 1.
pub(super) const DECAY_MAX: f64 = 0.999_999_9;

impl Range {
    pub(super) fn check(
        self,
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

/// Declares `UpdateRule` and everything that follows from names, numbers, defaults, ranges and state. A rule is
///
/// ```text
/// Variant = number "name" "help" {
///     field: "key" in Range = default,      a hyper-parameter
///     ? field: "key",                       a switch
///     + limits,                             it takes limits
///     keeps "plane" when field,             a state plane, if the field is not zero where one is named
///     counts steps,                         a count of steps beside each row
///     sums "number",                        a number beside each row
/// }
/// ```
macro_rules! update_rules {
    (
        $(#[$enum_doc:meta])*
        pub enum UpdateRule:
        $(
            $(#[$doc:meta])*
            $variant:ident = $number:literal $name:literal $help:literal $({
                $( $(#[$field_doc:meta])* $field:ident: $key:literal in $range:ident = $default:literal, )*
                $( ? $(#[$flag_doc:meta])* $flag:ident: $flag_key:literal, )?
                $( + $limits:ident, )?
                $( keeps $plane:literal $(when $needed:ident)?, )*
                $( counts $counted:ident, )?
                $( sums $sum:literal, )?
            })?
        )*
    ) => {
        $(#[$enum_doc])*
        #[derive(Clone, Copy, Debug, PartialEq)]
        pub enum UpdateRule {
            $(
                $(#[$doc])*
                $variant $({
                    $( $(#[$field_doc])* $field: f64, )*
                    $( $(#[$flag_doc])* $flag: bool, )?
                    $(
                        /// Of gradients and values.
                        $limits: Limits,
                    )?
                })?,
            )*
        }

        impl UpdateRule {
            /// Every rule there is.
            pub const ALL: &'static [RuleDescription] = &[$(
                RuleDescription {
                    name: $name,
                    number: $number,
                    help: $help,
                    parameters: &[$($(
                        Parameter {
                            key: $key,
                            name: stringify!($field),
                            range: Range::$range,
                            default: $default,
                        },
                    )*)?],
                    flag: {
                        let flags: &[&str] = &[$($($flag_key)?)?];
                        match flags { [] => None, [key, ..] => Some(*key) }
                    },
                    takes_limits: {
                        let limits: &[&str] = &[$($(stringify!($limits))?)?];
                        !limits.is_empty()
                    },
                    planes: &[$($($plane),*)?],
                    row_word: {
                        let counts: &[&str] = &[$($(stringify!($counted))?)?];
                        let sums: &[&str] = &[$($($sum)?)?];
                        match (counts, sums) {
                            ([], []) => None,
                            (_, [sum, ..]) => Some(RowWord::Number(sum)),
                            _ => Some(RowWord::Steps),
                        }
                    },
                },
            )*];

            fn parts(&self) -> Parts {
                match *self {$(
                    Self::$variant $({ $($field,)* $($flag,)? $($limits,)? })? => {
                        let given: &[f64] = &[$($($field),*)?];
                        let flags: &[bool] = &[$($($flag)?)?];
                        let mut values = [0.0; PARAMETERS_MAX];
                        values[..given.len()].copy_from_slice(given);
                        let limits: &[Limits] = &[$($($limits)?)?];
                        let limits = limits.first().copied().unwrap_or_default();
                        Parts { number: $number, values, flag: flags.contains(&true), limits }
                    }
                )*}
            }

            /// Which of its planes it keeps, as bits from the lowest.
            #[allow(unused_variables, reason = "most fields decide about no plane")]
            fn planes(&self) -> u8 {
                match *self {$(
                    Self::$variant $({ $($field,)* $($flag,)? $($limits,)? })? => {
                        let kept: &[bool] = &[$($(true $(&& $needed != 0.0)?),*)?];
                        kept.iter().rev().fold(0, |bits, kept| bits << 1 | u8::from(*kept))
                    }
                )*}
            }

            /// The rule of these parts; those it does not use are ignored.
            fn from_parts(parts: &Parts) -> Option<Self> {
                match parts.number {
                    $($number => {
                        $(
                            let [$($field,)* ..] = parts.values;
                            $( let $flag = parts.flag; )?
                            $( let $limits = parts.limits; )?
                        )?
                        Some(Self::$variant $({ $($field,)* $($flag,)? $($limits,)? })?)
                    })*
                    _ => None,
                }
            }
        }
    };
}
pub(super) use update_rules;
