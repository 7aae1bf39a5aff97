//! The rule as bytes, in schemas on the wire and on disk.
//!
//! ```text
//!  0        number of the rule
//!  1        1 where its flag is on, else 0
//!  2        zero; where rules are written, see `TableSchema`
//!  3        1 where it has limits, else 0
//!  4 ..  8  zero
//!  8 .. 48  the hyper-parameters in the order of `UpdateRule::ALL`, binary64 little-endian, unused
//!           ones zero
//! 48 .. 80  its limits in the order of `Limits::KEYS`, likewise; zero, or left out, where it has none
//! ```
//!
//! Each valid rule has exactly one encoding, so schemas may be compared as bytes.

use crate::codec::{DecodeError, Reader, Wire};

use super::{Limits, PARAMETERS_MAX, Parts, RuleError, UpdateRule, limits::LIMITS_COUNT};

const LIMITED_AT: usize = 3;
const PARAMETERS_AT: usize = 8;

impl UpdateRule {
    /// Length of the encoding without limits in bytes.
    pub const PLAIN_LENGTH: usize = PARAMETERS_AT + PARAMETERS_MAX * 8;
    /// Length of the encoding in bytes.
    pub const ENCODED_LENGTH: usize = Self::PLAIN_LENGTH + LIMITS_COUNT * 8;

    /// The rule as bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; Self::ENCODED_LENGTH] {
        let Parts { number, values, flag, limits } = self.parts();
        let mut bytes = [0; Self::ENCODED_LENGTH];
        bytes[0] = number;
        bytes[1] = u8::from(flag);
        for (chunk, parameter) in bytes[PARAMETERS_AT..].chunks_exact_mut(8).zip(values) {
            chunk.copy_from_slice(&parameter.to_le_bytes());
        }
        if !limits.is_none() {
            bytes[LIMITED_AT] = 1;
            let chunks = bytes[Self::PLAIN_LENGTH..].chunks_exact_mut(8);
            for (chunk, limit) in chunks.zip(limits.values()) {
                chunk.copy_from_slice(&limit.to_le_bytes());
            }
        }
        bytes
    }

    /// The rule of these bytes, which may come from anyone.
    ///
    /// # Errors
    /// [`DecodeRuleError`] where the bytes are not what [`UpdateRule::encode`] makes of a valid rule.
    pub fn decode(bytes: &[u8; Self::ENCODED_LENGTH]) -> Result<Self, DecodeRuleError> {
        let values = numbers(&bytes[PARAMETERS_AT..]);
        let limits = match bytes[LIMITED_AT] {
            1 => Limits::of_values(numbers(&bytes[Self::PLAIN_LENGTH..])),
            _ => Limits::NONE,
        };
        let parts = Parts { number: bytes[0], values, flag: bytes[1] == 1, limits };
        let rule = Self::from_parts(&parts).ok_or(DecodeRuleError::Kind { kind: bytes[0] })?;
        rule.validate()?;
        if rule.encode() != *bytes {
            return Err(DecodeRuleError::Reserved { rule: rule.name() });
        }
        Ok(rule)
    }
}

impl Wire for UpdateRule {
    fn encode(&self, into: &mut Vec<u8>) {
        let bytes = Self::encode(self);
        let is_plain = bytes[LIMITED_AT] == 0;
        into.extend_from_slice(&bytes[..if is_plain { Self::PLAIN_LENGTH } else { bytes.len() }]);
    }

    fn decode(from: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let plain = from.array()?;
        Self::decode_behind(plain, from)
    }
}

impl UpdateRule {
    /// A rule whose encoding without limits has been read.
    pub(crate) fn decode_behind(
        plain: [u8; Self::PLAIN_LENGTH],
        from: &mut Reader<'_>,
    ) -> Result<Self, DecodeError> {
        let mut bytes = [0; Self::ENCODED_LENGTH];
        let (front, limits) = bytes.split_at_mut(Self::PLAIN_LENGTH);
        front.copy_from_slice(&plain);
        if plain[LIMITED_AT] != 0 {
            limits.copy_from_slice(from.take(limits.len())?);
        }
        Self::decode(&bytes)
            .map_err(|_| DecodeError::Inconsistent { reason: "the update rule is not valid" })
    }
}

fn numbers<const N: usize>(bytes: &[u8]) -> [f64; N] {
    let mut numbers = [0.0; N];
    for (number, chunk) in numbers.iter_mut().zip(bytes.chunks_exact(8)) {
        let mut word = [0; 8];
        word.copy_from_slice(chunk);
        *number = f64::from_le_bytes(word);
    }
    numbers
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
            let bytes = rule.to_bytes();
            let limited = if rule.limits().is_none() { 0 } else { 32 };
            assert_eq!(bytes.len(), 48 + limited, "{rule}");
            assert_eq!(UpdateRule::from_bytes(&bytes), Ok(rule));
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
        fn any_bytes_decode_or_fail(bytes in prop::array::uniform::<_, 80>(any::<u8>())) {
            if let Ok(rule) = UpdateRule::decode(&bytes) {
                prop_assert_eq!(rule.encode(), bytes);
            }
        }
    }
}
