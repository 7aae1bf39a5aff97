//! How the keys and values of a request are written where filters made them smaller.

use super::{RequestHeader, Rows};
use crate::{Checksum, codec::DecodeError, filter::FilterStack};

/// Which filters the body of a request went through, and how long that made it. The values of a pull are
/// those of its answer, which has a length by itself.
///
/// ```text
/// offset size
///      0    2  the filters, as [`FilterStack::to_bytes`] writes them; of the first byte bit 2 keeps the
///              keys, bit 3 uses those that were kept
///      2    2  zero
///      4    4  bytes of keys in the body; checksum of the keys that were kept
///      8    4  bytes of values, in the body or by reference; of a pull zero
///     12    4  where keys are kept
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coding {
    /// The filters.
    pub filters: FilterStack,
    /// Where the keys are.
    pub keys: CodedKeys,
    /// Bytes of values as they were written.
    pub values_len: u32,
}

/// Where the keys of a request with a coding are. Each link has an array of keys at the server, which the
/// client fills and whose places it names: nothing is ever missing there that the client believes to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CodedKeys {
    /// In the body, in so many bytes.
    Sent {
        /// Bytes as they were written.
        len: u32,
    },
    /// The same; and they are kept.
    Keep {
        /// Bytes as they were written.
        len: u32,
        /// Index of the first in the array.
        at: u32,
    },
    /// In the array.
    Kept {
        /// Index of the first in the array.
        at: u32,
        /// Their [`Checksum`], so that what went wrong is noticed.
        checksum: u32,
    },
}

impl CodedKeys {
    /// Bytes of keys in the body.
    #[must_use]
    pub fn sent_len(self) -> u32 {
        match self {
            Self::Sent { len } | Self::Keep { len, .. } => len,
            Self::Kept { .. } => 0,
        }
    }

    /// Checksum of a list of keys.
    #[must_use]
    pub fn checksum(keys: &[u64]) -> u32 {
        Checksum::of(bytemuck::cast_slice(keys)).0
    }
}

const KEEP: u8 = 4;
const KEPT: u8 = 8;

/// Most bytes that keys and values of a request with a coding have once they are decoded.
pub const DECODED_LEN_MAX: u64 = 2 << 20;

impl Coding {
    /// Length in bytes.
    pub(super) const LEN: usize = 16;

    pub(super) fn encode(&self, bytes: &mut [u8]) {
        let (flag, keys, at) = match self.keys {
            CodedKeys::Sent { len } => (0, len, 0),
            CodedKeys::Keep { len, at } => (KEEP, len, at),
            CodedKeys::Kept { at, checksum } => (KEPT, checksum, at),
        };
        bytes[..2].copy_from_slice(&self.filters.to_bytes());
        bytes[0] |= flag;
        bytes[4..8].copy_from_slice(&keys.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.values_len.to_le_bytes());
        bytes[12..].copy_from_slice(&at.to_le_bytes());
    }

    pub(super) fn decode(bytes: &[u8; Self::LEN]) -> Result<Self, DecodeError> {
        let [first, second, 0, 0, a, b, c, d, e, f, g, h, i, j, k, l] = *bytes else {
            return Err(DecodeError::Inconsistent { reason: "reserved bytes are not zero" });
        };
        let unknown = || DecodeError::Unknown {
            field: "filters",
            value: u64::from(u16::from_le_bytes([first, second])),
        };
        let filters =
            FilterStack::from_bytes([first & !(KEEP | KEPT), second]).ok_or_else(unknown)?;
        let len = u32::from_le_bytes([a, b, c, d]);
        let at = u32::from_le_bytes([i, j, k, l]);
        let keys = match first & (KEEP | KEPT) {
            0 if at == 0 => CodedKeys::Sent { len },
            KEEP => CodedKeys::Keep { len, at },
            KEPT => CodedKeys::Kept { at, checksum: len },
            _ => return Err(unknown()),
        };
        Ok(Self { filters, keys, values_len: u32::from_le_bytes([e, f, g, h]) })
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
        let is_sent = matches!(self.keys, CodedKeys::Sent { .. });
        let is_kept = matches!(self.keys, CodedKeys::Kept { .. });
        if header.rows != Rows::Keys && !(keys_are_plain && is_sent) {
            return inconsistent("a range has filters of keys");
        }
        if is_kept && !keys_are_plain {
            return inconsistent("keys that are not sent have filters");
        }
        if keys_are_plain && !is_kept && u64::from(self.keys.sent_len()) != header.keys_len() {
            return inconsistent("plain keys have another length");
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
        let is_longer = u64::from(self.keys.sent_len()) > header.keys_len()
            || u64::from(self.values_len) > pushed_len;
        if is_longer {
            return inconsistent("filters make keys or values no longer");
        }
        Ok(())
    }
}
