//! The rule as text, in the CLI and in TOML: `name` or `name:key=value,...`, such as
//! `adagrad:lr=0.1,eps=1e-8`. Keys left out take their defaults; `adamw` is `adam` decoupled.

use std::{fmt, str::FromStr};

use super::{RuleError, UpdateRule};

impl FromStr for UpdateRule {
    type Err = ParseRuleError;

    fn from_str(text: &str) -> Result<Self, ParseRuleError> {
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        let mut rule =
            default_rule(name).ok_or_else(|| ParseRuleError::Name { name: name.to_owned() })?;
        let mut seen = Vec::new();
        for part in rest.split(',').filter(|part| !part.is_empty()) {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| ParseRuleError::Part { part: part.to_owned() })?;
            let (key, value) = (key.trim(), value.trim());
            if seen.contains(&key) {
                return Err(ParseRuleError::Twice { key: key.to_owned() });
            }
            seen.push(key);
            set(&mut rule, key, value)?;
        }
        rule.validate()?;
        Ok(rule)
    }
}

fn default_rule(name: &str) -> Option<UpdateRule> {
    Some(match name {
        "add" => UpdateRule::Add,
        "assign" => UpdateRule::Assign,
        "sgd" => UpdateRule::Sgd {
            learning_rate: 0.01,
            momentum: 0.0,
            nesterov: false,
            weight_decay: 0.0,
        },
        "adagrad" => UpdateRule::Adagrad {
            learning_rate: 0.01,
            epsilon: 1e-10,
            initial_accumulator: 0.0,
            weight_decay: 0.0,
        },
        "adam" | "adamw" => UpdateRule::Adam {
            learning_rate: 0.001,
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: if name == "adamw" { 0.01 } else { 0.0 },
            decoupled: name == "adamw",
        },
        "ftrl" => UpdateRule::Ftrl { alpha: 0.1, beta: 1.0, l1: 0.0, l2: 0.0 },
        _ => return None,
    })
}

fn set(rule: &mut UpdateRule, key: &str, value: &str) -> Result<(), ParseRuleError> {
    let name = rule.name();
    if let Some(parameter) = number_of(rule, key) {
        *parameter = value.parse().map_err(|_| bad_value(key, value, "a number"))?;
    } else if let Some(flag) = flag_of(rule, key) {
        *flag = value.parse().map_err(|_| bad_value(key, value, "true or false"))?;
    } else {
        return Err(ParseRuleError::Key { rule: name, key: key.to_owned(), keys: keys(name) });
    }
    Ok(())
}

fn bad_value(key: &str, value: &str, expected: &'static str) -> ParseRuleError {
    ParseRuleError::Value { key: key.to_owned(), value: value.to_owned(), expected }
}

fn number_of<'rule>(rule: &'rule mut UpdateRule, key: &str) -> Option<&'rule mut f64> {
    use UpdateRule::{Adagrad, Adam, Add, Assign, Ftrl, Sgd};
    match (rule, key) {
        (Add | Assign, _) => None,
        (
            Sgd { learning_rate, .. } | Adagrad { learning_rate, .. } | Adam { learning_rate, .. },
            "lr",
        ) => Some(learning_rate),
        (
            Sgd { weight_decay, .. } | Adagrad { weight_decay, .. } | Adam { weight_decay, .. },
            "wd",
        ) => Some(weight_decay),
        (Adagrad { epsilon, .. } | Adam { epsilon, .. }, "eps") => Some(epsilon),
        (Sgd { momentum, .. }, "momentum") => Some(momentum),
        (Adagrad { initial_accumulator, .. }, "init") => Some(initial_accumulator),
        (Adam { beta1, .. }, "beta1") => Some(beta1),
        (Adam { beta2, .. }, "beta2") => Some(beta2),
        (Ftrl { alpha, .. }, "alpha") => Some(alpha),
        (Ftrl { beta, .. }, "beta") => Some(beta),
        (Ftrl { l1, .. }, "l1") => Some(l1),
        (Ftrl { l2, .. }, "l2") => Some(l2),
        _ => None,
    }
}

fn flag_of<'rule>(rule: &'rule mut UpdateRule, key: &str) -> Option<&'rule mut bool> {
    match (rule, key) {
        (UpdateRule::Sgd { nesterov, .. }, "nesterov") => Some(nesterov),
        (UpdateRule::Adam { decoupled, .. }, "decoupled") => Some(decoupled),
        _ => None,
    }
}

fn keys(name: &str) -> &'static str {
    match name {
        "sgd" => "lr, momentum, nesterov, wd",
        "adagrad" => "lr, eps, init, wd",
        "adam" => "lr, beta1, beta2, eps, wd, decoupled",
        "ftrl" => "alpha, beta, l1, l2",
        _ => "none",
    }
}

impl fmt::Display for UpdateRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())?;
        match *self {
            Self::Add | Self::Assign => Ok(()),
            Self::Sgd { learning_rate, momentum, nesterov, weight_decay } => {
                write!(formatter, ":lr={}", Number(learning_rate))?;
                write!(formatter, ",momentum={},nesterov={nesterov}", Number(momentum))?;
                write!(formatter, ",wd={}", Number(weight_decay))
            }
            Self::Adagrad { learning_rate, epsilon, initial_accumulator, weight_decay } => {
                write!(formatter, ":lr={},eps={}", Number(learning_rate), Number(epsilon))?;
                write!(formatter, ",init={}", Number(initial_accumulator))?;
                write!(formatter, ",wd={}", Number(weight_decay))
            }
            Self::Adam { learning_rate, beta1, beta2, epsilon, weight_decay, decoupled } => {
                write!(formatter, ":lr={}", Number(learning_rate))?;
                write!(formatter, ",beta1={},beta2={}", Number(beta1), Number(beta2))?;
                write!(formatter, ",eps={},wd={}", Number(epsilon), Number(weight_decay))?;
                write!(formatter, ",decoupled={decoupled}")
            }
            Self::Ftrl { alpha, beta, l1, l2 } => {
                write!(formatter, ":alpha={},beta={}", Number(alpha), Number(beta))?;
                write!(formatter, ",l1={},l2={}", Number(l1), Number(l2))
            }
        }
    }
}

/// Shortest digits that read back as the same number, with an exponent where zeros would pile up.
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0.0 || (1e-4..1e6).contains(&self.0.abs()) {
            write!(formatter, "{}", self.0)
        } else {
            write!(formatter, "{:e}", self.0)
        }
    }
}

/// Why a text is not an update rule.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum ParseRuleError {
    /// No rule has this name.
    #[error("unknown update rule {name:?}: use add, assign, sgd, adagrad, adam, adamw or ftrl")]
    Name {
        /// The text before the colon.
        name: String,
    },
    /// A part is not `key=value`.
    #[error("{part:?} is not of the form key=value; write for example sgd:lr=0.1,momentum=0.9")]
    Part {
        /// The part.
        part: String,
    },
    /// The rule has no such hyper-parameter.
    #[error("update rule {rule} has no {key:?}; its keys are: {keys}")]
    Key {
        /// Name of the rule.
        rule: &'static str,
        /// The key.
        key: String,
        /// The keys it has.
        keys: &'static str,
    },
    /// A key is given twice.
    #[error("{key:?} is given twice; give it once")]
    Twice {
        /// The key.
        key: String,
    },
    /// A value cannot be read.
    #[error("{key}={value} cannot be read: {expected} is expected")]
    Value {
        /// The key.
        key: String,
        /// The text of its value.
        value: String,
        /// What it should be.
        expected: &'static str,
    },
    /// The rule reads well but is not valid.
    #[error(transparent)]
    Rule(#[from] RuleError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::tests::samples;

    #[test]
    fn text_round_trips() {
        for rule in samples() {
            assert_eq!(rule.to_string().parse::<UpdateRule>(), Ok(rule), "{rule}");
        }
        let rule = "adagrad:lr=0.1,eps=1e-8".parse::<UpdateRule>().unwrap();
        assert_eq!(rule.to_string(), "adagrad:lr=0.1,eps=1e-8,init=0,wd=0");
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let error = |text: &str| text.parse::<UpdateRule>().unwrap_err().to_string();
        assert!(error("adadelta").contains("adadelta"));
        assert!(error("sgd:lr").contains("key=value"));
        assert!(error("sgd:alpha=1").contains("lr, momentum, nesterov, wd"));
        assert!(error("sgd:lr=fast").contains("a number"));
        assert!(error("sgd:nesterov=1").contains("true or false"));
        assert!(error("sgd:lr=1,lr=2").contains("twice"));
        assert!(error("add:lr=1").contains("none"));
    }
}
