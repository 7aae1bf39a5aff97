//! How the keys and values of a request are written where filters made them smaller.

use super::{RequestHeader, Rows};
use crate::{codec::DecodeError, filter::FilterStack};

/// Which filters the body of a request went through, and how long that made it. The values of a pull are
/// those of its answer, which has a length by itself.
///
/// ```text
/// offset size
///      0    2  the filters, as [`FilterStack::to_bytes`] writes them
///      2    2  zero
///      4    4  bytes of keys in the body
///      8    4  bytes of values, in the body or by reference; of a pull zero
///     12    4  zero
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coding {
    /// The filters.
    pub filters: FilterStack,
    /// Bytes of keys as they were written.
    pub keys_len: u32,
    /// Bytes of values as they were written.
    pub values_len: u32,
}

/// Most bytes that keys and values of a request with a coding have once they are decoded.
pub const DECODED_LEN_MAX: u64 = 2 << 20;

impl Coding {
    /// Length in bytes.
    pub(super) const LEN: usize = 16;

    pub(super) fn encode(&self, bytes: &mut [u8]) {
        bytes[..2].copy_from_slice(&self.filters.to_bytes());
        bytes[4..8].copy_from_slice(&self.keys_len.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.values_len.to_le_bytes());
    }

    pub(super) fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, DecodeError> {
        let [first, second, 0, 0, a, b, c, d, e, f, g, h, 0, 0, 0, 0] = *bytes else {
            return Err(DecodeError::Inconsistent { reason: "reserved bytes are not zero" });
        };
        let filters = FilterStack::from_bytes([first, second]).ok_or(DecodeError::Unknown {
            field: "filters",
            value: u64::from(u16::from_le_bytes([first, second])),
        })?;
        let keys_len = u32::from_le_bytes([a, b, c, d]);
        Ok(Self { filters, keys_len, values_len: u32::from_le_bytes([e, f, g, h]) })
    }

    /// Checks it against the rest of its header.
    pub(super) fn check(&self, header: &RequestHeader) -> Result<(), DecodeError> {
        let inconsistent = |reason| Err(DecodeError::Inconsistent { reason });
        let filters = &self.filters;
        if !header.kind.pushes() && !header.kind.pulls()
            || matches!(header.rows, Rows::Partition { .. })
        {
            return inconsistent("a request about no rows has filters");
        }
        if filters.check(header.dtype).is_err() {
            return inconsistent("values of this type do not go through such filters");
        }
        let pushed_len = if header.kind.pushes() { header.values_len() } else { 0 };
        let decoded = header.keys_len() + pushed_len;
        if decoded > DECODED_LEN_MAX {
            return Err(DecodeError::TooLong {
                field: "decoded length",
                value: decoded,
                max: DECODED_LEN_MAX,
            });
        }
        let keys_are_plain = !filters.delta_keys && !filters.snappy_keys;
        if keys_are_plain && u64::from(self.keys_len) != header.keys_len() {
            return inconsistent("plain keys have another length");
        }
        if header.rows != Rows::Keys && !keys_are_plain {
            return inconsistent("a range has filters of keys");
        }
        let coded_len = match usize::try_from(pushed_len) {
            Ok(len) if header.kind.pushes() => filters.values.encoded_len(len) as u64,
            _ => 0,
        };
        if filters.snappy_values && !header.kind.pushes() {
            return inconsistent("an answer's length would not be known before");
        }
        if u64::from(self.values_len) != coded_len && !filters.snappy_values {
            return inconsistent("values have another length than their filters give them");
        }
        Ok(())
    }
}
