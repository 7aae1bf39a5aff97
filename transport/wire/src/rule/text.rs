//! The rule as text, in the CLI and in TOML: `name` or `name:key=value,...`, such as
//! `adagrad:lr=0.1,eps=1e-8`. Keys left out take their defaults; `adamw` is `adam` decoupled. A key may be
//! written in full: `learning_rate` for `lr`.

use std::{fmt, str::FromStr};

use super::{Limits, Parts, RuleDescription, RuleError, UpdateRule};

/// `adam` decoupled, with a weight decay by default.
const ADAMW: &str = "adamw";
const ADAMW_WEIGHT_DECAY: f64 = 0.01;

impl FromStr for UpdateRule {
    type Err = ParseRuleError;

    fn from_str(text: &str) -> Result<Self, ParseRuleError> {
        let (name, rest) = text.split_once(':').unwrap_or((text, ""));
        let (rule, mut parts) =
            by_name(name).ok_or_else(|| ParseRuleError::Name { name: name.to_owned() })?;
        read(rule, &mut parts, rest)?;
        let parsed = Self::from_parts(&parts).expect("a described rule has a variant");
        parsed.validate()?;
        Ok(parsed)
    }
}

/// Sets what `key=value,...` gives; how many it gives.
pub(super) fn read(
    rule: &RuleDescription,
    parts: &mut Parts,
    text: &str,
) -> Result<usize, ParseRuleError> {
    let mut seen = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (key, value) =
            part.split_once('=').ok_or_else(|| ParseRuleError::Part { part: part.to_owned() })?;
        let given = key.trim();
        let long = rule.parameters.iter().find(|parameter| parameter.name == given);
        let key = long.map_or(given, |parameter| parameter.key);
        if seen.contains(&key) {
            return Err(ParseRuleError::Twice { key: given.to_owned() });
        }
        seen.push(key);
        set(rule, parts, key, value.trim())?;
    }
    Ok(seen.len())
}

/// The rule of this name, and its parts before the text sets any.
fn by_name(name: &str) -> Option<(&'static RuleDescription, Parts)> {
    let described = |name| UpdateRule::ALL.iter().find(|rule| rule.name == name);
    if name == ADAMW {
        let UpdateRule::Adam { learning_rate, beta1, beta2, epsilon, limits, .. } =
            UpdateRule::from_parts(&described("adam")?.defaults())?
        else {
            return None;
        };
        let (weight_decay, decoupled) = (ADAMW_WEIGHT_DECAY, true);
        let adamw = UpdateRule::Adam {
            learning_rate,
            beta1,
            beta2,
            epsilon,
            weight_decay,
            decoupled,
            limits,
        };
        return Some((adamw.description(), adamw.parts()));
    }
    let rule = described(name)?;
    Some((rule, rule.defaults()))
}

fn set(
    rule: &RuleDescription,
    parts: &mut Parts,
    key: &str,
    value: &str,
) -> Result<(), ParseRuleError> {
    if let Some(at) = rule.parameters.iter().position(|parameter| parameter.key == key) {
        parts.values[at] = value.parse().map_err(|_| bad_value(key, value, "a number"))?;
    } else if rule.flag == Some(key) {
        parts.flag = value.parse().map_err(|_| bad_value(key, value, "true or false"))?;
    } else if let Some(at) = Limits::KEYS.iter().position(|limit| *limit == key)
        && rule.takes_limits
    {
        let mut limits = parts.limits.values();
        limits[at] = value.parse().map_err(|_| bad_value(key, value, "a number"))?;
        parts.limits = Limits::of_values(limits);
    } else {
        return Err(ParseRuleError::Key {
            rule: rule.name,
            key: key.to_owned(),
            keys: rule.keys(),
        });
    }
    Ok(())
}

fn bad_value(key: &str, value: &str, expected: &'static str) -> ParseRuleError {
    ParseRuleError::Value { key: key.to_owned(), value: value.to_owned(), expected }
}

impl fmt::Display for UpdateRule {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (rule, parts) = (self.description(), self.parts());
        formatter.write_str(rule.name)?;
        let mut separator = ':';
        for (parameter, value) in rule.parameters.iter().zip(parts.values) {
            write!(formatter, "{separator}{}={}", parameter.key, Number(value))?;
            separator = ',';
        }
        if let Some(flag) = rule.flag {
            write!(formatter, "{separator}{flag}={}", parts.flag)?;
        }
        let limits = Limits::KEYS.iter().zip(parts.limits.values()).zip(Limits::NONE.values());
        for ((key, value), _) in limits.filter(|((_, value), none)| value != none) {
            write!(formatter, ",{key}={}", Number(value))?;
        }
        Ok(())
    }
}

/// The names a text may begin with, as a list to read.
fn names() -> String {
    let names: Vec<&str> = UpdateRule::ALL.iter().map(|rule| rule.name).collect();
    format!("{} or {ADAMW}", names.join(", "))
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
    #[error("unknown update rule {name:?}: use {}", names())]
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
        keys: String,
    },
    /// No key is given.
    #[error("nothing is given to change; the keys of update rule {rule} are: {keys}")]
    Nothing {
        /// Name of the rule.
        rule: &'static str,
        /// The keys it has.
        keys: String,
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
        assert!(error("sgd:alpha=1").contains("lr, momentum, wd, nesterov"));
        assert!(error("sgd:lr=fast").contains("a number"));
        assert!(error("sgd:nesterov=1").contains("true or false"));
        assert!(error("sgd:lr=1,lr=2").contains("twice"));
        assert!(error("add:lr=1").contains("none"));
    }

    #[test]
    fn keys_may_be_written_in_full() {
        let short = "sgd:lr=0.5,wd=0.25".parse::<UpdateRule>();
        assert_eq!("sgd:learning_rate=0.5,weight_decay=0.25".parse(), short);
        let twice = "sgd:learning_rate=0.5,lr=0.25".parse::<UpdateRule>();
        assert_eq!(twice, Err(ParseRuleError::Twice { key: "lr".to_owned() }));
    }

    #[test]
    fn some_hyper_parameters_change_and_the_rest_stay() {
        let rule: UpdateRule = "sgd:lr=0.5,momentum=0.5,wd=0.25".parse().unwrap();
        let changed = rule.with("learning_rate=0.125, nesterov=true").unwrap();
        assert_eq!(changed.to_string(), "sgd:lr=0.125,momentum=0.5,wd=0.25,nesterov=true");
        let error = |parameters: &str| rule.with(parameters).unwrap_err().to_string();
        assert!(error("beta=1").contains("lr, momentum, wd, nesterov"));
        assert!(error("").contains("lr, momentum, wd, nesterov"));
        assert!(error("lr=0").contains("1e-30 to 1e30"));
        assert!(error("momentum=0").contains("state"));
        let limited = changed.with("clip=0.5,min=-2").unwrap();
        assert!(limited.to_string().ends_with("nesterov=true,clip=0.5,min=-2"), "{limited}");
        assert_eq!(limited.with("clip=inf,min=-inf"), Ok(changed));
        assert!(error("min=1,max=0").contains("from min on"));
        assert!("add:clip=1".parse::<UpdateRule>().is_err());
        let plain: UpdateRule = "sgd:lr=0.5".parse().unwrap();
        assert!(plain.with("momentum=0.5").unwrap_err().to_string().contains("state"));
    }
}
