//! The rule as bytes, in schemas on the wire and on disk.
//!
//! ```text
//!  0        number of the rule
//!  1        1 where its flag is on, else 0
//!  2 ..  8  zero
//!  8 .. 48  the hyper-parameters in the order of `UpdateRule::ALL`, binary64 little-endian, unused
//!           ones zero
//! ```
//!
//! Each valid rule has exactly one encoding, so schemas may be compared as bytes.

use super::{PARAMETERS_MAX, Parts, RuleError, UpdateRule};

const PARAMETERS_AT: usize = 8;

impl UpdateRule {
    /// Length of the encoding in bytes.
    pub const ENCODED_LENGTH: usize = PARAMETERS_AT + PARAMETERS_MAX * 8;

    /// The rule as bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::ENCODED_LENGTH] {
        let Parts { number, values, flag } = self.parts();
        let mut bytes = [0; Self::ENCODED_LENGTH];
        bytes[0] = number;
        bytes[1] = u8::from(flag);
        for (chunk, parameter) in bytes[PARAMETERS_AT..].chunks_exact_mut(8).zip(values) {
            chunk.copy_from_slice(&parameter.to_le_bytes());
        }
        bytes
    }

    /// The rule of these bytes, which may come from anyone.
    ///
    /// # Errors
    /// [`DecodeRuleError`] where the bytes are not what [`UpdateRule::encode`] makes of a valid rule.
    pub fn decode(bytes: &[u8; Self::ENCODED_LENGTH]) -> Result<Self, DecodeRuleError> {
        let mut values = [0.0; PARAMETERS_MAX];
        for (value, chunk) in values.iter_mut().zip(bytes[PARAMETERS_AT..].chunks_exact(8)) {
            let mut word = [0; 8];
            word.copy_from_slice(chunk);
            *value = f64::from_le_bytes(word);
        }
        let rule = Self::from_parts(&Parts { number: bytes[0], values, flag: bytes[1] == 1 })
            .ok_or(DecodeRuleError::Kind { kind: bytes[0] })?;
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
