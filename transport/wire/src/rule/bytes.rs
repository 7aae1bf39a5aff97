//! The rule as bytes, in schemas on the wire and on disk.
//!
//! ```text
//!  0        kind     0 add, 1 assign, 2 sgd, 3 adagrad, 4 adam, 5 ftrl
//!  1        flags    bit 0: nesterov (sgd) or decoupled (adam); the others 0
//!  2 ..  8  zero
//!  8 .. 48  five hyper-parameters, binary64 little-endian, unused ones zero:
//!           sgd      lr, momentum, wd
//!           adagrad  lr, eps, init, wd
//!           adam     lr, beta1, beta2, eps, wd
//!           ftrl     alpha, beta, l1, l2
//! ```
//!
//! Each valid rule has exactly one encoding, so schemas may be compared as bytes.

use super::{RuleError, UpdateRule};

const PARAMETERS_AT: usize = 8;
const PARAMETERS: usize = 5;

impl UpdateRule {
    /// Length of the encoding in bytes.
    pub const ENCODED_LENGTH: usize = PARAMETERS_AT + PARAMETERS * 8;

    /// The rule as bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::ENCODED_LENGTH] {
        let (kind, flag, parameters) = match *self {
            Self::Add => (0, false, [0.0; PARAMETERS]),
            Self::Assign => (1, false, [0.0; PARAMETERS]),
            Self::Sgd { learning_rate, momentum, nesterov, weight_decay } => {
                (2, nesterov, [learning_rate, momentum, weight_decay, 0.0, 0.0])
            }
            Self::Adagrad { learning_rate, epsilon, initial_accumulator, weight_decay } => {
                (3, false, [learning_rate, epsilon, initial_accumulator, weight_decay, 0.0])
            }
            Self::Adam { learning_rate, beta1, beta2, epsilon, weight_decay, decoupled } => {
                (4, decoupled, [learning_rate, beta1, beta2, epsilon, weight_decay])
            }
            Self::Ftrl { alpha, beta, l1, l2 } => (5, false, [alpha, beta, l1, l2, 0.0]),
        };
        let mut bytes = [0; Self::ENCODED_LENGTH];
        bytes[0] = kind;
        bytes[1] = u8::from(flag);
        for (chunk, parameter) in bytes[PARAMETERS_AT..].chunks_exact_mut(8).zip(parameters) {
            chunk.copy_from_slice(&parameter.to_le_bytes());
        }
        bytes
    }

    /// The rule of these bytes, which may come from anyone.
    ///
    /// # Errors
    /// [`DecodeRuleError`] where the bytes are not what [`UpdateRule::encode`] makes of a valid rule.
    pub fn decode(bytes: &[u8; Self::ENCODED_LENGTH]) -> Result<Self, DecodeRuleError> {
        let mut parameters = [0.0; PARAMETERS];
        for (parameter, chunk) in parameters.iter_mut().zip(bytes[PARAMETERS_AT..].chunks_exact(8))
        {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            *parameter = f64::from_le_bytes(word);
        }
        let flag = bytes[1] == 1;
        let [a, b, c, d, e] = parameters;
        let rule = match bytes[0] {
            0 => Self::Add,
            1 => Self::Assign,
            2 => Self::Sgd { learning_rate: a, momentum: b, nesterov: flag, weight_decay: c },
            3 => Self::Adagrad {
                learning_rate: a,
                epsilon: b,
                initial_accumulator: c,
                weight_decay: d,
            },
            4 => Self::Adam {
                learning_rate: a,
                beta1: b,
                beta2: c,
                epsilon: d,
                weight_decay: e,
                decoupled: flag,
            },
            5 => Self::Ftrl { alpha: a, beta: b, l1: c, l2: d },
            kind => return Err(DecodeRuleError::Kind { kind }),
        };
        rule.validate()?;
        if rule.encode() != *bytes {
            return Err(DecodeRuleError::Reserved { rule: rule.name() });
        }
        Ok(rule)
    }
}

/// Why bytes are not an update rule.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum DecodeRuleError {
    /// The kind is not one of this version.
    #[error("update rule kind {kind} is unknown; the peer or file may be of a newer version")]
    Kind {
        /// The first byte.
        kind: u8,
    },
    /// A byte that this kind does not use is not zero.
    #[error("update rule {rule} has bits set that it does not use; the bytes are damaged or newer")]
    Reserved {
        /// Name of the rule.
        rule: &'static str,
    },
    /// A hyper-parameter is out of range.
    #[error(transparent)]
    Rule(#[from] RuleError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rule::tests::samples;
    use proptest::prelude::*;

    #[test]
    fn samples_round_trip() {
        for rule in samples() {
            assert_eq!(UpdateRule::decode(&rule.encode()), Ok(rule));
        }
    }

    #[test]
    fn layout_is_fixed() {
        let bytes = "adamw:lr=0.5,wd=0.25".parse::<UpdateRule>().unwrap().encode();
        assert_eq!(bytes[..8], [4, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[8..16], [0, 0, 0, 0, 0, 0, 0xE0, 0x3F]);
        assert_eq!(bytes[40..48], [0, 0, 0, 0, 0, 0, 0xD0, 0x3F]);
    }

    #[test]
    fn every_damaged_byte_is_refused_or_another_rule() {
        for rule in samples() {
            let good = rule.encode();
            for at in 0..good.len() {
                for value in 0..=255 {
                    let mut bytes = good;
                    bytes[at] = value;
                    if let Ok(decoded) = UpdateRule::decode(&bytes) {
                        assert_eq!(decoded.encode(), bytes);
                        assert_eq!(decoded == rule, bytes == good);
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail(bytes in prop::array::uniform::<_, 48>(any::<u8>())) {
            if let Ok(rule) = UpdateRule::decode(&bytes) {
                prop_assert_eq!(rule.encode(), bytes);
            }
        }
    }
}
